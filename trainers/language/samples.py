"""The samples of a language stage: tokens and embedding rows of states, and passes over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from graphstore import Graph
from trainers import distributed
from trainers.language.model import NetGPT
from trainers.language.packing import PackedBatch, collate, plan
from trainers.language.prompt import NUM_LEVELS, PromptBuilder

_NOTHING = np.empty(0, np.int64)
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GraphScale:
    """Mean [D] of the embeddings of the train states and their root mean square distance from it.

    h_v has no scale of its own. Scaled, it has length 1 on average, as long as the projector's bias is:
    a language model normalises each token, and of a vector much longer than the bias only the
    direction would be left. (One scale for all places: those in which h_v varies most are those that
    stage 1 has found worth it. No layer norm: it would take away how large h_v is.)
    """

    mean: np.ndarray
    length: float

    @staticmethod
    def of(embeddings: np.ndarray, train: np.ndarray) -> GraphScale:
        rows = np.asarray(embeddings[train], np.float64)
        return GraphScale(rows.mean(0), max(float(np.sqrt(rows.var(0).sum())), 1e-6))

    def apply(self, rows: np.ndarray) -> np.ndarray:
        """[n, D] → [n, D] float32."""
        return ((rows - self.mean) / self.length).astype(np.float32)


class Samples:
    """Prompts of states, and packs of them with the rows of the embedding cache that they need.

    ids [n]: video node numbers. embeddings [N, D]: rows by node number, mapped; only the rows of a
    pack are ever copied. scale: of the run's cache and train states, also for states of another graph.
    """

    def __init__(
        self,
        graph: Graph,
        ids: np.ndarray,
        embeddings: np.ndarray,
        scale: GraphScale,
        builder: PromptBuilder,
        device: torch.device,
    ) -> None:
        self.ids, self.embeddings, self.scale = ids, embeddings, scale
        self.builder, self.device = builder, device
        self.prompts = [builder.prompt(graph.ids[v], graph.texts[v]).ids for v in ids.tolist()]

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, samples: Sequence[int], responses: Sequence[np.ndarray] | None = None) -> PackedBatch:
        """A pack of the given samples (positions in `ids`), each with its response."""
        prompts = [self.prompts[i] for i in samples]
        rows = [int(self.ids[i]) for i in samples]
        return collate(prompts, list(responses or [_NOTHING] * len(samples)), rows, self.device)

    def graph_states(self, batch: PackedBatch) -> torch.Tensor:
        """h_v of each sample of a pack, scaled: [n, D] float32."""
        rows = self.scale.apply(self.embeddings[batch.rows_n.cpu().numpy()])
        return torch.from_numpy(rows).to(self.device)

    def passes(self, budget: int, extra_tokens: int = 0) -> Iterator[list[int]]:
        """This rank's packs of one pass over all samples, each in exactly one rank's pack."""
        lengths = np.array([len(p) + extra_tokens for p in self.prompts])
        world_size = distributed.world_size()
        for step in plan(lengths, budget=budget, packs_per_step=world_size, seed=(0,)):
            yield step.packs[distributed.rank()]


@torch.no_grad()
def _over_all(
    model: NetGPT,
    samples: Samples,
    packs: list[list[int]],
    width: int,
    run: Callable[[list[int]], torch.Tensor],
    progress: Progress | None,
) -> np.ndarray:
    """Values [n, width] of all samples on every rank, from `run(pack) -> [pack, width]`."""
    was_training = model.training
    model.eval()
    values = torch.zeros(len(samples), width, dtype=torch.float64, device=samples.device)
    for done, pack in enumerate(packs):
        if pack:
            values[pack] = run(pack).double()
        if progress:
            progress(done + 1, len(packs))
    model.train(was_training)
    return distributed.sum_across_ranks(values).cpu().numpy()


def score_samples(
    model: NetGPT, samples: Samples, budget: int, progress: Progress | None = None
) -> np.ndarray:
    """Stage 3's score of every sample, unclipped: [n] float64, on every rank."""

    def run(pack: list[int]) -> torch.Tensor:
        batch = samples.batch(pack)
        return model.scores(batch, samples.graph_states(batch))[:, None]

    return _over_all(model, samples, list(samples.passes(budget)), 1, run, progress)[:, 0]


def level_log_probs(
    model: NetGPT, samples: Samples, budget: int, progress: Progress | None = None
) -> np.ndarray:
    """Stage 2's log-probability of each level's response: [n, 10] float64, on every rank.

    A level is scored by its response up to the level. Where the ten differ in one last token alone
    (and so share all logits) one pass serves all ten; else each level is a sample of its own.
    """
    builder = samples.builder
    responses = [builder.scored_response(level) for level in range(NUM_LEVELS)]
    stem = responses[0][:-1]
    one_token = all(len(r) == len(stem) + 1 and (r[:-1] == stem).all() for r in responses)
    longest = max(len(r) for r in responses)
    packs = list(samples.passes(budget, longest))
    if one_token:
        last = torch.from_numpy(np.array([r[-1] for r in responses])).to(samples.device)

        def run(pack: list[int]) -> torch.Tensor:
            batch = samples.batch(pack, [stem] * len(pack))
            h_LH = model.hidden_states(batch, samples.graph_states(batch))
            end_n = batch.begin_n + torch.tensor(batch.lengths, device=samples.device)
            stem_n = batch.begin_n + batch.prompt_n
            positions = torch.stack([torch.arange(a - 1, b) for a, b in zip(stem_n, end_n, strict=True)])
            logits_nrV = model.base.lm_head(h_LH[positions.to(samples.device)]).float().log_softmax(-1)
            ids = torch.from_numpy(stem).to(samples.device)
            shared = logits_nrV[:, torch.arange(len(stem)), ids].sum(1)
            return shared[:, None] + logits_nrV[:, -1, last]

    else:

        def run(pack: list[int]) -> torch.Tensor:
            columns = []
            for response in responses:
                batch = samples.batch(pack, [response] * len(pack))
                log_probs, sample = model.response_log_probs(batch, samples.graph_states(batch))
                total = torch.zeros(len(pack), device=samples.device)
                columns.append(total.index_add(0, sample, log_probs))
            return torch.stack(columns, dim=1)

    return _over_all(model, samples, packs, NUM_LEVELS, run, progress)


def expected_level(log_probs: np.ndarray) -> np.ndarray:
    """Stage 2's score: the mean level under the ten responses' probabilities. [n, 10] → [n]."""
    p = np.exp(log_probs - log_probs.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)) @ np.arange(NUM_LEVELS)
