"""Passes over samples without training: the head's scores, and the likelihood of each choice's response."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from netgpt.trainers import distributed
from netgpt.trainers.language.memory import named_out_of_memory
from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
from netgpt.trainers.language.samples import Samples
from netgpt.trainers.progress import OnProgress


@torch.no_grad()
def over_all(
    model: PackedLM,
    samples: Samples,
    packs: list[list[int]],
    width: int,
    run: Callable[[list[int]], torch.Tensor],
    progress: OnProgress | None,
) -> np.ndarray:
    """Values [n, width] of all samples on every rank, from `run(pack) -> [pack, width]`."""
    was_training = model.training
    model.eval()
    values = torch.zeros(len(samples), width, dtype=torch.float64, device=samples.device)
    for done, pack in enumerate(packs):
        if pack:
            num_tokens = int(samples.lengths[pack].sum())
            with named_out_of_memory("evaluation", num_tokens, num_tokens):
                values[pack] = run(pack).double().to(values.device)
        if progress:
            progress(done + 1, len(packs))
    model.train(was_training)
    return distributed.sum_across_ranks(values).cpu().numpy()


def score_samples(
    model: NetGPT, samples: Samples, budget: int, progress: OnProgress | None = None
) -> np.ndarray:
    """Stage 3's score of every sample, unclipped: [n] float64, or [n, width], on every rank."""
    width = model.head.out_features

    def run(pack: list[int]) -> torch.Tensor:
        return model.scores(samples.batch(pack)).view(len(pack), width)

    scores = over_all(model, samples, list(samples.passes(budget)), width, run, progress)
    return scores[:, 0] if width == 1 else scores


def choice_log_probs(
    model: PackedLM, samples: Samples, budget: int, progress: OnProgress | None = None
) -> np.ndarray:
    """Log-probability of each choice's response: [n, choices] float64, on every rank.

    A choice is scored by its response up to its answer; where one begins as another ends, which would always
    be likelier, with the token that closes it. Where all differ in one last token alone (and so share all
    logits) one pass serves all; else each choice is a sample of its own.
    """
    builder = samples.builder
    responses = [builder.scored_response(choice) for choice in range(builder.num_choices)]
    whole = [tuple(response.tolist()) for response in responses]
    if any(a != b and b[: len(a)] == a for a in whole for b in whole):
        closed = [builder.response(choice) for choice in range(builder.num_choices)]
        responses = [r[: len(scored) + 1] for r, scored in zip(closed, responses, strict=True)]
    stem = responses[0][:-1]
    one_token = all(len(r) == len(stem) + 1 and (r[:-1] == stem).all() for r in responses)
    longest = max(len(r) for r in responses)
    packs = list(samples.passes(budget, longest))
    if one_token:
        last = torch.from_numpy(np.array([r[-1] for r in responses])).to(samples.device)

        def run(pack: list[int]) -> torch.Tensor:
            batch = samples.batch(pack, [stem] * len(pack))
            h_LH = model.hidden_states(batch)
            end_n = batch.begin_n + torch.tensor(batch.lengths, device=samples.device)
            stem_n = batch.begin_n + batch.prompt_n
            positions = torch.stack([torch.arange(a - 1, b) for a, b in zip(stem_n, end_n, strict=True)])
            logits_nrV = model.logits(h_LH[positions.to(samples.device)]).log_softmax(-1)
            ids = torch.from_numpy(stem).to(samples.device)
            shared = logits_nrV[:, torch.arange(len(stem)), ids].sum(1)
            return shared[:, None] + logits_nrV[:, -1, last]

    else:

        def run(pack: list[int]) -> torch.Tensor:
            columns = []
            for response in responses:
                batch = samples.batch(pack, [response] * len(pack))
                log_probs, sample = model.response_log_probs(batch)
                total = torch.zeros(len(pack), device=samples.device)
                columns.append(total.index_add(0, sample, log_probs))
            return torch.stack(columns, dim=1)

    return over_all(model, samples, packs, builder.num_choices, run, progress)


def expected_value(log_probs: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The mean of the choices' values [choices] under their responses' probabilities. [n, choices] → [n]."""
    p = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)) @ values
