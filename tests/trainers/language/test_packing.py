"""Packs and batches against arithmetic."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt.trainers.language.packing import collate, pack, plan_packs

CPU = torch.device("cpu")
NOTHING = np.empty(0, np.int64)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 50), max_size=80), st.integers(50, 120), st.integers(0, 5))
def test_packs_hold_every_sample_once_within_the_budget(lengths: list[int], budget: int, seed: int) -> None:
    array = np.array(lengths, np.int64)
    packs = pack(array, np.random.default_rng(seed).permutation(len(array)), budget)
    assert sorted(i for p in packs for i in p) == list(range(len(lengths)))
    assert all(array[p].sum() <= budget for p in packs)
    steps = plan_packs(array, budget=budget, packs_per_step=4, seed=(seed,))
    assert sorted(i for s in steps for i in s.samples) == list(range(len(lengths)))
    for step in steps:
        for world_size in (1, 2, 4):
            parts = [step.of_rank(rank, world_size) for rank in range(world_size)]
            assert all(len(part) == 4 // world_size for part in parts)
            assert sorted(map(str, (p for part in parts for p in part))) == sorted(map(str, step.packs))


def test_packing_wastes_little() -> None:
    lengths = np.random.default_rng(0).integers(200, 500, 1000)
    packs = pack(lengths, np.arange(1000), 2048)
    assert lengths.sum() / (len(packs) * 2048) > 0.95


def test_collate_counts_positions_from_zero_in_every_sample() -> None:
    batch = collate([np.array([5, 6]), np.array([7])], [np.array([8]), NOTHING], CPU)
    assert batch.input_ids_L.tolist() == [5, 6, 8, 7]
    assert batch.text_position_ids_L.tolist() == [0, 1, 2, 0]
    assert batch.position_ids_3L.tolist() == [[0, 1, 2, 0]] * 3
    assert batch.last_prompt_token_n.tolist() == [1, 3]
    assert batch.lengths == [3, 1] and batch.offsets.tolist() == [0, 3, 4]
