"""Gated attention over neighbours: kernels against a loop over pairs, and torch's own gradients."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from netgpt.trainers.recommend.attention import GATES, Sides, by_pairs, gated_attention
from netgpt.trainers.recommend.neighbors import Bipartite
from netgpt.trainers.recommend.pairs import Pairs

HEADS, TAILS = 7, 9


def case(seed: int, width: int = 4) -> tuple[Pairs, Sides, list[Tensor]]:
    """Random pairs, of which the last head and tail have none; q, k, a, b, v in float64."""
    rng = np.random.default_rng(seed)
    heads, tails = np.nonzero(rng.random((HEADS - 1, TAILS - 1)) < 0.4)
    pairs = Pairs.of(heads, tails, HEADS, TAILS)
    graph = Bipartite(pairs)
    sizes = (HEADS, TAILS, HEADS, TAILS, TAILS)
    tensors = [torch.from_numpy(rng.normal(size=(n, width))).requires_grad_() for n in sizes]
    return pairs, Sides(graph.of_users, graph.of_items), tensors


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_hand(pairs: Pairs, tensors: list[Tensor], head: int, gate: str, attends: bool) -> np.ndarray:
    q, k, a, b, v = (one.detach().numpy() for one in tensors)
    weights, gates = [], []
    for tail in pairs.of_user(head).tolist():
        opened = sigmoid(float(a[head] @ b[tail]))
        score = float(q[head] @ k[tail]) if attends else 0.0
        weights.append(math.exp(score * opened if gate == "inside" else score))
        gates.append(opened if gate == "outside" else 1.0)
    total = np.zeros(v.shape[1])
    for tail, weight, opened in zip(pairs.of_user(head).tolist(), weights, gates, strict=True):
        total += weight / sum(weights) * opened * v[tail]
    return total


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), gate=st.sampled_from(sorted(GATES)), attends=st.booleans())
def test_it_is_the_sum_of_a_loop_over_pairs(seed: int, gate: str, attends: bool) -> None:
    pairs, sides, tensors = case(seed)
    for made in (gated_attention, by_pairs):
        found = made(*tensors, sides, gate=gate, attends=attends).detach().numpy()
        for head in range(HEADS):
            np.testing.assert_allclose(found[head], by_hand(pairs, tensors, head, gate, attends), atol=1e-12)
    assert not found[HEADS - 1].any()


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("attends", [True, False])
@pytest.mark.parametrize("wanted", [None, [4, 0, 2]])
def test_its_gradients_are_those_of_differences(gate: str, attends: bool, wanted: list[int] | None) -> None:
    _, sides, tensors = case(3)
    rows = None if wanted is None else torch.tensor(wanted)

    def run(*some: Tensor) -> Tensor:
        q, k, a, b, v = some
        return gated_attention(q, k, a, b, v, sides, rows, gate=gate, attends=attends)

    assert torch.autograd.gradcheck(run, tensors)
    found = run(*tensors)
    expected = by_pairs(*tensors, sides, rows, gate=gate, attends=attends)
    torch.testing.assert_close(found, expected)
    if wanted is not None:
        others = [head for head in range(HEADS) if head not in wanted]
        assert not found[others].any() and found[wanted].any(dim=1).all()


def test_scores_that_are_large_stay_finite_and_threads_change_nothing() -> None:
    import numba

    _, sides, tensors = case(5)
    scaled = [(one.detach().float() * 200).requires_grad_() for one in tensors]
    results = []
    for threads in (1, 2):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
        found = gated_attention(*scaled, sides)
        results.append([found, *torch.autograd.grad(found.square().sum(), scaled)])
    assert all(torch.isfinite(one).all() for one in results[0])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))
