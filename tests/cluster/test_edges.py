"""`netgpt build EDGES.yaml` and what `netgpt info` says of such a store."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cluster.cli import app
from cluster.errors import ClusterError
from graphstore import StoreError


@pytest.fixture
def description(tmp_path: Path) -> Path:
    np.save(tmp_path / "pairs.npy", np.array([[0, 1], [0, 1], [2, 2], [4, 0]]))
    path = tmp_path / "graph.yaml"
    path.write_text(
        "nodes: {page: {count: 6}}\n"
        "edges:\n- {type: [page, links_to, page], path: pairs.npy, duplicates: drop, self_loops: drop}\n"
    )
    return path


def test_build_says_what_it_dropped_and_info_describes(description: Path, tmp_path: Path) -> None:
    out = tmp_path / "s"
    done = CliRunner().invoke(app, ["build", str(description), "--out", str(out), "--memory", "1MB"])
    assert done.exit_code == 0, done.output
    assert "page/links_to/page: 2 edges, 1 duplicates dropped, 1 self-loops dropped" in done.stderr
    shown = json.loads(CliRunner().invoke(app, ["info", str(out), "--json"]).stdout)
    assert shown["nodes"] == {"page": {"num_nodes": 6, "num_rows": 0, "dim": 0, "dtype": "none"}}
    assert "records" not in shown
    assert "page/links_to/page" in CliRunner().invoke(app, ["info", str(out)]).stdout


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--memory", "lots"], ClusterError, "found 'lots', expected a size such as"),
        (["--memory", "100"], StoreError, "expected at least"),
        (["--layout", "csr"], ClusterError, "options of records"),
    ],
)
def test_wrong_options_leave_no_store(
    options: list[str], error: type[Exception], words: str, description: Path, tmp_path: Path
) -> None:
    done = CliRunner().invoke(app, ["build", str(description), "--out", str(tmp_path / "s"), *options])
    assert isinstance(done.exception, error) and words in str(done.exception)
    assert {p.name for p in tmp_path.iterdir()} == {"graph.yaml", "pairs.npy"}


def test_memory_is_of_edge_lists_alone(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["build", "records.json", "--out", str(tmp_path / "s"), "--memory", "1GB"])
    assert isinstance(done.exception, ClusterError) and "edge lists" in str(done.exception)
