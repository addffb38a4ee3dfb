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
from netgpt.graphstore import StoreError
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
WHOLE = {"time": "day", "apart": "brand", "bank": Part(column="sold", value="yes")}


@pytest.mark.parametrize(
    ("said", "rule"),
    [
        ({}, {"k": 10}),
        ({"k": 3, "time": "day.npy"}, {"k": 3, "time": "day"}),
        ({"k": 4, "apart": "brand.npy"}, {"k": 4, "apart": "brand"}),
        ({"bank": "sold_times.npy"}, {"k": 10, "bank": Part(column="sold_times", value="yes")}),
        ({"k": 5, **FILES}, {"k": 5, **WHOLE}),
        ({"k": 5, "path": "items.parquet", **NAMES}, {"k": 5, **WHOLE}),
        ({"k": 5, "path": "items.csv", **NAMES}, {"k": 5, **WHOLE}),
        ({"k": 1000, "path": "items.parquet", "time": "day"}, {"k": 1000, "time": "day"}),
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
    assert [one.name for one in store.schema.node_type("item").columns] == ["day", "sold"]
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
        ({"path": "items.parquet", "bank": "brand"}, {}, "column 'brand': found type"),
        ({"time": "x.npy"}, {}, "found 'x', expected letters"),
        ({"time": "day.npy", "apart": "day.npy"}, {}, "columns of different names"),
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


def test_columns_of_one_name_are_one_column(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "other").mkdir()
    np.save(tmp_path / "other" / "day.npy", np.zeros(NUM, np.int64))
    edges = [
        {"type": ["item", name, "item"], "nearest": {"time": time}}
        for name, time in (("a", "day.npy"), ("b", "other/day.npy"))
    ]
    said = {"nodes": {"item": {"features": "x.npy"}}, "edges": edges}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(said), encoding="utf-8")
    with pytest.raises(StoreError, match=r"edges\[1\].nearest: found 'day', expected another name"):
        graphstore.build_edges(tmp_path / "graph.yaml", tmp_path / "store")
