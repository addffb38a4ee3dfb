"""What files of edges and descriptions may hold beside what is asked for, and numbers that no memory has."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from netgpt import graphstore
from netgpt.graphstore import StoreError, build_edges
from netgpt.graphstore.datasets import names
from netgpt.sampler import NeighborSampler, SamplerError

PLAIN = "nodes: {user: {}}\nedges: [{type: [user, knows, user], path: knows.csv, columns: [a, b]}]\n"


@pytest.fixture
def knows(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A description of one relation in a CSV file, and its edges [E, 2]."""
    edges = np.random.default_rng(3).integers(0, 30, (50, 2))
    np.savetxt(tmp_path / "knows.csv", edges, "%d", ",", header="a,b", comments="")
    (tmp_path / "graph.yaml").write_text(PLAIN)
    return tmp_path / "graph.yaml", edges


def rows_of(store: Path) -> list[bytes]:
    return [(store / f"edges/user/knows/user/{name}/c/0").read_bytes() for name in ("indices", "indptr")]


def test_columns_that_nobody_asked_for_hold_anything(knows: Any, tmp_path: Path) -> None:
    """Behind the first block too, of which types are guessed; the header is in another encoding."""
    path, edges = knows
    build_edges(path, tmp_path / "before")
    notes = [*["1" * 400_000] * (len(edges) - 5), "hello", "1.5", "9" * 20, "é", ""]
    lines = [f"{note},{u},{v}" for note, (u, v) in zip(notes, edges, strict=True)]
    (tmp_path / "knows.csv").write_bytes(b"w\xe4,a,b\n" + "\n".join(lines).encode("latin-1") + b"\n")
    assert (tmp_path / "knows.csv").stat().st_size > 17e6
    build_edges(path, tmp_path / "after")
    assert rows_of(tmp_path / "after") == rows_of(tmp_path / "before")


@pytest.mark.parametrize("beginning", [b"\n", b"\r\n\n", b"\xef\xbb\xbf"])
def test_empty_lines_and_marks_before_a_header_are_none(beginning: bytes, knows: Any, tmp_path: Path) -> None:
    path, _ = knows
    build_edges(path, tmp_path / "before")
    (tmp_path / "knows.csv").write_bytes(beginning + (tmp_path / "knows.csv").read_bytes())
    build_edges(path, tmp_path / "after")
    assert rows_of(tmp_path / "after") == rows_of(tmp_path / "before")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (b"1,2\n+1,2\n", "record '1': field 'a': found '+1', expected a whole number"),
        (b"0x1F,2\n1,x\n", "record '1': field 'b': found 'x', expected a whole number"),
        (b"1,2\n\xff,3\n", r"record '1': field 'a': found '\\xff', expected a whole number"),
        ((b"0" * 1000 + b"1,2\n") * 17_000 + b"1,y\n", "record '17000': field 'b': found 'y'"),
    ],
)
def test_a_value_that_is_no_number_has_its_record(
    lines: bytes, words: str, knows: Any, tmp_path: Path
) -> None:
    (tmp_path / "knows.csv").write_bytes(b"a,b\n" + lines)
    with pytest.raises(StoreError) as caught:
        build_edges(knows[0], tmp_path / "s")
    assert words.replace("\\\\", "\\") in str(caught.value).replace("\\\\", "\\")


def test_a_column_of_nodes_that_changes_its_kind_has_its_record(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 2), np.float32))
    (tmp_path / "n.csv").write_text("shop,day\na,1\nb,2\na,3\nb,soon\n")
    group = "{path: n.csv, key: shop, time: day}"
    (tmp_path / "g.yaml").write_text(f"nodes: {{u: {{}}}}\nedges: [{{type: [u, same, u], group: {group}}}]\n")
    with pytest.raises(StoreError, match=r"n\.csv: ") as caught:
        build_edges(tmp_path / "g.yaml", tmp_path / "s")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dataset", ["edges", "tables", "interactions"])
