"""Rows are uniform and independent. Seeds are fixed: a test fails always or never."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sampling_reference import one_row_graph
from scipy import stats

from netgpt.sampler import NeighborSampler


def sampled(degree: int, layout: str, num_tails: int, fanout: int, epoch: int) -> np.ndarray:
    """Heads of each tail: [num_tails, fanout] node numbers."""
    graph = one_row_graph(degree, num_tails, layout)
    sampler = NeighborSampler(graph, fanout=fanout, hops=1, seed=11)
    batch = sampler.sample(np.arange(degree, degree + num_tails), epoch)
    heads = batch.nodes["n"][batch.heads["n", "to", "n"]]
    return heads.reshape(num_tails, fanout)


@pytest.mark.parametrize("layout", ["prefix", "csr"])
@pytest.mark.parametrize("degree", [51, 64, 100, 1_000, 10_000])
def test_heads_are_uniform_and_distinct(degree: int, layout: str) -> None:
    num_tails, fanout = 400, 50
    rows = np.concatenate([sampled(degree, layout, num_tails, fanout, epoch) for epoch in range(5)])
    assert rows.min() >= 0 and rows.max() < degree
    ordered = np.sort(rows, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    expected = len(rows) * fanout / degree
    counts = np.bincount(rows.ravel(), minlength=degree)
    # Without replacement: a count's variance is that of the hypergeometric distribution
    chi2 = ((counts - expected) ** 2 / (expected * (1 - fanout / degree))).sum() * (degree - 1) / degree
    assert 1e-4 < stats.chi2.sf(chi2, degree - 1) < 1 - 1e-4


def test_pairs_of_heads_are_uniform() -> None:
    """Every pair of heads is in a sample with probability k (k − 1) / n (n − 1)."""
    degree, fanout = 20, 5
    rows = sampled(degree, "csr", 20_000, fanout, 0)
    pairs = Counter()
    for row in rows:
        pairs.update((int(a), int(b)) for a in row for b in row if a < b)
    share = len(rows) * fanout * (fanout - 1) / (degree * (degree - 1))
    assert len(pairs) == degree * (degree - 1) // 2
    assert all(abs(n - share) < 6 * share**0.5 for n in pairs.values())


@pytest.mark.parametrize("degree", [51, 1_000])
def test_rows_and_epochs_are_independent(degree: int) -> None:
    """Two samples of k of n heads share k² / n of them, hypergeometrically, if they are independent."""
    num, fanout = 4_000, 50
    first, second = (sampled(degree, "prefix", num, fanout, epoch) for epoch in (0, 1))

    def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        members = np.zeros((len(a), degree), bool)
        np.put_along_axis(members, a, True, axis=1)
        return np.take_along_axis(members, b, axis=1).sum(1)

    law = stats.hypergeom(degree, fanout, fanout)
    for shared in (
        overlaps(first, second),
        overlaps(first[:-1], first[1:]),
        overlaps(first[:-7], second[7:]),
    ):
        values = np.flatnonzero(law.pmf(np.arange(fanout + 1)) * len(shared) > 5)
        counts = np.array([*((shared == n).sum() for n in values), 0])
        expected = np.array([*law.pmf(values), 0])
        counts[-1], expected[-1] = len(shared) - counts.sum(), 1 - expected.sum()
        keep = expected > 1e-9
        assert stats.chisquare(counts[keep], expected[keep] * len(shared)).pvalue > 1e-4


def test_draws_with_replacement_are_uniform_and_repeat() -> None:
    degree, num, fanout = 40, 3_000, 25
    graph = one_row_graph(degree, num, "prefix")
    sampler = NeighborSampler(graph, fanout=fanout, hops=1, replace=True)
    batch = sampler.sample(np.arange(degree, degree + num))
    rows = batch.nodes["n"][batch.heads["n", "to", "n"]].reshape(num, fanout)
    assert stats.chisquare(np.bincount(rows.ravel(), minlength=degree)).pvalue > 1e-4
    distinct = np.mean([len(set(row)) for row in rows.tolist()])
    assert abs(distinct - degree * (1 - (1 - 1 / degree) ** fanout)) < 0.2
