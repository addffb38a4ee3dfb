"""Relations of edge lists that retrieval makes, against the definition."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml

from netgpt import graphstore
from netgpt.cluster.stores import build_store
from netgpt.graphstore import StoreError
from netgpt.graphstore.datasets import names
from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.info import describe, table
from netgpt.graphstore.relation_types import Nearest, Part
from netgpt.sampler import NeighborSampler
from tests.nearest import equal, plain

EDGE = ("item", "is_similar_to", "item")
NUM = 60


def write(folder: Path) -> None:
    """Features with copies and zeros, and columns as Parquet, CSV and npy."""
    random = np.random.default_rng(0)
    x = random.normal(size=(NUM, 6)).astype(np.float32)
    x[10], x[20:23], x[30] = x[3], x[4], 0
    day, brand = random.integers(0, 9, NUM), random.integers(-1, 12, NUM)
    sold = random.random(NUM) < 0.7
    columns = {"x": x, "day": day, "brand": brand, "sold": sold, "sold_times": sold * 3, "short": day[:-1]}
    for name, values in columns.items():
        np.save(folder / f"{name}.npy", values)
    dates = [date(2024, 12, 1) + timedelta(days=int(d)) for d in day]
    names = ["" if one < 0 else f"brand {one}" for one in brand]
    pq.write_table(pa.table({"day": dates, "brand": names, "sold": sold}), folder / "items.parquet")
    in_csv = pa.table({"day": day, "brand": [n.replace("brand ", "0") for n in names], "sold": sold})
    pa.csv.write_csv(in_csv, folder / "items.csv")


def built(folder: Path, nearest: dict[str, Any] | None, **more: Any) -> graphstore.Store:
    edge = {"type": list(EDGE), "nearest": nearest, **more}
    said = {"nodes": {"item": {"features": "x.npy"}, "other": {"count": 2}}, "edges": [edge]}
    (folder / "graph.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    graphstore.build_edges(folder / "graph.yaml", folder / "store")
    return graphstore.open(folder / "store")


FILES = {"time": "day.npy", "apart": "brand.npy", "bank": "sold.npy"}
NAMES = {"time": "day", "apart": "brand", "bank": "sold"}
NAME = "is_similar_to"
BANK = Part(column=f"{NAME}_bank", value="yes")
WHOLE = {"time": f"{NAME}_time", "apart": f"{NAME}_apart", "bank": BANK}


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({}, {"k": 10}),
        ({"k": 3, "time": "day.npy"}, {"k": 3, "time": f"{NAME}_time"}),
        ({"k": 4, "apart": "brand.npy"}, {"k": 4, "apart": f"{NAME}_apart"}),
        ({"bank": "sold_times.npy"}, {"k": 10, "bank": BANK}),
        ({"k": 5, **FILES}, {"k": 5, **WHOLE}),
        ({"k": 5, "path": "items.parquet", **NAMES}, {"k": 5, **WHOLE}),
        ({"k": 5, "path": "items.csv", **NAMES}, {"k": 5, **WHOLE}),
        ({"k": 1000, "path": "items.parquet", "time": "day"}, {"k": 1000, "time": f"{NAME}_time"}),
    ],
)
def test_rows_are_the_definitions(said: dict[str, Any], rule: dict[str, Any], tmp_path: Path) -> None:
    write(tmp_path)
    store = built(tmp_path, said)
    relation = store.schema.relation_type(EDGE)
    assert relation.nearest == Nearest(by=("item",), **rule)
    rows = store.relation(EDGE)
    equal(rows, plain(store, EDGE, relation.nearest))
    assert rows.num_edges and rows.neighbors(30).tolist() == []
    assert not graphstore.verify(store.path)
    assert "is_similar_to" in table(describe(store))


@pytest.mark.parametrize("path", ["items.parquet", "items.csv"])
def test_files_of_any_kind_make_the_same_rows(path: str, tmp_path: Path) -> None:
    rows = []
    for name, said in (("npy", FILES), ("table", {"path": path, **NAMES})):
        (folder := tmp_path / name).mkdir()
        write(folder)
        rows.append(built(folder, {"k": 5, **said}).relation(EDGE))
    assert np.array_equal(rows[0].indices, rows[1].indices)
    assert rows[0].numbers["score"].tobytes() == rows[1].numbers["score"].tobytes()


def test_two_relations_share_a_column_and_are_sampled(tmp_path: Path) -> None:
    write(tmp_path)
    other = ("item", "is_earlier_than", "item")
    edges = [
        {"type": list(EDGE), "nearest": {"k": 3, "time": "day.npy"}},
        {"type": list(other), "nearest": {"k": 7, "time": "day.npy", "bank": "sold.npy"}},
    ]
    said = {"nodes": {"item": {"features": "x.npy"}}, "edges": edges}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    graphstore.build_edges(tmp_path / "graph.yaml", tmp_path / "store")
    store = graphstore.open(tmp_path / "store")
    columns = [one.name for one in store.schema.node_type("item").columns]
    assert columns == [f"{NAME}_time", "is_earlier_than_time", "is_earlier_than_bank"]
    for edge, k in ((EDGE, 3), (other, 7)):
        nearest = store.schema.relation_type(edge).nearest
        assert nearest is not None and nearest.k == k
        equal(store.relation(edge), plain(store, edge, nearest))
    sampled = NeighborSampler(store, fanout=-1, hops=1).sample(np.arange(NUM))
    assert sampled.num_edges == sum(store.relation(edge).num_edges for edge in (EDGE, other))


@pytest.mark.parametrize(
    ("said", "more", "words"),
    [
        ({"k": 0}, {}, "edges[0].nearest.k: found 0, expected how many heads, from 1"),
        ({"tme": "day.npy"}, {}, "unknown key edges[0].nearest.tme; did you mean time?"),
        ({"time": "gone.npy"}, {}, "edges[0].nearest.time: found"),
        ({"path": "items.parquet"}, {}, "expected a column of it: time, apart or bank"),
        ({"path": "items.parquet", "time": "gone"}, {}, "expected 'gone' once"),
        ({"path": "items.parquet", "time": "brand"}, {}, "found type string"),
        ({"path": "items.parquet", "bank": "brand"}, {}, "found type string, expected true or false"),
        ({"time": "x.npy"}, {}, "expected 1 dimension(s)"),
        ({"k": 1 << 20}, {}, "edges[0].nearest.k: found 1048576, expected how many heads"),
        ({"time": "short.npy"}, {}, "short.npy: found 59 rows, expected 60, one for each node of item"),
        ({"time": "short.npy", "bank": "sold.npy"}, {}, "found columns of [59, 60] rows"),
        ({}, {"path": "pairs.npy"}, "either a path, a group or nearest"),
        ({}, {"duplicates": "drop"}, "no options of edge lists beside nearest"),
        ({}, {"type": ["other", "r", "item"]}, "heads and tails of one type"),
        ({}, {"type": ["other", "r", "other"]}, "edges[0].nearest: found 'other', expected a type with"),
    ],
)
def test_a_fault_is_one_line(said: dict[str, Any], more: dict[str, Any], words: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(StoreError) as caught:
        built(tmp_path, said, **more)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not any("store" in p.name for p in tmp_path.iterdir())


def test_it_stands_beside_a_group_of_the_same_columns(tmp_path: Path) -> None:
    """The documented example."""
    write(tmp_path)
    group = {"path": "items.parquet", "key": "brand", "time": "day"}
    edges = [
        {"type": ["item", "same_brand_as", "item"], "group": group},
        {"type": list(EDGE), "nearest": {"k": 5, "path": "items.parquet", **NAMES}},
    ]
    said = {"nodes": {"item": {"features": "x.npy"}}, "edges": edges}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    graphstore.build_edges(tmp_path / "graph.yaml", tmp_path / "store")
    store = graphstore.open(tmp_path / "store")
    assert store.relation(("item", "same_brand_as", "item")).num_edges
    nearest = store.schema.relation_type(EDGE).nearest
    assert nearest == Nearest(by=("item",), k=5, **WHOLE)
    equal(store.relation(EDGE), plain(store, EDGE, nearest))
    days = store.column("item", f"{NAME}_time")
    told = [date(1970, 1, 1) + timedelta(seconds=int(one)) for one in days]  # dates are dates
    assert {one.year for one in told} == {2024}
    edges[0]["group"] = {"key": f"{NAME}_apart.npy", "time": "day.npy"}
    np.save(tmp_path / f"{NAME}_apart.npy", np.zeros(NUM, np.int64))
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    with pytest.raises(StoreError, match=r"edges\[1\].type: found 'is_similar_to', expected another name"):
        graphstore.build_edges(tmp_path / "graph.yaml", tmp_path / "again")


def test_files_may_be_called_as_arrays_of_a_store_are(tmp_path: Path) -> None:
    write(tmp_path)
    for name in ("x_row", "keys"):
        np.save(tmp_path / f"{name}.npy", np.arange(NUM)[::-1].copy())
    store = built(tmp_path, {"time": "x_row.npy", "apart": "keys.npy"})
    assert not graphstore.verify(store.path)
    np.testing.assert_array_equal(store.features("item").gather(np.arange(NUM)), np.load(tmp_path / "x.npy"))


def test_no_rows_join_such_a_store_and_memory_may_be_named(tmp_path: Path) -> None:
    write(tmp_path)
    store = built(tmp_path, {"k": 3})
    with pytest.raises(FormatError, match="expected one whose relations follow from its rows"):
        graphstore.append(store.path, tmp_path / "graph.yaml")
    with pytest.raises(StoreError, match="a store of edge lists, which no rows can join"):
        graphstore.ExtendedGraph(store, names.load("edges").open(tmp_path / "graph.yaml"))
    build_store(tmp_path / "graph.yaml", tmp_path / "again", None, memory_bytes=10**9)
