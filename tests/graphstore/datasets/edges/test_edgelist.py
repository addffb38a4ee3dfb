"""Stores from edge lists against naive rows, at every budget of memory; faults in descriptions and files."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import yaml
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import StoreError, build_edges
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets.edges.read import Piece
from netgpt.graphstore.files import read_json
from netgpt.graphstore.sort import Policy, _ranges, write_rows
from netgpt.sampler import NeighborSampler


def naive_rows(heads: Any, tails: Any, num: int, policy: Policy) -> list[list[int]]:
    rows: list[list[int]] = [[] for _ in range(num)]
    for u, v in zip(heads, tails, strict=True):
        if policy.self_loops == "drop" and policy.same_type and u == v:
            continue
        if policy.duplicates == "drop" and u in rows[v]:
            continue
        rows[v].append(int(u))
    return rows


def in_pieces(heads: Any, tails: Any, size: int) -> Any:
    def pieces() -> Any:
        for i in range(0, len(heads), size):
            yield Piece(np.array(heads[i : i + size]), np.array(tails[i : i + size]), "memory", i)

    return pieces


@settings(max_examples=60, deadline=None)
@given(
    edges=st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=120),
    duplicates=st.sampled_from(["keep", "drop"]),
    self_loops=st.sampled_from(["keep", "drop"]),
    same_type=st.booleans(),
    spare=st.sampled_from([0, 40, 200, 10_000]),
    piece=st.integers(1, 40),
)
def test_rows_equal_naive_rows_whatever_the_memory(
    edges: list[tuple[int, int]],
    duplicates: str,
    self_loops: str,
    same_type: bool,
    spare: int,
    piece: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    policy = Policy(duplicates=duplicates, self_loops=self_loops, same_type=same_type)
    heads, tails = [u for u, _ in edges], [v for _, v in edges]
    pieces = in_pieces(heads, tails, piece)
    arguments: dict[str, Any] = {"num_heads": 12, "num_tails": 12, "policy": policy}
    root = tmp_path_factory.mktemp("rows")
    # The least memory that will do, by its own message: one row at a time, or nearly
    with pytest.raises(StoreError, match="expected at least") as caught:
        write_rows(root, "tiny", pieces, memory_bytes=0, **arguments)
    least = int(str(caught.value).split("at least ")[1].split(" bytes")[0].replace(",", ""))
    stats = write_rows(root, "r", pieces, memory_bytes=least + spare, **arguments)
    indptr, indices = (np.asarray(zarr.open_array(root / "r" / n, mode="r")) for n in ("indptr", "indices"))
    expected = naive_rows(heads, tails, 12, policy)
    assert [indices[a:b].tolist() for a, b in pairwise(indptr.tolist())] == expected
    assert indices.dtype == np.int32
    assert stats.num_edges == sum(map(len, expected))
    assert stats.num_edges + stats.num_duplicates + stats.num_self_loops == len(edges)
    assert not (root / "r" / "scratch").exists()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.integers(9, 40))
def test_ranges_hold_every_tail_once_within_the_budget(degree: list[int], budget: int) -> None:
    first = _ranges(np.array(degree), budget)
    assert first[0] == 0 and first[-1] == len(degree) and (np.diff(first) > 0).all()
    assert all(sum(degree[a:b]) <= budget for a, b in pairwise(first.tolist()))


def test_many_ranges_of_uneven_width(tmp_path: Path) -> None:
    """More tails than the first table of ranges has places, and rows from none to thousands of edges."""
    rng = np.random.default_rng(0)
    num = 200_000
    tails = np.concatenate([rng.integers(0, num, 50_000), rng.integers(777, 780, 9_000)])
    heads = rng.integers(0, 2**40, len(tails))
    order = rng.permutation(len(tails))
    heads, tails = heads[order], tails[order]
    stats = write_rows(
        tmp_path,
        "r",
        in_pieces(heads, tails, 10_000),
        num_heads=2**40,
        num_tails=num,
        policy=Policy(),
        memory_bytes=40 * num + 8 * 4_000,
    )
    indptr, indices = (
        np.asarray(zarr.open_array(tmp_path / "r" / n, mode="r")) for n in ("indptr", "indices")
    )
    stable = np.argsort(tails, kind="stable")
    np.testing.assert_array_equal(indices, heads[stable])
    np.testing.assert_array_equal(np.diff(indptr), np.bincount(tails, minlength=num))
    assert indices.dtype == np.int64 and stats.num_edges == len(tails)


def test_edges_that_change_between_the_passes_are_noticed(tmp_path: Path) -> None:
    calls = iter([([0, 1], [0, 1]), ([0, 1], [1, 1])])

    def pieces() -> Any:
        heads, tails = next(calls)
        yield Piece(np.array(heads), np.array(tails), "memory", 0)

    with pytest.raises(StoreError, match="changed while it was read"):
        write_rows(tmp_path, "r", pieces, num_heads=2, num_tails=2, policy=Policy(), memory_bytes=1 << 20)


USERS, ITEMS = 30, 20


@pytest.fixture
def graph(tmp_path: Path) -> tuple[Path, dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
    """A description of three relations, one a kind of file, and their edges."""
    rng = np.random.default_rng(3)
    edges = {
        "buys": (rng.integers(0, USERS, 300), rng.integers(0, ITEMS, 300)),
        "next_to": (rng.integers(0, ITEMS, 80), rng.integers(0, ITEMS, 80)),
        "knows": (rng.integers(0, USERS, 50), rng.integers(0, USERS, 50)),
    }
    edges["knows"][0][0] = USERS - 1  # the count is the greatest number + 1
    for i in range(2):
        heads, tails = (x[i * 150 : (i + 1) * 150] for x in edges["buys"])
        table = pa.table({"when": np.zeros(150), "src": heads.astype(np.int32), "dst": tails})
        pq.write_table(table, tmp_path / f"buys-{i}.parquet", row_group_size=40)
    np.save(tmp_path / "heads.npy", edges["next_to"][0])
    np.save(tmp_path / "tails.npy", edges["next_to"][1].astype(np.uint16))
    pyarrow.csv.write_csv(pa.table({"a": edges["knows"][0], "b": edges["knows"][1]}), tmp_path / "knows.csv")
    np.save(tmp_path / "item.npy", rng.normal(size=(ITEMS, 3)).astype(np.float32))
    description = {
        "target": "item",
        "nodes": {"user": {}, "item": {"features": "item.npy"}},
        "edges": [
            {"type": ["user", "buys", "item"], "path": ["buys-0.parquet", "buys-1.parquet"]},
            {
                "type": ["item", "next_to", "item"],
                "path": ["heads.npy", "tails.npy"],
                "duplicates": "drop",
                "self_loops": "drop",
            },
            {"type": ["user", "knows", "user"], "path": "knows.csv", "columns": ["a", "b"]},
        ],
    }
    return _write(tmp_path, description), description, edges


def _write(folder: Path, description: dict[str, Any]) -> Path:
    path = folder / "graph.yaml"
    path.write_text(yaml.safe_dump(description), encoding="utf-8")
    return path


def test_a_store_from_parquet_csv_and_npy(graph: Any, tmp_path: Path) -> None:
    path, description, edges = graph
    build_edges(path, tmp_path / "s")
    store = graphstore.open(tmp_path / "s")
    assert store.num_nodes == {"user": USERS, "item": ITEMS} and store.schema.target == "item"
    for edge in description["edges"]:
        src, relation, dst = edge["type"]
        policy = Policy(
            duplicates=edge.get("duplicates", "keep"),
            self_loops=edge.get("self_loops", "keep"),
            same_type=src == dst,
        )
        expected = naive_rows(*edges[relation], store.num_nodes[dst], policy)
        found = store.relation((src, relation, dst))
        assert [found.neighbors(v).tolist() for v in range(found.num_dst)] == expected
        assert found.num_edges == store.num_edges[src, relation, dst]
    np.testing.assert_array_equal(
        store.features("item").gather(np.arange(ITEMS)), np.load(tmp_path / "item.npy")
    )
    with pytest.raises(graphstore.UnknownNameError, match="found 'user', expected one of item"):
        store.features("user")
    assert graphstore.verify(tmp_path / "s") == []
    # The sampler runs on it as on any store
    only = [e for e in store.edge_types if e[2] == "item"]
    batch = NeighborSampler(store, fanout=100, hops=1, seed=0).sample(np.array([4]))
    for edge_type in only:
        heads = batch.nodes[edge_type[0]][batch.edges[edge_type][0]]
        assert sorted(heads.tolist()) == sorted(store.relation(edge_type).neighbors(4).tolist())


def test_one_array_of_pairs_is_the_same_as_two(graph: Any, tmp_path: Path) -> None:
    path, description, _ = graph
    build_edges(path, tmp_path / "two")
    np.save(tmp_path / "pairs.npy", np.stack([np.load(tmp_path / f"{n}.npy") for n in ("heads", "tails")], 1))
    description["edges"][1]["path"] = "pairs.npy"
    build_edges(_write(tmp_path, description), tmp_path / "one", memory_bytes=5_000)
    for name in ("indices", "indptr"):
        shard = f"edges/item/next_to/item/{name}/c/0"
        assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()


def _set(*path: Any) -> Any:
    *keys, value = path

    def change(description: dict[str, Any], folder: Path) -> None:
        place: Any = description
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def _file(name: str, write: Any) -> Any:
    return lambda description, folder: write(folder / name)


def _table(**columns: Any) -> Any:
    return lambda path: pq.write_table(pa.table(columns), path)


FAULTS: dict[str, tuple[Any, str]] = {
    "unknown key": (
        _set("edges", 0, "colour", 1),
        "found the unknown key edges[0].colour",
    ),
    "a key like no other": (
        _set("edges", 0, "zzz", 1),
        "found the unknown key edges[0].zzz; expected one of type",
    ),
    "a key that is nearly one": (
        _set("edges", 0, "duplicate", "drop"),
        "found the unknown key edges[0].duplicate; did you mean duplicates?",
    ),
    "a key of nodes that is nearly one": (
        _set("nodes", "user", {"counts": 3}),
        "found the unknown key nodes.user.counts; did you mean count?",
    ),
    "a key of a group that is nearly one": (
        _set("edges", 0, {"type": ["item", "r", "item"], "group": {"keys": "k.npy", "time": "t.npy"}}),
        "found the unknown key edges[0].group.keys; did you mean key?",
    ),
    "a key of the whole that is nearly one": (
        _set("node", {}),
        "found the unknown key node; did you mean nodes?",
    ),
    "unknown node type": (
        _set("edges", 0, "type", ["user", "buys", "shop"]),
        "found 'shop', expected one of",
    ),
    "no such file": (_set("edges", 2, "path", "gone.csv"), "gone.csv', expected a file"),
    "a name that leaves the store": (_set("edges", 0, "type", ["user", "../x", "item"]), "found '../x'"),
    "unknown policy": (_set("edges", 0, "duplicates", "some"), "duplicates: found 'some'"),
    "target": (_set("target", "shop"), "target: found 'shop'"),
    "count of no number": (_set("nodes", "user", {"count": "many"}), "many"),
    "count too low": (_set("nodes", "user", {"count": 5}), "expected a node number below 5"),
    "count unlike features": (_set("nodes", "item", "count", 7), "found 20 rows, expected 7"),
    "the same relation twice": (_set("edges", 2, "type", ["user", "buys", "item"]), "each relation once"),
    "duplicates refused": (_set("edges", 0, "duplicates", "error"), "found two equal edges that end in node"),
    "self-loops refused": (_set("edges", 2, "self_loops", "error"), "to itself, expected none"),
    "no such column": (_set("edges", 2, "columns", ["a", "z"]), "found a, b, expected 'z'"),
    "not Parquet": (
        _file("buys-1.parquet", lambda p: p.write_bytes(b"PAR1 no")),
        "cannot be read as Parquet",
    ),
    "a missing number": (
        _file("buys-1.parquet", _table(src=[1, None], dst=[1, 2])),
        "record 1: field 'src': found nothing",
    ),
    "a fraction": (_file("buys-1.parquet", _table(src=[1.5], dst=[1])), "found type double"),
    "below zero": (
        _file("buys-1.parquet", _table(src=[1, 1], dst=[1, -2])),
        "record 1: field 'dst': found -2",
    ),
    "text in a CSV": (
        _file("knows.csv", lambda p: p.write_text("a,b\n1,x\n")),
        "record '0': field 'b': found 'x'",
    ),
    "unequal lengths": (
        _file("tails.npy", lambda p: np.save(p, np.arange(3))),
        "found 3 numbers, expected 80",
    ),
    "a cut npy": (_file("heads.npy", lambda p: p.write_bytes(p.read_bytes()[:-9])), "heads.npy"),
    "pickled npy": (
        _file("heads.npy", lambda p: np.save(p, np.array([None] * 80), allow_pickle=True)),
        "cannot be read as npy",
    ),
    "an empty npy": (_file("heads.npy", lambda p: p.write_bytes(b"")), "found an empty file, expected npy"),
    "several arrays": (
        _file("heads.npy", lambda p: np.savez(p.open("wb"), a=np.arange(3))),
        "found several arrays (npz)",
    ),
    "empty features": (_file("item.npy", lambda p: p.write_bytes(b"")), "item.npy: found an empty file"),
    "an empty CSV": (_file("knows.csv", lambda p: p.write_bytes(b"")), "found an empty file"),
    "a fraction in a CSV": (
        _file("knows.csv", lambda p: p.write_text("a,b\n1,2\n1,2.5\n")),
        "record '1': field 'b': found '2.5', expected a whole number",
    ),
    "many digits in a CSV": (
        _file("knows.csv", lambda p: p.write_text("a,b\n1,2\n" + "9" * 30 + ",2\n")),
        "record '1': field 'a': found '999",
    ),
    "a hash for a number": (
        _file("knows.csv", lambda p: p.write_text(f"a,b\n1,2\n{2**60 - 1},2\n")),
        "knows.csv: record 1: found node 1152921504606846975 of user",
    ),
    "a count beyond all": (
        _set("nodes", "user", {"count": 2**60}),
        "node type 'user': found 1152921504606846976 nodes, expected",
    ),
    "a relation called true": (
        _set("edges", 0, "type", ["user", True, "item"]),
        "found True, expected a text",
    ),
    "a column called 1": (_set("edges", 2, "columns", [1, "b"]), "edges[2].columns: found 1"),
    "features with NaN": (
        _file("item.npy", lambda p: np.save(p, np.full((ITEMS, 2), np.nan, np.float32))),
        "record 0: found a value that is not finite",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_in_one_line_and_leaves_no_store(fault: str, graph: Any, tmp_path: Path) -> None:
    path, description, edges = graph
    edges["knows"][1][0] = edges["knows"][0][0]  # a self-loop for certain
    pyarrow.csv.write_csv(pa.table({"a": edges["knows"][0], "b": edges["knows"][1]}), tmp_path / "knows.csv")
    change, words = FAULTS[fault]
    change(description, tmp_path)
    before = {p.name for p in tmp_path.iterdir()}
    with pytest.raises(StoreError) as caught:
        build_edges(_write(path.parent, description), tmp_path / "s")
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert {p.name for p in tmp_path.iterdir()} == before


def test_dropped_edges_are_recorded(graph: Any, tmp_path: Path) -> None:
    path, _, edges = graph
    build_edges(path, tmp_path / "s")
    meta = read_json(tmp_path / "s" / "zarr.json")["attributes"]["relations"]["item/next_to/item"]
    heads, tails = edges["next_to"]
    pairs = set(zip(heads.tolist(), tails.tolist(), strict=True))
    assert meta["num_self_loops_dropped"] == int((heads == tails).sum())
    assert meta["num_edges"] == len({p for p in pairs if p[0] != p[1]})
    assert meta["num_edges"] + meta["num_self_loops_dropped"] + meta["num_duplicates_dropped"] == len(heads)


def test_each_edge_is_told_of_once(graph: Any, tmp_path: Path) -> None:
    """With rows that fit the memory, and with edges on disk between."""
    path, _, edges = graph
    total = sum(len(heads) for heads, _ in edges.values())
    for name, options in (("whole", {}), ("parts", {"memory_bytes": 2_200})):
        told: list[int] = []
        build_edges(path, tmp_path / name, progress=told.append, **options)
        assert sum(told) == total, name


def test_a_description_in_json_is_no_file_of_records(graph: Any, tmp_path: Path) -> None:
    """It is taken for what it is; where records are asked for, what was found is said."""
    _, description, _ = graph
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(description), encoding="utf-8")
    graphstore.build(path, tmp_path / "s")
    assert graphstore.open(tmp_path / "s").dataset.name == "edges"
    with pytest.raises(StoreError, match=r"graph\.json: found a description of a graph"):
        graphstore.build(path, tmp_path / "t", dataset="xsvideo")
    path.write_text(json.dumps({"version": 1, **description}), encoding="utf-8")
    with pytest.raises(
        StoreError, match="found the unknown key version; expected one of nodes, edges, target"
    ):
        graphstore.build(path, tmp_path / "t")
    path.write_text(json.dumps({"nodes": [{"id": 1}], "edges": []}), encoding="utf-8")
    with pytest.raises(StoreError, match=r"graph\.json: found .*expected nodes: an object by name"):
        graphstore.build(path, tmp_path / "t")
    (tmp_path / "notes.txt").write_text("hello")
    for name, found in (("notes.txt", "another file"), ("gone.txt", "no such file"), ("s", "a folder")):
        with pytest.raises(
            StoreError, match=f"{name}: found {found}, expected a source of one of the data sets"
        ):
            graphstore.build(tmp_path / name, tmp_path / "t")
    assert not (tmp_path / "t").exists()


def test_what_edge_lists_lack_is_said_in_one_line(graph: Any, tmp_path: Path) -> None:
    path, _, _ = graph
    build_edges(path, tmp_path / "s")
    store = graphstore.open(tmp_path / "s")
    asked = {
        "labels": lambda: store.labels,
        "post_time": lambda: store.post_time,
        "sampling_time": lambda: store.sampling_time,
        "ids": lambda: store.ids,
        "texts": lambda: store.texts,
        "key": lambda: store.key("topic"),
        "split": lambda: store.split("train"),
        "column": lambda: store.column("item", "stars"),
        "strings": lambda: store.strings("item", "name"),
        "node_ids": lambda: store.node_ids("user"),
        "another type": lambda: store.column("shop", "stars"),
    }
    for name, ask in asked.items():
        with pytest.raises(graphstore.UnknownNameError) as caught:
            ask()
        text = str(caught.value)
        assert "found" in text and "expected" in text and "\n" not in text, name
    assert store.times == {} and not store.has_column("item", "label")
    with pytest.raises(StoreError, match="found the listed relation user/buys/item"):
        graphstore.ExtendedGraph(store, store.dataset.open(path))


def test_leaving_bad_records_out_is_refused(graph: Any, tmp_path: Path) -> None:
    """No edge is a record of its own, so nothing would be left out."""
    path, _, _ = graph
    with pytest.raises(StoreError, match="on_error: found 'skip', expected fail"):
        graphstore.build(path, tmp_path / "s", BuildConfig(on_error="skip"))
    assert not (tmp_path / "s").exists()
