"""Answers drawn from a model and put in order, and the log-probabilities of both at the start."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from netgpt.trainers import distributed
from netgpt.trainers.language.generation import number_writer, stated_number
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.language.nucleus import Nucleus
from netgpt.trainers.language.packing import plan_packs
from netgpt.trainers.language.preference.config import PairsConfig
from netgpt.trainers.language.preference.pairs import Pairs
from netgpt.trainers.language.samples import Samples
from netgpt.trainers.language.scoring import over_all
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.tasks.base import Task

UNPARSED, SAME_TEXT, TIES = "without_a_number", "of_one_text", "of_equal_errors"
_PAD = -1


def draw_pairs(
    model: PackedLM,
    task: Task,
    samples: Samples,
    truth: np.ndarray,
    config: PairsConfig,
    seed: int,
    budget: int,
    progress: OnProgress | None = None,
) -> tuple[Pairs, dict[str, int]]:
    """Pairs without a reference, and how many prompts have none, by reason. truth [n]: labels of the samples.
    Every rank calls this, and all get the same."""
    drawn = _drawn(model, task, samples, Nucleus(config, samples.ids, seed, num=2), budget, progress)
    counts = dict.fromkeys((UNPARSED, SAME_TEXT, TIES), 0)
    nodes, answers, errors = [], [], []
    builder = samples.builder
    for i, node in enumerate(samples.ids.tolist()):
        both = [tokens[tokens != _PAD] for tokens in drawn[i]]
        read = [stated_number(builder, task, tokens) for tokens in both]
        if read[0] is None or read[1] is None:
            counts[UNPARSED] += 1
            continue
        # As it would be written: of decimals alone equal errors are equal
        right = task.read(task.written(float(truth[i])))
        assert right is not None
        apart = [round(abs(one - right), 9) for one in (read[0], read[1])]
        if np.array_equal(*both) or builder.text(both[0]) == builder.text(both[1]):
            counts[SAME_TEXT] += 1
        elif apart[0] == apart[1]:
            counts[TIES] += 1
        else:
            order = (0, 1) if apart[0] < apart[1] else (1, 0)
            nodes.append(node)
            answers.append([both[j] for j in order])
            errors.append([apart[j] for j in order])
    made = np.array(errors, np.float64).reshape(-1, 2)
    return Pairs.of(np.array(nodes, np.int64), answers, made), counts


def _drawn(
    model: PackedLM, task: Task, samples: Samples, draws: Nucleus, budget: int, progress: OnProgress | None
) -> np.ndarray:
    """Tokens of the drawn answers of each sample, ended by the closing token: [n, draws, longest], padded."""
    generator, packs = number_writer(model, task, samples, budget, draws)
    longest = generator.max_new

    def run(pack: list[int]) -> torch.Tensor:
        rows = [
            [token for text in texts for token in [*text, *[_PAD] * (longest - len(text))]]
            for texts in generator.drawn(pack)
        ]
        return torch.tensor(rows, dtype=torch.float64)

    values = over_all(model, samples, packs, draws.num * longest, run, progress)
    return values.round().astype(np.int64).reshape(len(samples), draws.num, longest)


@torch.no_grad()
def with_reference(model: PackedLM, samples: Samples, pairs: Pairs, weights_of: str, budget: int) -> Pairs:
    """The pairs with both answers' log-probabilities under the model. samples: of the pairs' nodes, in their
    order. Every rank calls this, and all get the same."""
    was_training = model.training
    model.eval()
    answers = [pairs.answers(i) for i in range(len(pairs))]
    lengths = 2 * samples.lengths + np.array([sum(map(len, both)) for both in answers], np.int64)
    largest = max(budget, int(lengths.max(initial=0)))
    found = torch.zeros(len(pairs), 2, dtype=torch.float64, device=samples.device)
    world = distributed.world_size()
    for step in plan_packs(lengths, budget=largest, packs_per_step=world, seed=(0,)):
        pack = step.packs[distributed.rank()]
        if not pack:
            continue
        batch = samples.batch([i for i in pack for _ in range(2)], [one for i in pack for one in answers[i]])
        log_probs, of = model.response_log_probs(batch)
        sums = torch.zeros(2 * len(pack), device=samples.device).index_add(0, of, log_probs)
        found[pack] = sums.view(-1, 2).double()
    model.train(was_training)
    reference = distributed.sum_across_ranks(found).cpu().numpy()
    return replace(pairs, reference=reference, weights_of=weights_of)
