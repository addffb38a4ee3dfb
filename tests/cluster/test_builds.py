"""`netgpt build` and `netgpt info` of edge lists; builds of any kind that are killed or out of room."""

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
from graphstore.xsvideo.synth import write_synthetic


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


def test_a_run_needs_a_store_of_records(description: Path, tmp_path: Path) -> None:
    graphstore.build_edges(description, tmp_path / "s")
    for command in (["run", "--store"], ["append", "--data", str(description)], ["info", "--plots", "p"]):
        options = ["--out", str(tmp_path / "r")] if command[0] == "run" else []
        done = CliRunner().invoke(app, [*command, str(tmp_path / "s"), *options])
        assert isinstance(done.exception, ValueError), done.output
        assert "edge lists, expected" in str(done.exception)


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


def _command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from cluster.cli import main; main()", *map(str, arguments)]


def _build(source: Path, out: Path) -> list[str]:
    """A build of a second or two, of edge lists or of records."""
    if source.suffix == ".yaml":
        return _command("build", source, "--out", out, "--memory", "300KB")
    return _command("build", source, "--out", out, "--encoder", "hash:64")


@pytest.fixture(scope="module")
def many_records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.json"
    write_synthetic(path, 0.01, 0)
    return path


@pytest.fixture(params=["large", "many_records"])
def source(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def test_a_full_disk_ends_in_one_line_and_no_store(source: Path, tmp_path: Path) -> None:
    """Stood in for by a limit on the size of files: writes fail in the middle in the same way."""
    done = subprocess.run(
        _build(source, tmp_path / "s"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert done.returncode == 1, done.stderr
    assert "netgpt: no room on the disk" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_killed_at_any_moment_there_is_no_store_or_a_whole_one(source: Path, tmp_path: Path) -> None:
    started = time.perf_counter()
    assert subprocess.run(_build(source, tmp_path / "whole"), check=False).returncode == 0
    takes_s = time.perf_counter() - started
    digest = graphstore.open(str(tmp_path / "whole")).digest
    rng, unfinished = random.Random(0), 0
    for i in range(20):
        out = tmp_path / f"s{i}"
        process = subprocess.Popen(_build(source, out), stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(tmp_path.glob(f".{out.name}.*.tmp")):
            time.sleep(0.001)
        # From when the work starts: at once, and later and later
        time.sleep(rng.uniform(0, takes_s) * i / 20)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert graphstore.open(str(out)).digest == digest and graphstore.verify(out) == []
        else:
            unfinished += 1
    assert unfinished >= 1
    # What a killed build left behind does not stand in the way of the next
    assert subprocess.run(_build(source, tmp_path / "s20"), check=False).returncode == 0
    assert graphstore.open(str(tmp_path / "s20")).digest == digest
