"""Files of other tools as they are: each is the store that a description by hand makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from netgpt import graphstore
from netgpt.graphstore import Store, StoreError
from netgpt.graphstore.datasets import names
from netgpt.graphstore.datasets.tables.commands import describe


def built(source: Path, store: Path) -> Store:
    graphstore.build(source, store)
    return graphstore.open(store)


def same_arrays(one: Store, other: Store) -> None:
    assert one.schema.to_dict() == other.schema.to_dict()
    for node_type in one.node_types:
        assert one.num_nodes[node_type] == other.num_nodes[node_type]
        for column in one.schema.node_type(node_type).columns:
            if column.kind in ("id", "text"):
                assert list(one.strings(node_type, column.name)) == list(
                    other.strings(node_type, column.name)
                )
            elif column.kind == "category":
                (a, values), (b, others) = (s.category(node_type, column.name) for s in (one, other))
                assert [values[i] for i in a if i >= 0] == [others[i] for i in b if i >= 0]
                assert (np.asarray(a) >= 0).tolist() == (np.asarray(b) >= 0).tolist()
            else:
                np.testing.assert_array_equal(
                    one.column(node_type, column.name), other.column(node_type, column.name)
                )
    for edge_type in one.edge_types:
        a, b = one.relation(edge_type), other.relation(edge_type)
        for x, y in zip(a.to_csr(), b.to_csr(), strict=True):
            np.testing.assert_array_equal(x, y)
        for name in a.numbers:
            np.testing.assert_array_equal(a.numbers[name], b.numbers[name])


CONSTRUCTION: dict[str, Any] = {
    "version": "gconstruct-v0.1",
    "nodes": [
        {
            "node_id_col": "~id",
            "node_type": "movie",
            "format": {"name": "parquet"},
            "files": ["movie-*.parquet"],
            "features": [
                {"feature_col": "title", "transform": {"name": "bert_hf", "bert_model": "m"}},
                {"feature_col": ["year"], "transform": {"name": "max_min_norm"}},
                {"feature_col": "genres", "transform": {"name": "to_categorical", "separator": ";"}},
            ],
            "labels": [{"label_col": "kind", "task_type": "classification", "split_pct": [0.8, 0.1, 0.1]}],
        },
        {
            "node_id_col": "~id",
            "node_type": "user",
            "format": {"name": "csv", "separator": "|"},
            "files": "user.csv",
            "features": [{"feature_col": "age", "transform": {"name": "bucket"}}],
        },
    ],
    "edges": [
        {
            "source_id_col": "~from",
            "dest_id_col": "~to",
            "relation": ["user", "rated", "movie"],
            "format": {"name": "csv"},
            "files": "rated.csv",
            "labels": [{"label_col": "stars", "task_type": "regression"}],
        },
        {
            "source_id_col": "~from",
            "dest_id_col": "~to",
            "relation": ["movie", "rated", "board"],
            "format": {"name": "csv", "separator": ","},
            "files": ["board.csv"],
        },
    ],
}
BY_HAND = """
target: movie
tables:
  movie:
    path: movie-*.parquet
    key: id
    rename: {"~id": id}
    columns: {title: text, year: number, genres: {categories: ";"}, kind: category}
    features: [title, year, genres]
    document: [title, genres]
  user:
    {path: user.csv, separator: "|", key: id, rename: {"~id": id}, columns: {age: number}, features: [age]}
  board: {features: []}
  user_rated_movie:
    path: rated.csv
    rename: {"~from": from, "~to": to}
    columns: {stars: number}
    links: {from: user, to: movie}
    relation: {name: rated}
  movie_rated_board:
    path: board.csv
    rename: {"~from": from, "~to": to}
    links: {from: movie, to: board}
    relation: {name: rated}
