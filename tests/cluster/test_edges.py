"""`netgpt build EDGES.yaml` and what `netgpt info` says of such a store."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import graphstore
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
        (["--encoder", "hash:8"], ClusterError, "options of records"),
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


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred thousand edges, sorted in many ranges: a build of about a second."""
    folder = tmp_path_factory.mktemp("large")
    np.save(folder / "pairs.npy", np.random.default_rng(0).integers(0, 5000, (800_000, 2)))
    path = folder / "graph.yaml"
    path.write_text("nodes: {n: {count: 5000}}\nedges: [{type: [n, to, n], path: pairs.npy}]\n")
    return path


def _build(description: Path, out: Path) -> list[str]:
    code = "from cluster.cli import main; main()"
    return [sys.executable, "-c", code, "build", str(description), "--out", str(out), "--memory", "300KB"]


def test_a_full_disk_ends_in_one_line_and_no_store(large: Path, tmp_path: Path) -> None:
    """Stood in for by a limit on the size of files: writes fail in the middle in the same way."""
    done = subprocess.run(
        _build(large, tmp_path / "s"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert done.returncode == 1, done.stderr
    assert "netgpt: no room on the disk" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_there_is_no_store_or_a_whole_one(large: Path, tmp_path: Path) -> None:
    assert subprocess.run(_build(large, tmp_path / "whole"), check=False).returncode == 0
    digest = graphstore.open(str(tmp_path / "whole")).digest
    rng, unfinished = random.Random(0), 0
    for i in range(10):
        out = tmp_path / f"s{i}"
        process = subprocess.Popen(_build(large, out))
        while process.poll() is None and not list(tmp_path.glob(f".{out.name}.*.tmp")):
            time.sleep(0.001)
        # From when the work starts: at once, and later and later
        time.sleep(rng.uniform(0, 0.08) * i)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert graphstore.open(str(out)).digest == digest and graphstore.verify(out) == []
        else:
            unfinished += 1
    assert unfinished >= 1
    # What a killed build left behind does not stand in the way of the next
    assert subprocess.run(_build(large, tmp_path / "s10"), check=False).returncode == 0
    assert graphstore.open(str(tmp_path / "s10")).digest == digest
