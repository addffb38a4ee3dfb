"""Samples packed to a token budget: what a rank runs at once, and what an optimiser step is.

A plan depends on the seed and the epoch alone, never on the world size: a step is a fixed number of
packs, filled up with packs of weight zero, dealt to the ranks in turn.

Shape suffixes: L tokens of a pack, n samples of a pack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

OPEN_PACKS = 16


def pack(lengths: np.ndarray, order: np.ndarray, budget: int) -> list[list[int]]:
    """Best fit over a window of open packs: sample numbers of each pack, at most `budget` tokens in it.

    lengths [N]: tokens of each sample, none above the budget. order: sample numbers in the order to
    take them; each is in exactly one pack.
    """
    done: list[list[int]] = []
    open_packs: list[tuple[int, list[int]]] = []  # (room, samples)
    for i in order:
        length = int(lengths[i])
        fits = [p for p in range(len(open_packs)) if open_packs[p][0] >= length]
        if fits:
            best = min(fits, key=lambda p: open_packs[p][0])
            room, samples = open_packs[best]
            samples.append(int(i))
            open_packs[best] = (room - length, samples)
        else:
            if len(open_packs) == OPEN_PACKS:
                fullest = min(range(OPEN_PACKS), key=lambda p: open_packs[p][0])
                done.append(open_packs.pop(fullest)[1])
            open_packs.append((budget - length, [int(i)]))
    return done + [samples for _, samples in open_packs]


@dataclass(frozen=True)
class Step:
    """Packs of one optimiser step: sample numbers, or an empty list for a filler of weight zero."""

    packs: list[list[int]]

    def of_rank(self, rank: int, world_size: int) -> list[list[int]]:
        return self.packs[rank::world_size]

    @property
    def samples(self) -> list[int]:
        return [i for p in self.packs for i in p]


def plan(lengths: np.ndarray, *, budget: int, packs_per_step: int, seed: tuple[int, ...]) -> list[Step]:
    """Optimiser steps of one epoch over all samples, shuffled by `seed`."""
    rng = np.random.default_rng(list(seed))
    packs = pack(lengths, rng.permutation(len(lengths)), budget)
    packs = [packs[i] for i in rng.permutation(len(packs))]  # the packs of a step are not alike
    packs += [[] for _ in range(-len(packs) % packs_per_step)]
    return [Step(packs[i : i + packs_per_step]) for i in range(0, len(packs), packs_per_step)]


@dataclass(frozen=True)
class PackedBatch:
    """One pack on a device. Positions count from 0 in every sample; samples do not see each other."""

    input_ids_L: torch.Tensor  # int64
    position_ids_L: torch.Tensor  # int64
    begin_n: torch.Tensor  # int64: first token of each sample
    prompt_n: torch.Tensor  # int64: tokens of each sample's prompt
    lengths: list[int]
    rows_n: torch.Tensor  # int64: row of the embedding cache (video node number) of each sample

    @property
    def last_prompt_token_n(self) -> torch.Tensor:
        """Position in the pack of each prompt's last token, the newline after the assistant marker."""
        return self.begin_n + self.prompt_n - 1


def collate(
    prompts: list[np.ndarray], responses: list[np.ndarray], rows: list[int], device: torch.device
) -> PackedBatch:
    """One pack of samples: each a prompt followed by a response (empty for scoring by the head)."""
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    ids = np.concatenate([part for pair in zip(prompts, responses, strict=True) for part in pair])
    begin = np.cumsum([0, *lengths[:-1]])

    def tensor(values: object) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values, np.int64)).to(device)

    return PackedBatch(
        input_ids_L=tensor(ids),
        position_ids_L=tensor(np.concatenate([np.arange(n) for n in lengths])),
        begin_n=tensor(begin),
        prompt_n=tensor([len(p) for p in prompts]),
        lengths=lengths,
        rows_n=tensor(rows),
    )
