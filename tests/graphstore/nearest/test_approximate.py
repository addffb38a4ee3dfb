"""The search by an index of faiss against the exact one: with all clusters the same, with few a part."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from netgpt.graphstore import StoreError
from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.nearest import search as module
from netgpt.graphstore.nearest.approximate import (
    Approximate,
    ApproximateSearch,
    make_index,
    num_clusters,
    recall_of,
)
from netgpt.graphstore.nearest.relation import search_of
from netgpt.graphstore.nearest.search import Rows, Search
from netgpt.graphstore.relation_types import Nearest, Part, nearest_relation
from tests.nearest import EDGE, Made, graphs

pytest.importorskip("faiss", reason="of the extra ann")


def exact_search(graph: Made, nearest: Nearest) -> Search:
    return search_of(graph, nearest_relation(EDGE, nearest))[0]


def by_index(search: Search, folder: Path, probes: int) -> ApproximateSearch:
    make_index(search.bank, folder / "index")
    return ApproximateSearch.of(search, folder / "index", Approximate(probes))


def same(one: Rows, other: Rows) -> bool:
    there = np.arange(one.heads.shape[1]) < one.num[:, None]
    return (
        np.array_equal(one.num, other.num)
        and np.array_equal(one.heads[there], other.heads[there])
        and np.array_equal(one.scores[there], other.scores[there])
    )


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_with_all_clusters_rows_are_the_exact_ones(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Made, Nearest]
) -> None:
    search = exact_search(*case)
    made = by_index(search, tmp_path_factory.mktemp("index"), 1_000_000)
    assert same(made.all(), search.all())
    assert recall_of(made, made.all())[0] == 1.0


def clustered(num: int = 6000, width: int = 24) -> Made:
    """Nodes about 40 centres, with times, series and copies."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(40, width))
    x = (centres[rng.integers(0, 40, num)] + 0.5 * rng.normal(size=(num, width))).astype(np.float32)
    x[rng.integers(0, num, 200)] = x[rng.integers(0, num, 200)]
    return Made(x, time=rng.integers(0, 300, num), series=rng.integers(-1, 2000, num))


RULES = [
    Nearest(by=("film",), k=10),
    Nearest(by=("film",), k=10, time="time", apart="series"),
    Nearest(by=("film",), k=3, time="time", bank=Part(column="time", until=200)),
]


@pytest.mark.parametrize("nearest", RULES)
def test_with_few_clusters_rows_are_good_ones(
    nearest: Nearest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is found is allowed, has its true score and is in order; more probes find more."""
    monkeypatch.setattr(module, "BLOCK_VECTORS", 500)
    graph = clustered()
    search = exact_search(graph, nearest)
    assert num_clusters(len(search.bank.first)) > 40
    make_index(search.bank, tmp_path / "index")
    true, shares = search.all(), []
    x = graph.features("film").gather(np.arange(6000)).astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    time, series = graph.column("film", "time"), graph.category("film", "series")[0]
    asked = np.empty_like(search.order)
    asked[search.order] = search.tails
    for probes in (1, 8, 1000):
        made = ApproximateSearch.of(search, tmp_path / "index", Approximate(probes))
        rows = made.all(2)
        for i in np.random.default_rng(1).choice(len(asked), 400, replace=False):
            heads, scores = rows.heads[i, : rows.num[i]], rows.scores[i, : rows.num[i]]
            assert len(set(heads.tolist())) == len(heads) and asked[i] not in heads
            assert (np.diff(scores) <= 0).all()
            np.testing.assert_allclose(scores, x[heads] @ x[asked[i]], atol=1e-6)
            if nearest.time:
                assert (time[heads] < time[asked[i]]).all()
            if nearest.bank:
                assert (time[heads] < 200).all()
            if nearest.apart:
                known = [one for one in [*series[heads], series[asked[i]]] if one >= 0]
                assert len(set(known)) == len(known)
        hits = [
            len(np.intersect1d(true.heads[i, : true.num[i]], rows.heads[i, : rows.num[i]]))
            for i in range(len(asked))
        ]
        shares.append(sum(hits) / true.num.sum())
        seen, of = recall_of(made, rows)
        assert of == 256 and abs(seen - shares[-1]) < 0.05
    assert shares[0] < shares[1] <= shares[2] == 1.0 and shares[1] > 0.9
    assert same(rows, true)


def test_recall_counts_the_heads_that_are_missing(tmp_path: Path) -> None:
    search = exact_search(clustered(700), RULES[0])
    rows = search.all()
    assert recall_of(search, rows) == (1.0, 256)
    rows.num[:] = 4
    assert recall_of(search, rows)[0] == pytest.approx(0.4)


def test_an_index_of_another_bank_or_none_is_refused(tmp_path: Path) -> None:
    graph = clustered(700)
    search = exact_search(graph, RULES[0])
    make_index(exact_search(graph, RULES[2]).bank, tmp_path / "other")
    with pytest.raises(FormatError, match="found the index of another bank"):
        ApproximateSearch.of(search, tmp_path / "other", Approximate(4))
    (tmp_path / "broken").write_bytes((tmp_path / "other").read_bytes()[:50])
    with pytest.raises(FormatError, match="broken: damaged"):
        ApproximateSearch.of(search, tmp_path / "broken", Approximate(4))


def test_without_faiss_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = exact_search(clustered(100), RULES[0])
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(StoreError, match=r"pip install 'netgpt\[ann\]'"):
        make_index(search.bank, tmp_path / "index")
    assert list(tmp_path.iterdir()) == []
