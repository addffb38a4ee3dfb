"""The search for the nearest against plain Python: ties, copies, small banks, times, blocks, threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt.graphstore import StoreError
from netgpt.graphstore.nearest import search as module
from netgpt.graphstore.nearest.relation import nearest_rows, search_of
from netgpt.graphstore.relation_types import Nearest, Part, nearest_relation
from netgpt.graphstore.relations import Relation
from tests.nearest import EDGE, Made, equal, graphs, plain


def rows_of(graph: Made, nearest: Nearest, **options: Any) -> Relation:
    return nearest_rows(graph, nearest_relation(EDGE, nearest), **options)


@settings(deadline=None, max_examples=60)
@given(graphs())
def test_rows_are_those_of_plain_python(case: tuple[Made, Nearest]) -> None:
    equal(rows_of(*case, threads=1), plain(case[0], EDGE, case[1]))


@settings(deadline=None, max_examples=30)
@given(graphs(), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4))
def test_rows_are_the_same_for_any_block_and_candidates(
    case: tuple[Made, Nearest], tails: int, bank: int, more: int
) -> None:
    whole = rows_of(*case, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK_VECTORS", tails)
        patch.setattr(module, "BANK_VECTORS", bank)
        patch.setattr(module, "CANDIDATES", more - 1)
        patch.setattr(module, "WIDER", 2)
        patch.setattr(module, "CANDIDATE_BYTES", 100)
        cut = rows_of(*case, threads=2)
    assert whole.indices.tobytes() == cut.indices.tobytes()
    assert whole.end.tobytes() == cut.end.tobytes()
    assert whole.numbers["score"].tobytes() == cut.numbers["score"].tobytes()


def test_close_scores_that_float32_cannot_tell_apart_are_in_their_order() -> None:
    """100 vectors within 1e-7 of each other: a float32 product orders them by its rounding."""
    rng = np.random.default_rng(0)
    x = 1 + rng.normal(0, 1e-5, (100, 64))
    graph = Made(x.astype(np.float32))
    nearest = Nearest(by=("film",), k=5)
    equal(rows_of(graph, nearest, threads=2), plain(graph, EDGE, nearest))


def test_a_thousand_copies_are_found_latest_first() -> None:
    x = np.ones((1000, 8), np.float32)
    x[500:, 0] = 2
    time = np.arange(1000) // 2
    rows = rows_of(Made(x, time=time), Nearest(by=("film",), k=3, time="time"), threads=2)
    assert rows.neighbors(400).tolist() == [398, 399, 396]
    assert rows.neighbors(0).tolist() == []
    # of the second half the last heads are copies too; the first of them has none
    assert rows.neighbors(999).tolist() == [996, 997, 994]
    assert rows.neighbors(500).tolist() == [498, 499, 496]


def test_some_tails_have_the_rows_that_they_have_among_all() -> None:
    rng = np.random.default_rng(1)
    graph = Made(rng.normal(size=(90, 6)).astype(np.float32), time=rng.integers(0, 9, 90))
    nearest, tails = Nearest(by=("film",), k=4, time="time"), np.array([3, 40, 41, 89])
    whole, some = rows_of(graph, nearest), rows_of(graph, nearest, tails=tails)
    assert [some.neighbors(i).tolist() for i in range(4)] == [whole.neighbors(v).tolist() for v in tails]


def test_vectors_on_disk_give_the_same(tmp_path: Any) -> None:
    rng = np.random.default_rng(2)
    graph, nearest = Made(rng.normal(size=(50, 6)).astype(np.float16)), Nearest(by=("film",), k=4)
    one, other = rows_of(graph, nearest), rows_of(graph, nearest, scratch=tmp_path / "vectors")
    assert one.indices.tobytes() == other.indices.tobytes()
    search, _ = search_of(graph, nearest_relation(EDGE, nearest), scratch=tmp_path / "vectors")
    assert isinstance(search.bank.vectors, np.memmap) and list(tmp_path.iterdir()) == []


def test_no_task_is_left_out() -> None:
    rng = np.random.default_rng(3)
    relation = nearest_relation(EDGE, Nearest(by=("film",), k=2))
    search, asked = search_of(Made(rng.integers(0, 3, (700, 5)).astype(np.float32)), relation)
    ends = [0, *(end for _, end in search.tasks)]
    assert [begin for begin, _ in search.tasks] == ends[:-1] and ends[-1] == len(asked) < 700


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_refused(value: float) -> None:
    x = np.ones((20, 3), np.float32)
    x[7, 1] = value
    with pytest.raises(StoreError, match=r"film/is_similar_to/film: node 7: features of film: found a num"):
        rows_of(Made(x), Nearest(by=("film",), k=2))


def test_a_bank_that_there_is_none_of_is_refused() -> None:
    graph = Made(np.ones((3, 2), np.float32), part=np.zeros(3, np.int32))
    with pytest.raises(StoreError, match="bank: found no part 'train' among the nodes of film, expected one"):
        rows_of(graph, Nearest(by=("film",), k=2, bank=Part(column="part", value="train")))
