"""Columns of further files by key, and links of several values."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from netgpt import graphstore
from netgpt.graphstore import StoreError
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets import names
from tests.films import GENRES, Row, made

CONFIG = BuildConfig(encoder="hash:16")


def join_files(folder: Path) -> Path:
    """Films; of some the title is in one file, of others in a second, and the minutes are in the second."""
    (folder / "films.csv").write_text("film,title\na,Own\nb,\nc,\nd,\n")
    (folder / "long.csv").write_text("item;title;minutes\nc;Long c;7\nb;Long b;\nz;nobody's;3\n")
    with (folder / "short.jsonl").open("w") as file:
        for row in ({"id": "a", "title": "no"}, {"id": "d", "title": "Short d"}, {"id": "b", "title": "no"}):
            file.write(json.dumps(row) + "\n")
    text = yaml.safe_dump(
        {
            "tables": {
                "film": {
                    "path": "films.csv",
                    "key": "film",
                    "columns": {"title": "text"},
                    "join": [
                        {
                            "path": "long.csv",
                            "separator": ";",
                            "key": "item",
                            "columns": {"title": "text", "minutes": "number"},
                        },
                        {"path": "short.jsonl", "key": "id", "columns": {"title": "text"}},
                    ],
                }
            }
        }
    )
    (folder / "graph.yaml").write_text(text)
    return folder / "graph.yaml"


def test_columns_of_further_files_are_joined_by_key(tmp_path: Path) -> None:
    """The first file that has a value counts; rows that the table lacks are no matter."""
    path = join_files(tmp_path)
    graphstore.build(path, tmp_path / "store", CONFIG)
    store = graphstore.open(str(tmp_path / "store"))
    assert list(store.strings("film", "title")) == ["Own", "Long b", "Long c", "Short d"]
    np.testing.assert_array_equal(store.column("film", "minutes"), [np.nan, np.nan, 7, np.nan])
    before = names.load("tables").open(path, CONFIG).digest()
    (tmp_path / "short.jsonl").write_text('{"id": "a", "title": "x"}\n')
    assert names.load("tables").open(path, CONFIG).digest() != before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"key": ""}, "join[0].key: found '', expected the column that has the table's keys"),
        ({"columns": {}}, "join[0].columns: found 'none', expected columns by name"),
        ({"columns": {"title": "number"}}, "join[0].columns.title: found 'number', expected a text"),
        ({"links": {"title": "x"}}, "unknown key tables.film.join[0].links"),
        ({"path": "none.csv"}, "join[0].path: found"),
    ],
)
def test_joins_that_cannot_be_meant_are_refused(tmp_path: Path, change: Row, words: str) -> None:
    path = join_files(tmp_path)
    described = yaml.safe_load(path.read_text())
    described["tables"]["film"]["join"][0] |= change
    path.write_text(yaml.safe_dump(described))
    with pytest.raises(StoreError) as caught:
        graphstore.build(path, tmp_path / "store", CONFIG)
    assert words in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_a_bad_row_of_a_joined_file_is_named_or_counted(tmp_path: Path) -> None:
    path = join_files(tmp_path)
    (tmp_path / "long.csv").write_text("item;title;minutes\nc;Long c;seven\nb;Long b;2\nb;twice;3\n")
    with pytest.raises(StoreError, match=r"long\.csv.*record '0'.*minutes.*'seven'"):
        graphstore.build(path, tmp_path / "store", CONFIG)
    graphstore.build(path, tmp_path / "store", BuildConfig(encoder="hash:16", on_error="skip"))
    store = graphstore.open(str(tmp_path / "store"))
    assert list(store.strings("film", "title")) == ["Own", "Long b", "", "Short d"]
    np.testing.assert_array_equal(store.column("film", "minutes"), [np.nan, 2, np.nan, np.nan])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_row_may_link_to_several(tmp_path: Path, kind: str, keyed: bool) -> None:
    """To the distinct values of a column of lists, or to rows of a table; one twice, and an empty one."""
    rng, films = np.random.default_rng(0), made()["film"]
    of = [sorted(set(rng.choice(GENRES, int(rng.integers(0, 4))).tolist())) for _ in films]
    rows = [{"film": f["film"], "genres": one} for f, one in zip(films, of, strict=True)]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "films.parquet")
    else:
        with (tmp_path / "films.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["film", "genres"])
            writer.writerows([r["film"], " | ".join([*r["genres"], *r["genres"][:1], ""])] for r in rows)
    categories = "categories" if kind == "parquet" else {"categories": "|"}
    table = {
        "path": f"films.{kind}",
        "key": "film",
        "columns": {"genres": categories},
        "links": {"genres": "genre"},
    }
    tables: Row = {"film": table}
    if keyed:
        (tmp_path / "genres.csv").write_text("genre\n" + "\n".join(GENRES))
        tables["genre"] = {"path": "genres.csv", "key": "genre"}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump({"target": "film", "tables": tables}))
    graphstore.build(tmp_path / "graph.yaml", tmp_path / "store", CONFIG)
    store = graphstore.open(str(tmp_path / "store"))
    genres, ids = list(store.node_ids("genre")), list(store.node_ids("film"))
    assert sorted(genres) == sorted(GENRES if keyed else {g for one in of for g in one})
    back, there = store.relation(("genre", "rev_genres", "film")), store.relation(("film", "genres", "genre"))
    for v, one in enumerate(of):
        assert sorted(genres[u] for u in back.neighbors(v)) == one
    for u, genre in enumerate(genres):
        found = sorted(ids[v] for v in there.neighbors(u))
        assert found == sorted(f["film"] for f, one in zip(films, of, strict=True) if genre in one)
    assert [json.loads(text) for text in store.strings("film", "genres")] == of


def test_one_of_several_links_that_dangles_is_named_with_its_row(tmp_path: Path) -> None:
    (tmp_path / "films.csv").write_text("film,genres\na,war\nb,war|none\nc,\n")
    (tmp_path / "genres.csv").write_text("genre\nwar\n")
    table = {
        "path": "films.csv",
        "key": "film",
        "columns": {"genres": {"categories": "|"}},
        "links": {"genres": "genre"},
    }
    described = {"target": "film", "tables": {"film": table, "genre": {"path": "genres.csv", "key": "genre"}}}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(StoreError, match=r"films\.csv: record '1': field 'genres': found 'none'"):
        graphstore.build(tmp_path / "graph.yaml", tmp_path / "store", CONFIG)
    config = BuildConfig(encoder="hash:16", on_error="skip")
    graphstore.build(tmp_path / "graph.yaml", tmp_path / "store", config)
    store = graphstore.open(str(tmp_path / "store"))
    assert (
        store.num_edges[("film", "genres", "genre")] == 2 == store.num_edges[("genre", "rev_genres", "film")]
    )
    table["columns"] = {"genres": "number"}
    (tmp_path / "graph.yaml").write_text(yaml.safe_dump(described))
    with pytest.raises(StoreError, match=r"columns\.genres: found 'number', expected categories, a category"):
        graphstore.build(tmp_path / "graph.yaml", tmp_path / "other", CONFIG)