"""


def construction(folder: Path, content: Any = CONSTRUCTION) -> Path:
    for i, ids in enumerate((["m1", "m2"], ["m3"])):
        table = pd.DataFrame({"~id": ids, "title": [f"t {one}" for one in ids], "year": 1990 + i})
        table["genres"], table["kind"] = "a;b", ["x", "y"][: len(ids)]
        table.to_parquet(folder / f"movie-{i}.parquet", index=False)
    (folder / "user.csv").write_text("~id|age\nann|30\nbob|\n")
    (folder / "rated.csv").write_text("~from,~to,stars\nann,m1,3\nbob,m3,4.5\nann,m2,1\n")
    (folder / "board.csv").write_text("~from,~to\nm1,fsk\nm2,mpaa\n")
    (folder / "graph.json").write_text(json.dumps(content, indent=4))
    return folder / "graph.json"


def test_a_construction_file_of_graphstorm(tmp_path: Path) -> None:
    source = construction(tmp_path)
    assert names.of_source(source).name == "tables"
    (tmp_path / "hand.yaml").write_text(BY_HAND)
    same_arrays(built(source, tmp_path / "a"), built(tmp_path / "hand.yaml", tmp_path / "b"))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (
            ("nodes", 0, "format", "name"),
            "hdf5",
            r"nodes\[0\].format.name: found 'hdf5', expected parquet or",
        ),
        (("nodes", 1, "node_type"), "movie", r"nodes\[1\].node_type: found 'movie', expected each node type"),
        (
            ("edges", 1, "relation"),
            ["user", "rated", "movie"],
            r"edges\[1\].relation: found .* each relation",
        ),
        (("edges", 0, "relation"), "rated", r"edges\[0\].relation: found 'rated', expected \[source"),
        (("edges", 0, "dest_id_col"), 3, r"edges\[0\].dest_id_col: found 3, expected a text"),
        (("nodes", 0, "features", 0, "feature_col"), None, r"features\[0\].feature_col: found None"),
        (("nodes", 1, "files"), "none.csv", "none.csv', expected a file"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    place: tuple[Any, ...], value: Any, message: str, tmp_path: Path
) -> None:
    content = json.loads(json.dumps(CONSTRUCTION))
    within = content
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    with pytest.raises(StoreError, match=message):
        graphstore.build(construction(tmp_path, content), tmp_path / "store")
    assert not (tmp_path / "store").exists()


def _relbench(
    file: Path, table: pd.DataFrame, links: dict[str, str], key: str | None, time: str | None
) -> None:
    """A table as RelBench writes it: what is a key is in the metadata of the Parquet file."""
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    said = {"fkey_col_to_pkey_table": links, "pkey_col": key, "time_col": time}
    metadata = {name.encode(): json.dumps(value).encode() for name, value in said.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), **metadata}), file)


def database(folder: Path) -> Path:
    times = pd.to_datetime(["2020-01-01", "2020-01-02", "2020-01-03"])
    drivers = pd.DataFrame({"Driver Id": [0, 1], "name": ["ann", "bob"]})
    _relbench(folder / "db" / "drivers.parquet", drivers, {}, "Driver Id", None)
    results = pd.DataFrame(
        {"who": [1, None, 0], "raceId": [0, 0, 0], "points": [3.0, 2.0, 1.0], "date": times}
    )
    links = {"who": "drivers", "raceId": "races"}
    _relbench(folder / "db" / "results.parquet", results, links, None, "date")
    races = pd.DataFrame({"raceId": [0], "round": [7]})
    _relbench(folder / "db" / "races.parquet", races, {}, "raceId", None)
    return folder


@pytest.mark.parametrize("place", [".", "db"])
def test_a_database_of_relbench(place: str, tmp_path: Path) -> None:
    """Every row is a node; a foreign key that pandas made floating, for one is missing, is no edge."""
    source = database(tmp_path / "rel-f1") / place
    assert names.of_source(source).name == "tables"
    store = built(source, tmp_path / "store")
    assert store.num_nodes == {"drivers": 2, "races": 1, "results": 3}
    indptr, heads = store.relation(("results", "who", "drivers")).to_csr()
    assert indptr.tolist() == [0, 1, 2] and heads.tolist() == [2, 0]
    assert store.num_edges[("races", "rev_raceId", "results")] == 3
    assert list(store.strings("drivers", "name")) == ["ann", "bob"]
    assert store.column("results", "date")[2] == pd.Timestamp("2020-01-03").timestamp()
    assert store.column("results", "points").tolist() == [3, 2, 1]
    assert store.attributes["source_digest"] == built(source, tmp_path / "again").attributes["source_digest"]


def test_a_table_without_keys_among_those_of_relbench(tmp_path: Path) -> None:
    folder = database(tmp_path / "rel-f1")
    pd.DataFrame({"a": [1]}).to_parquet(folder / "db" / "races.parquet")
    with pytest.raises(StoreError, match=r"races.parquet: metadata: found 'none', expected pkey_col"):
        graphstore.build(folder, tmp_path / "store")


def test_what_is_described_is_the_same_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `netgpt describe` prints, saved beside the source."""
    source = construction(tmp_path)
    describe(source)
    (tmp_path / "said.yaml").write_text(capsys.readouterr().out)
    same_arrays(built(source, tmp_path / "a"), built(tmp_path / "said.yaml", tmp_path / "b"))
    folder = database(tmp_path / "rel-f1")
    describe(folder)
    (tmp_path / "rel.yaml").write_text(capsys.readouterr().out)
    same_arrays(built(folder, tmp_path / "c"), built(tmp_path / "rel.yaml", tmp_path / "d"))


def test_a_key_that_is_no_whole_number(tmp_path: Path) -> None:
    pd.DataFrame({"id": [1.0, 2.5]}).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "graph.yaml").write_text("tables: {a: {path: a.parquet, key: id}}\n")
    with pytest.raises(StoreError, match=r"record '1': field 'id': found '?2.5'?, expected a whole number"):
        graphstore.build(tmp_path / "graph.yaml", tmp_path / "store")


def test_parts_by_files_of_ids(tmp_path: Path) -> None:
    """Each file says by its ids what part their rows are of: a category, for `task.split.by: column`."""
    (tmp_path / "a.csv").write_text("id,n\n" + "".join(f"k{i},{i}\n" for i in range(6)))
    (tmp_path / "val.txt").write_text("k1\nk4\n")
    (tmp_path / "test.txt").write_text("k0\nk9\n")
    (tmp_path / "graph.yaml").write_text(
        """
tables:
  a:
    path: a.csv
    key: id
    columns: {n: number}
    join:
      - {path: val.txt, header: [id], key: id, columns: {part: {category: val}}}
      - {path: test.txt, header: [id], key: id, columns: {part: {category: test}}}
"""
    )
    codes, values = built(tmp_path / "graph.yaml", tmp_path / "store").category("a", "part")
    assert [values[i] if i >= 0 else "" for i in codes] == ["test", "val", "", "", "val", ""]
