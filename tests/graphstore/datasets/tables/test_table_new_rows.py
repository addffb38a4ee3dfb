"""New rows of a store of tables join it as if they had been built with it: by the store of all rows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.graphstore import EdgeType, ExtendedGraph, Graph, ReadReport, StoreError
from netgpt.graphstore.dataset import HeldSource
from netgpt.graphstore.errors import RecordError
from netgpt.graphstore.writer import build_config

OLD, NEW = 60, 25
DESCRIPTION = """
target: film
tables:
  studio: {path: studio.csv, key: id, columns: {name: text}}
  film:
    path: films.csv
    key: id
    time: at
    columns: {title: text, stars: number, length: number, kind: category, genres: {categories: "|"}}
    features: [title, length]
    document: [title, genres]
    links: {studio: studio, genres: genre, sequel_of: film}
  rating:
    path: ratings.csv
    rows: edges
    time: at
    columns: {stars: number}
    links: {user: user, film: film}
relations:
  - {name: same_studio_as, of: film, group: studio, ties: strict}
  - {name: same_kind_as, of: film, group: kind}
  - {name: of_same_studio, of: film, group: studio, ties: strict, tells: [stars]}
"""
HEAD = "id,title,stars,length,kind,genres,studio,sequel_of,at\n"


def films(seed: int = 0) -> list[str]:
    """Lines of a table; all links are to what the first of them have, or to earlier films."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(OLD + NEW):
        studio = f"s{i % 7}" if i < 7 else f"s{rng.integers(7)}" if rng.random() < 0.8 else ""
        genres = "|".join(f"g{g}" for g in rng.permutation(5)[: rng.integers(0, 4)]) if i >= 5 else f"g{i}"
        sequel = f"f{rng.integers(i)}" if i and rng.random() < 0.4 else ""
        kind = "abc"[rng.integers(3)]
        at = 1_600_000_000 + int(rng.integers(0, 12)) + (20 if i >= OLD else 0)
        lines.append(f"f{i},title {i % 9},{i % 5},{i},{kind},{genres},{studio},{sequel},{at}\n")
    return lines


def described(folder: Path, lines: list[str]) -> Path:
    folder.mkdir()
    (folder / "graph.yaml").write_text(DESCRIPTION)
    (folder / "studio.csv").write_text("id,name\n" + "".join(f"s{i},studio {i}\n" for i in range(7)))
    (folder / "films.csv").write_text(HEAD + "".join(lines))
    ratings = "".join(f"u{i % 4},f{i % OLD},{i % 5},{1_600_000_000 + i}\n" for i in range(90))
    (folder / "ratings.csv").write_text("user,film,stars,at\n" + ratings)
    return folder / "graph.yaml"


def joined(store: Path, data: Path) -> ExtendedGraph:
    opened = graphstore.open(store)
    return ExtendedGraph(opened, HeldSource(opened.dataset.open_new(opened, data, build_config(opened))))


def rows_of(graph: Graph, edge_type: EdgeType) -> list[list[int]]:
    relation = graph.relation(edge_type)
    return [relation.neighbors(v).tolist() for v in range(relation.num_dst)]


def test_new_rows_are_those_of_a_build_of_all_rows(tmp_path: Path) -> None:
    lines = films()
    graphstore.build(described(tmp_path / "old", lines[:OLD]), tmp_path / "store")
    graphstore.build(described(tmp_path / "all", lines), tmp_path / "whole")
    (tmp_path / "new.csv").write_text(HEAD + "".join(lines[OLD:]))
    graph, whole = joined(tmp_path / "store", tmp_path / "new.csv"), graphstore.open(tmp_path / "whole")
    store = graphstore.open(tmp_path / "store")
    assert graph.num_nodes == whole.num_nodes and graph.num_new == NEW
    assert list(graph.node_ids("film")) == list(whole.node_ids("film"))
    assert set(graph.edge_types) == set(whole.edge_types)
    for edge_type in whole.edge_types:
        found, expected = rows_of(graph, edge_type), rows_of(whole, edge_type)
        if edge_type[2] == "film":  # new nodes have their rows
            assert found[OLD:] == expected[OLD:], edge_type
        old = rows_of(store, edge_type)  # and those of the store's nodes are as they were
        assert found[: len(old)] == old, edge_type
    assert sum(map(len, rows_of(graph, ("film", "rev_sequel_of", "film"))[OLD:])) > 3
    nodes = np.arange(OLD + NEW)
    for name in whole.schema.encoded_types:
        some = nodes[: whole.num_nodes[name]]
        np.testing.assert_array_equal(graph.features(name).gather(some), whole.features(name).gather(some))
    for column in ("stars", "length", "at"):
        np.testing.assert_array_equal(graph.column("film", column), whole.column("film", column))
    assert list(graph.texts) == list(whole.texts)


def test_the_label_may_be_absent_and_what_is_unknown_is_no_edge(tmp_path: Path) -> None:
    graphstore.build(described(tmp_path / "old", films()[:OLD]), tmp_path / "store")
    new = {"id": "n", "title": "t", "length": 3, "genres": "g1|other", "studio": "s99", "sequel_of": None}
    (tmp_path / "new.jsonl").write_text(json.dumps({**new, "at": 1_700_000_000}) + "\n")
    store = graphstore.open(tmp_path / "store")
    report = ReadReport()
    source = HeldSource(store.dataset.open_new(store, tmp_path / "new.jsonl", build_config(store), report))
    graph = ExtendedGraph(store, source)
    assert np.isnan(graph.column("film", "stars")[OLD])
    assert rows_of(graph, ("studio", "rev_studio", "film"))[OLD] == []
    genre = list(store.node_ids("genre")).index("g1")
    assert rows_of(graph, ("genre", "rev_genres", "film"))[OLD] == [genre]
    assert dict(report.dangling) == {"studio": 1, "genres": 1}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "new.csv",
            "id,title,length,genres,sequel_of,at\n",
            r"new.csv: column: found .* expected 'studio' once",
        ),
        (
            "new.csv",
            HEAD.replace("title", "name"),
            r"field 'title': found no such column|title.*no such column",
        ),
        ("new.csv", HEAD + "f3,t,1,1,a,g1,s1,,1600000000\n", r"record '0': field 'id': found 'f3'"),
        ("new.csv", HEAD + "n,t,1,x,a,g1,s1,,1600000000\n", r"field 'length': found 'x', expected a number"),
        ("new.pdf", HEAD, r"found no such file, expected one whose name ends in .parquet"),
    ],
)
def test_bad_new_rows_are_one_line(name: str, content: str, message: str, tmp_path: Path) -> None:
    graphstore.build(described(tmp_path / "old", films()[:OLD]), tmp_path / "store")
    (tmp_path / name).write_text(content)
    with pytest.raises((StoreError, RecordError), match=message):
        joined(tmp_path / "store", tmp_path / name)
