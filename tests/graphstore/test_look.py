"""What `netgpt data` says of a source, against counts made here and scipy's correlation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import spearmanr
from typer.testing import CliRunner

from netgpt.cluster.cli import app
from netgpt.graphstore import BuildConfig, StoreError
from netgpt.graphstore.datasets import names
from netgpt.graphstore.look import LEAK, _told, look, look_table
from netgpt.graphstore.ranks import rank_correlation

NUM = 60


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Posts of authors: views give clicks away, and place gives views away where it is a tenth of them."""
    rng = np.random.default_rng(0)
    views = rng.integers(0, 1000, NUM).astype(np.float64)
    posts = {
        "id": [f"p{i}" for i in range(NUM)],
        "title": ["" if i % 6 == 0 else f"post {i}" for i in range(NUM)],
        "at": np.arange(NUM) * 86_400,
        "views": [None if i == 3 else v for i, v in enumerate(views)],
        "clicks": views * 2 + 1,
        "noise": rng.normal(size=NUM),
        "place": [f"c{int(v) // 250}" for v in views],
        "author": [f"a{i % 7}" if i != 5 else "nobody" for i in range(NUM)],
    }
    pq.write_table(pa.table(posts), tmp_path / "posts.parquet")
    pq.write_table(pa.table({"name": [f"a{i}" for i in range(7)] + ["a1"]}), tmp_path / "authors.parquet")
    columns = {"title": "text", "views": "number", "clicks": "number", "noise": "number", "place": "category"}
    described: dict[str, Any] = {
        "tables": {
            "post": {
                "path": "posts.parquet",
                "key": "id",
                "time": "at",
                "columns": columns,
                "links": {"author": "author"},
            },
            "author": {"path": "authors.parquet", "key": "name"},
        },
        "relations": [{"name": "same_place", "of": "post", "group": "place"}],
    }
    path = tmp_path / "graph.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False))
    return path


def opened(path: Path) -> Any:
    return names.load("tables").open(path, BuildConfig(on_error="skip"))


def test_tables_columns_links_and_bad_rows_are_counted(source: Path) -> None:
    facts = look(opened(source), "tables")
    post, author = facts.tables
    assert (post.name, post.num_rows, author.name, author.num_rows) == ("post", NUM, "author", 7)
    columns = {column.name: column for column in post.columns}
    assert [columns[name].num_empty for name in ("title", "views", "at", "place")] == [10, 1, 0, 0]
    assert (columns["at"].low, columns["at"].high) == (0, (NUM - 1) * 86_400)
    assert columns["at"].examples[:2] == ["1970-01-01 00:00:00", "1970-01-02 00:00:00"]
    assert columns["title"].examples == ["post 1", "post 2", "post 3"]
    assert columns["place"].num_values == 4
    assert post.features == "text of title" and author.features == "none"
    assert facts.left_out == {"name": 1} and facts.dangling == {"author": 1}
    assert "'a1', expected each key once" in str(facts.first_bad)
    assert facts.edges == {"post/author/author": NUM - 1, "author/rev_author/post": NUM - 1}
    assert facts.rules == {"post/same_place/post": "same place"}
    assert facts.label is None and not any(c.tells_label for c in post.columns)


def test_columns_that_tell_the_label_are_named(source: Path) -> None:
    facts = look(opened(source), "tables", "views")
    told = {c.name: c.tells_label for c in facts.tables[0].columns if c.tells_label is not None}
    assert told == {"clicks": 1.0}
    assert (
        facts.label is not None and facts.label["least"] <= facts.label["median"] <= facts.label["greatest"]
    )
    by_place = look(opened(source), "tables", "place")
    assert by_place.label is not None and sum(by_place.label.values()) == NUM
    assert "leak     post.clicks tells the label (1.0000)" in look_table(facts)


@pytest.mark.parametrize("label", ["title", "id", "at", "nothing"])
def test_a_label_is_a_number_or_a_category_of_the_target(source: Path, label: str) -> None:
    with pytest.raises(
        StoreError, match=f"--label: found '{label}', expected one of views, clicks, noise, place"
    ):
        look(opened(source), "tables", label)


def test_rank_correlation_is_scipys() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, y = rng.integers(0, 8, (2, 50)).astype(np.float64)
        assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
    assert rank_correlation(np.ones(9), np.arange(9.0)) is None


def test_values_that_come_once_tell_nothing() -> None:
    y = np.arange(40) % 4
    assert _told(np.arange(40.0), y.astype(float)) == 0  # an id
    assert _told((np.arange(40) % 8).astype(float), y.astype(float)) == 1  # two values a label
    assert _told(np.zeros(40), np.zeros(40)) == 0  # a constant says as much
    assert _told((np.arange(40) % 2).astype(float), y.astype(float)) < LEAK


def test_the_command_reads_every_kind_of_source(source: Path, tmp_path: Path) -> None:
    records, edges = tmp_path / "records.json", tmp_path / "edges.yaml"
    names.load("xsvideo").write_synthetic(records, 0.0005, 0)
    np.save(tmp_path / "pairs.npy", np.array([[0, 1], [2, 1]]))
    edges.write_text("nodes: {a: {}}\nedges: [{type: [a, to, a], path: pairs.npy}]\n")
    for path, data_set in ((source, "tables"), (records, "xsvideo"), (edges, "edges")):
        done = CliRunner().invoke(app, ["data", str(path), "--json"], catch_exceptions=False)
        facts = json.loads(done.stdout)
        assert done.exit_code == 0 and facts["dataset"] == data_set
        assert CliRunner().invoke(app, ["data", str(path)]).stdout.startswith(f"source   {path}\n")
    assert facts["edges"] == {"a/to/a": 2} and facts["tables"][0]["num_rows"] == 3
