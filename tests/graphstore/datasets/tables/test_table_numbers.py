"""Numbers and times as features, what earlier rows of a group tell, and values without features."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.features import encode_numbers
from netgpt.sampler import NeighborSampler
from tests.pairs import DESCRIPTION, Pairs

TOLD = ("rating_stars", "by_same_user", "rating")


def numbers_of(*columns: np.ndarray) -> np.ndarray:
    """Value, signed logarithm and 1, or three zeros, of each number in turn."""
    rows = []
    for row in zip(*columns, strict=True):
        cells = ([0, 0, 0] if np.isnan(v) else [v, np.copysign(np.log(1 + abs(v)), v), 1] for v in row)
        rows.append([place for three in cells for place in three])
    return np.array(rows, np.float32)


@given(st.lists(st.tuples(st.floats(-1e6, 1e6) | st.just(np.nan), st.floats(-10, 10)), min_size=1))
def test_numbers_have_three_places_each(rows: list[tuple[float, float]]) -> None:
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    np.testing.assert_allclose(encode_numbers(columns), numbers_of(*columns), rtol=1e-6, atol=1e-7)


def test_numbers_beside_texts_have_nodes_of_their_own(tmp_path: Path) -> None:
    pairs = Pairs(0)
    store = pairs.store(tmp_path)
    assert store.schema.node_type("film").encoding == "text"
    expected = numbers_of(pairs.minutes, pairs.released / 86_400)
    found = store.features("film_numbers").gather(np.arange(14))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    one_each = store.relation(("film_numbers", "numbers_of", "film"))
    assert [one_each.neighbors(v).tolist() for v in range(14)] == [[v] for v in range(14)]
    nodes = np.arange(14)
    assert (
        store.id_column("film_numbers", nodes)
        == store.id_column("film", nodes)
        == list(store.node_ids("film"))
    )
    assert store.id_column("rating_stars", nodes) is nodes  # ratings have no key
    # Alone they are the rows' own
    np.testing.assert_allclose(
        store.features("rating").gather(np.arange(200)), numbers_of(pairs.at / 86_400), rtol=1e-6
    )
    assert graphstore.verify(store.path) == []


@pytest.mark.parametrize("layout", ["prefix", "csr"])
def test_earlier_rows_of_a_group_tell_their_numbers(layout: str, tmp_path: Path) -> None:
    """Those before a row, and not those of its own moment: by brute force."""
    for seed in range(2):
        pairs = Pairs(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        store = pairs.store(folder, layout=layout)
        for relation, same in (("by_same_user", pairs.users), ("of_same_film", pairs.films)):
            rows = store.relation(("rating_stars", relation, "rating"))
            assert rows.layout == layout
            found = [sorted(rows.neighbors(v).tolist()) for v in range(200)]
            assert found == [pairs.earlier(v, same) for v in range(200)]
        stars = store.features("rating_stars").gather(np.arange(200))
        np.testing.assert_allclose(stars, numbers_of(pairs.stars), rtol=1e-6)
        assert graphstore.verify(store.path) == []


def test_a_sample_never_reaches_what_came_at_or_after_the_seed(tmp_path: Path) -> None:
    """Nor, in temporal sampling, at or after a moment that is asked for. Many rows are of one moment."""
    for seed in range(2):
        pairs = Pairs(seed, num=300, num_users=4)
        folder = tmp_path / str(seed)
        folder.mkdir()
        store = pairs.store(folder)
        for fanout, replace in ((3, False), (-1, False), (4, True)):
            sampler = NeighborSampler(store, hops=2, disjoint=True, fanout=fanout, replace=replace)
            batch = sampler.sample(np.arange(300), epoch=seed)
            heads = batch.nodes["rating_stars"]
            assert batch.trees is not None and len(heads)
            assert (pairs.at[heads] < pairs.at[batch.trees["rating_stars"]]).all()
        limit = pairs.at - 3_600
        early = NeighborSampler(store, fanout=-1, hops=1, temporal="<").sample(np.arange(300), times=limit)
        first = 0
        for v, count in enumerate(early.degrees[TOLD].tolist()):
            rows = early.nodes["rating_stars"][early.heads[TOLD][first : first + count]]
            expected = [u for u in pairs.earlier(v, pairs.users) if pairs.at[u] < limit[v]]
            assert sorted(rows.tolist()) == expected
            first += count


def test_values_may_be_known_by_themselves_alone(tmp_path: Path) -> None:
    pairs = Pairs(1)
    store = pairs.store(tmp_path)
    assert store.schema.node_type("user").encoding == "none"
    codes = {name: i for i, name in enumerate(store.node_ids("user"))}
    rows = store.relation(("user", "rev_user", "rating"))
    assert ("rating", "user", "user") not in store.edge_types and store.num_nodes["user"] == len(codes)
    found = [rows.neighbors(v).tolist() for v in range(200)]
    assert found == [[codes[f"u{user}"]] for user in pairs.users.tolist()]
    described = copy.deepcopy(DESCRIPTION)
    described["tables"]["user"] = {}
    (tmp_path / "with").mkdir()
    graphstore.build(
        pairs.write(tmp_path / "with", described), tmp_path / "other", BuildConfig(encoder="hash:16")
    )
    assert graphstore.open(str(tmp_path / "other")).schema.node_type("user").encoding == "text"


BAD: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "texts that are told": (
        lambda d: d["relations"][0].update(tells=["title"]),
        "relations[0].tells: found 'title', expected numbers and times of rating",
    ),
    "two types of one name": (
        lambda d: (
            d["tables"]["rating"]["columns"].update(stars_at="number"),
            d["relations"][0].update(tells=["stars", "at"]),
            d["relations"][1].update(tells=["stars_at"]),
        ),
        "relations[1].tells: found ['stars_at'], expected others than ['stars', 'at'], which are told under",
    ),
    "the row's own moment": (
        lambda d: d["relations"][0].pop("ties"),
        "relations[0].ties: found 'include', expected strict, where earlier rows tell something",
    ),
    "a type of values that has columns": (
        lambda d: d["tables"]["user"].update(features=["name"]),
        "tables.user.features: found ['name'], expected [], as a table without a path has values alone",
    ),
    "a table of nothing": (
        lambda d: d["tables"].update(town={"features": []}),
        "tables.town: found 'neither a path nor a link to it', expected one of them",
    ),
    "a name that two types have": (
        lambda d: d["tables"].update(film_numbers={**d["tables"]["film"]}),
        "a node type or relation twice",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_descriptions_are_refused_in_one_line(what: str, tmp_path: Path) -> None:
    change, message = BAD[what]
    described = copy.deepcopy(DESCRIPTION)
    change(described)
    path = Pairs(0).write(tmp_path, described)
    with pytest.raises(StoreError) as raised:
        graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:16"))
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert not (tmp_path / "store").exists()