def test_a_source_that_was_opened_by_a_relative_path_is_read_from_anywhere(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "e.csv").write_text("src,dst\n0,1\n1,0\n2,1\n0,2\n1,2\n2,0\n")
    texts = {
        "edges": "nodes: {u: {}}\nedges: [{type: [u, r, u], path: e.csv}]\n",
        "tables": "tables: {u: {path: '*.csv', columns: {src: number, dst: category}}}\n",
        "interactions": "interactions: {path: e.csv, user: src, item: dst}\n",
    }
    (tmp_path / "g.yaml").write_text(texts[dataset])
    monkeypatch.chdir(tmp_path)
    source = names.load(dataset).open(Path("g.yaml"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    graphstore.build(source, tmp_path / "s", dataset=dataset)
    assert graphstore.open(tmp_path / "s").node_types


@pytest.mark.parametrize("header", ["a,b", "a,b\n", "a,b\r\n"])
def test_a_file_of_a_header_alone_has_no_edges(header: str, knows: Any, tmp_path: Path) -> None:
    path, _ = knows
    path.write_text(PLAIN.replace("user: {}", "user: {count: 5}"))
    (tmp_path / "knows.csv").write_bytes(header.encode())
    build_edges(path, tmp_path / "s")
    assert graphstore.open(tmp_path / "s").num_edges["user", "knows", "user"] == 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("{type: [user, on, item], path: e.csv}", "found on in line 2, which YAML reads as True"),
        ("{type: [user, No, item], path: e.csv}", "found No in line 2, which YAML reads as False"),
        ("{type: [user, 010, item], path: e.csv}", "found 010 in line 2, which YAML reads as 8"),
        ("{type: [user, 1:30, item], path: e.csv}", "found 1:30 in line 2, which YAML reads as 90"),
        ("{type: [user, 1.10, item], path: e.csv}", "edges[0].type: found 1.1, expected a text; in quotes"),
        ("{type: [user, r, item], path: e.csv, true: x}", "found the key True, expected a text"),
        ("{type: [user, r, item], path: e.csv, 1_0: x}", "found the key 10, expected a text"),
    ],
)
def test_yaml_that_says_something_else_is_refused(words: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("src,dst\n0,0\n")
    path = tmp_path / "graph.yaml"
    path.write_text(f"nodes: {{user: {{}}, item: {{}}}}\nedges: [{words}]\n")
    with pytest.raises(StoreError) as caught:
        build_edges(path, tmp_path / "s")
    assert found in str(caught.value) and "\n" not in str(caught.value)


def test_names_in_quotes_are_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("src,dst\n0,0\n")
    path = tmp_path / "graph.yaml"
    path.write_text("nodes: {'no': {}, '1': {}}\nedges: [{type: ['no', 'on', '1'], path: e.csv}]\n")
    build_edges(path, tmp_path / "s")
    assert graphstore.open(tmp_path / "s").edge_types == (("no", "on", "1"),)


def test_numbers_that_are_hashes_are_refused_where_a_table_would_be_too_large(tmp_path: Path) -> None:
    """A head of 2^40 costs a store nothing, and the sampler a table that no memory has; of 2^60 - 2 too."""
    if Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "1":
        pytest.skip("this machine lends memory that it has not")
    path = tmp_path / "graph.yaml"
    path.write_text("nodes: {u: {}, v: {count: 10}}\nedges: [{type: [u, r, v], path: e.parquet}]\n")
    for head in (2**40, 2**60 - 2):
        pq.write_table(pa.table({"src": [head], "dst": [1]}), tmp_path / "e.parquet")
        build_edges(path, tmp_path / str(head))
        store = graphstore.open(tmp_path / str(head))
        assert store.num_nodes["u"] == head + 1 and graphstore.verify(store.path) == []
        with pytest.raises(SamplerError, match="expected a table of 8 bytes for each to fit in memory"):
            NeighborSampler(store, fanout=2).sample({"v": np.array([1])})
    path.write_text("nodes: {u: {}, v: {}}\nedges: [{type: [u, r, v], path: e.parquet}]\n")
    pq.write_table(pa.table({"src": [1], "dst": [2**40]}), tmp_path / "e.parquet")
    for memory in (10**9, 10**14):
        with pytest.raises(StoreError, match=r"1,099,511,627,777 tails") as caught:
            build_edges(path, tmp_path / "tails", memory_bytes=memory)
        assert "\n" not in str(caught.value) and not (tmp_path / "tails").exists()


def test_many_ranges_need_few_open_files(tmp_path: Path) -> None:
    """At the least memory that the builder itself names, in a process that may open 128 files."""
    pairs = np.random.default_rng(0).integers(0, 4_000, (12_000, 2))
    np.save(tmp_path / "e.npy", pairs)
    path = tmp_path / "graph.yaml"
    path.write_text("nodes: {u: {count: 4000}}\nedges: [{type: [u, r, u], path: e.npy}]\n")
    build_edges(path, tmp_path / "whole")
    least = 1000
    while not (tmp_path / "named").exists():
        try:
            build_edges(path, tmp_path / "named", memory_bytes=least)
        except StoreError as error:  # the longest row is known once rows are counted
            (said,) = re.findall(r"at least (\d+) bytes", str(error).replace(",", ""))
            assert int(said) > least
            least = int(said)
    code = (
        "import sys; from netgpt.graphstore import build_edges; "
        "build_edges(sys.argv[1], sys.argv[2], memory_bytes=int(sys.argv[3]))"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "least"), str(least)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)),
        check=True,
    )
    for name in ("indices", "indptr"):
        shard = f"edges/u/r/u/{name}/c/0"
        assert (tmp_path / "least" / shard).read_bytes() == (tmp_path / "whole" / shard).read_bytes()
