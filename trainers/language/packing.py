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
class PackStep:
    """Packs of one optimiser step: sample numbers, or an empty list for a filler of weight zero."""

    packs: list[list[int]]

    def of_rank(self, rank: int, world_size: int) -> list[list[int]]:
        return self.packs[rank::world_size]

    @property
    def samples(self) -> list[int]:
        return [i for p in self.packs for i in p]


def plan_packs(
    lengths: np.ndarray, *, budget: int, packs_per_step: int, seed: tuple[int, ...]
) -> list[PackStep]:
    """Optimiser steps of one epoch over all samples, shuffled by `seed`."""
    rng = np.random.default_rng(list(seed))
    packs = pack(lengths, rng.permutation(len(lengths)), budget)
    packs = [packs[i] for i in rng.permutation(len(packs))]  # the packs of a step are not alike
    packs += [[] for _ in range(-len(packs) % packs_per_step)]
    return [PackStep(packs[i : i + packs_per_step]) for i in range(0, len(packs), packs_per_step)]


@dataclass(frozen=True)
class PackedBatch:
    """One pack on a device. Positions count from 0 in every sample; samples do not see each other."""

    input_ids_L: torch.Tensor  # int64
    text_position_ids_L: torch.Tensor  # int64: place of each token in its sample
    position_ids_3L: torch.Tensor  # int64: M-RoPE, time, height and width; all three the place without video
    begin_n: torch.Tensor  # int64: first token of each sample
    prompt_n: torch.Tensor  # int64: tokens of each sample's prompt
    lengths: list[int]
    offsets: torch.Tensor  # int32 [n + 1]: first token of each sample, and L
    graph_nD: torch.Tensor | None = None  # float32: what the projector reads
    start_n: torch.Tensor | None = None  # float32: scores that the head's are added to
    pixels: torch.Tensor | None = None  # patches of all videos, as the model's processor makes them
    video_grid: torch.Tensor | None = None  # int64 [videos, 3]: patches in time, height and width
    forks: list[tuple[int, int]] | None = None
    """Of each sample the length of its prompt, and that of both prompt and first answer, where each has a
    second one behind it that sees the prompt alone, at the same places as the first."""

    @property
    def last_prompt_token_n(self) -> torch.Tensor:
        """Position in the pack of each prompt's last token, the newline after the assistant marker."""
        return self.begin_n + self.prompt_n - 1


def collate(
    prompts: list[np.ndarray],
    responses: list[np.ndarray],
    device: torch.device,
    *,
    graph: np.ndarray | None = None,
    start: np.ndarray | None = None,
    positions: list[np.ndarray] | None = None,
    pixels: torch.Tensor | None = None,
    video_grid: torch.Tensor | None = None,
    first_answers: list[int] | None = None,
) -> PackedBatch:
    """One pack of samples: each a prompt followed by a response (empty for scoring by the head).

    first_answers: of each response the tokens of the first of its two answers, where both follow the prompt.

    graph [n, D] float32. start [n] float32: scores that the head's are added to. positions: M-RoPE of each
    prompt, [3, its length], where it has video.
    """
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    ids = np.concatenate([part for pair in zip(prompts, responses, strict=True) for part in pair])
    begin = np.cumsum([0, *lengths])
    behind = [_places(len(r), a) for r, a in zip(responses, first_answers or [0] * len(lengths), strict=True)]
    places = np.concatenate(
        [np.r_[np.arange(len(p)), len(p) + places] for p, places in zip(prompts, behind, strict=True)]
    )
    rope = np.broadcast_to(places, (3, len(places)))
    if positions is not None:
        # A response goes on where its prompt's positions end, which video makes shorter than its tokens
        rope = np.concatenate(
            [
                np.concatenate([p, np.broadcast_to(p.max() + 1 + places, (3, len(places)))], axis=1)
                for p, places in zip(positions, behind, strict=True)
            ],
            axis=1,
        )

    def tensor(values: object) -> torch.Tensor:
        return torch.from_numpy(np.array(values, np.int64)).to(device)

    return PackedBatch(
        input_ids_L=tensor(ids),
        text_position_ids_L=tensor(places),
        position_ids_3L=tensor(rope),
        begin_n=tensor(begin[:-1]),
        prompt_n=tensor([len(p) for p in prompts]),
        lengths=lengths,
        offsets=torch.from_numpy(begin.astype(np.int32)).to(device),
        graph_nD=None if graph is None else torch.from_numpy(graph).to(device),
        start_n=None if start is None else torch.from_numpy(start).to(device),
        pixels=None if pixels is None else pixels.to(device),
        video_grid=None if video_grid is None else video_grid.to(device),
        forks=None
        if first_answers is None
        else [(len(p), len(p) + a) for p, a in zip(prompts, first_answers, strict=True)],
    )


def _places(num: int, first: int) -> np.ndarray:
    """Places of a response's tokens behind its prompt; of two answers, both from 0: [num]."""
    return np.r_[np.arange(first), np.arange(num - first)] if first else np.arange(num)
