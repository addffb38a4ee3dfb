"""Relations of groups from columns, against a double loop."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import StoreError
from netgpt.graphstore.datasets.edges.groups import NODE_BYTES

KEYS, DAYS = ["a", "b", "", "a", "a", "b", "a"], [3, 1, 1, 2, 3, 1, 1]
EDGE = ("item", "same_brand_as", "item")


def naive(keys: list[Any], days: list[int], strict: bool = False) -> list[list[int]]:
    rows = []
    for v, (key, day) in enumerate(zip(keys, days, strict=True)):
        row = [
            (d, u)
            for u, (k, d) in enumerate(zip(keys, days, strict=True))
            if u != v and k == key and key not in ("", -1) and (d < day or (d == day and not strict))
        ]
        rows.append([u for _, u in sorted(row)])
    return rows


def built(folder: Path, group: dict[str, str], **options: Any) -> graphstore.Store:
    description = {"nodes": {"item": {}}, "edges": [{"type": list(EDGE), "group": group}]}
    (folder / "graph.yaml").write_text(yaml.safe_dump(description), encoding="utf-8")
    graphstore.build_edges(folder / "graph.yaml", folder / "store", **options)
    return graphstore.open(folder / "store")


def rows_of(store: graphstore.Store) -> list[list[int]]:
    relation = store.relation(EDGE)
    return [relation.neighbors(v).tolist() for v in range(relation.num_dst)]


def _parquet(folder: Path) -> dict[str, str]:
    dates = [date(2024, 12, 1) + timedelta(days=d) for d in DAYS]
    pq.write_table(pa.table({"brand": KEYS, "day": dates, "more": DAYS}), folder / "items.parquet")
    return {"path": "items.parquet", "key": "brand", "time": "day"}


def _csv(folder: Path) -> dict[str, str]:
    pa.csv.write_csv(pa.table({"brand": KEYS, "day": DAYS}), folder / "items.csv")
    return {"path": "items.csv", "key": "brand", "time": "day"}


def _npy(folder: Path) -> dict[str, str]:
    np.save(folder / "brand.npy", np.array([{"a": 0, "b": 7, "": -1}[k] for k in KEYS]))
    np.save(folder / "day.npy", np.array(DAYS, np.int16))
    return {"key": "brand.npy", "time": "day.npy"}


@pytest.mark.parametrize("write", [_parquet, _csv, _npy])
@pytest.mark.parametrize("layout", ["prefix", "csr"])
@pytest.mark.parametrize("ties", ["include", "strict"])
def test_every_source_and_layout_gives_the_rows(
    write: Callable[[Path], dict[str, str]], layout: str, ties: str, tmp_path: Path
) -> None:
    store = built(tmp_path, {**write(tmp_path), "ties": ties}, layout=layout)
    assert store.relation(EDGE).layout == layout
    expected = naive(KEYS, DAYS, ties == "strict")
    assert rows_of(store) == expected
    assert store.num_edges[EDGE] == sum(map(len, expected)) and store.num_nodes == {"item": len(KEYS)}
    (relation,) = store.schema.relations
    assert relation.group_by == "brand" and relation.strict == (ties == "strict")
    assert graphstore.verify(store.path) == []


@settings(max_examples=25, deadline=None)
@given(nodes=st.lists(st.tuples(st.integers(-1, 3), st.integers(-2, 4)), min_size=1, max_size=30))
def test_both_layouts_and_edge_numbers(
    nodes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """An edge's number is the degrees before its row and its place in the row, in both layouts."""
    keys, days = (list(column) for column in zip(*nodes, strict=True))
    expected = naive(keys, days)
    for layout in ("prefix", "csr"):
        folder = tmp_path_factory.mktemp("groups")
        np.save(folder / "k.npy", np.array(keys))
        np.save(folder / "t.npy", np.array(days))
        store = built(folder, {"key": "k.npy", "time": "t.npy"}, layout=layout)
        relation = store.relation(EDGE)
        flat = [u for row in expected for u in row]
        assert relation.first_edge.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
        for max_edges in (1, 5, 1000):
            blocks = list(relation.row_blocks(max_edges))
            assert [u for block in blocks for u in block.tolist()] == flat
            longest = max(map(len, expected))
            assert all(len(block) <= max(max_edges, longest) for block in blocks)


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "both": ({"path": "x.npy"}, "either a path, a group or nearest"),
    "two types": ({"type": ["item", "r", "other"]}, "heads and tails of one type"),
    "ties": ({"group": {"key": "k.npy", "time": "t.npy", "ties": "some"}}, "found 'some'"),
    "no key": ({"group": {"time": "t.npy"}}, "a column or .npy file"),
    "no such file": ({"group": {"key": "none.npy", "time": "t.npy"}}, "an .npy file"),
    "not npy": ({"group": {"key": "graph.yaml", "time": "t.npy"}}, "an .npy file"),
    "other lengths": ({"group": {"key": "short.npy", "time": "t.npy"}}, "one for each node"),
    "fractions": ({"group": {"key": "half.npy", "time": "t.npy"}}, "expected whole numbers"),
    "below none": ({"group": {"key": "low.npy", "time": "t.npy"}}, "found -2, expected a number from -1"),
    "a matrix": ({"group": {"key": "two.npy", "time": "t.npy"}}, "expected 1 dimension(s)"),
    "no such column": ({"group": {"path": "i.csv", "key": "zz", "time": "day"}}, "expected 'zz'"),
    "a gap": ({"group": {"path": "gap.parquet", "key": "k", "time": "t"}}, "record 1: field 't'"),
    "a text for a time": ({"group": {"path": "i.csv", "key": "day", "time": "brand"}}, "found type string"),
    "a column twice": ({"group": {"path": "twice.csv", "key": "k", "time": "t"}}, "expected 'k' once"),
    "options of edge lists": ({"duplicates": "drop"}, "no options of edge lists beside group"),
    "not a table": ({"group": {"path": "graph.yaml", "key": "k", "time": "t"}}, ".parquet or .csv"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_leaves_no_store(fault: str, tmp_path: Path) -> None:
    for name, values in (
        ("k", [0, 0, 1]),
        ("t", [1, 2, 3]),
        ("short", [0]),
        ("half", [0.5, 1, 1]),
        ("low", [0, -2, 0]),
        ("two", [[1, 2]]),
    ):
        np.save(tmp_path / f"{name}.npy", np.array(values))
    pa.csv.write_csv(pa.table({"brand": KEYS, "day": DAYS}), tmp_path / "i.csv")
    pq.write_table(pa.table({"k": [1, 2], "t": [1, None]}), tmp_path / "gap.parquet")
    (tmp_path / "twice.csv").write_text("k,k,t\n1,2,3\n")
    change, words = FAULTS[fault]
    edge = {"type": ["item", "r", "item"], "group": {"key": "k.npy", "time": "t.npy"}, **change}
    description = {"nodes": {"item": {"count": 3}, "other": {"count": 1}}, "edges": [edge]}
    if "path" in (edge["group"] or {}):
        description["nodes"]["item"] = {}
    (tmp_path / "graph.yaml").write_text(json.dumps(description))
    with pytest.raises(StoreError) as caught:
        graphstore.build_edges(tmp_path / "graph.yaml", tmp_path / "store")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not any("store" in p.name for p in tmp_path.iterdir())


def test_far_times_and_keys_that_look_like_numbers(tmp_path: Path) -> None:
    """Dates beyond what nanoseconds can say, fractions of seconds, and keys with leading zeros."""
    days = [date(2024, 1, 1), date(9999, 12, 31), date(2025, 1, 1), date(2024, 6, 1)]
    keys = pa.array(["a", "a", None, "a"]).dictionary_encode()
    pq.write_table(pa.table({"k": keys, "t": days}), tmp_path / "far.parquet")
    assert rows_of(built(tmp_path, {"path": "far.parquet", "key": "k", "time": "t"})) == [[], [0, 3], [], [0]]
    (tmp_path / "near").mkdir()
    (tmp_path / "near/i.csv").write_text(
        "k,t\n007,2024-01-01 00:00:00.9\n7,2024-01-01 00:00:00.1\n"
        "007,2024-01-01 00:00:00.5\n007,2024-01-01 00:00:00.1\n"
    )
    rows = rows_of(built(tmp_path / "near", {"path": "i.csv", "key": "k", "time": "t"}))
    assert rows == [[3, 2], [], [3], []]


def test_texts_count_as_memory(tmp_path: Path) -> None:
    num, group = 2000, {"path": "i.parquet", "key": "k", "time": "t"}
    keys = [f"{i:0500}" for i in range(num)]
    pq.write_table(pa.table({"k": keys, "t": range(num)}), tmp_path / "i.parquet")
    with pytest.raises(StoreError, match="memory: found"):
        built(tmp_path, group, memory_bytes=NODE_BYTES * num + 10_000)
    assert not (tmp_path / "store").exists()


def test_memory_is_asked_for_by_number_of_nodes(tmp_path: Path) -> None:
    group = _npy(tmp_path)
    with pytest.raises(StoreError, match=f"expected at least {len(KEYS) * NODE_BYTES:,} bytes"):
        built(tmp_path, group, memory_bytes=100)
    assert not (tmp_path / "store").exists()


def test_a_store_of_groups_alone_takes_no_new_rows(tmp_path: Path) -> None:
    """Its keys are not kept: what new rows would join cannot be told."""
    store = built(tmp_path, _npy(tmp_path))
    with pytest.raises(graphstore.FormatError, match="found a store of edge lists"):
        graphstore.append(store.path, tmp_path / "graph.yaml")
