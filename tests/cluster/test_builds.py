"""`netgpt build` and `netgpt info` of edge lists; builds of any kind that are killed or out of room."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from netgpt import graphstore
from netgpt.cluster.cli import app
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import BuildConfig, StoreError
from netgpt.graphstore.datasets.xsvideo.synth import write_synthetic
from netgpt.graphstore.files import file_digest


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
    ("command", "words"),
    [
        (
            ["run", "--out", "RUN", "--store"],
            "task.label: found 'label', expected a number or time column of page",
        ),
        (["append", "--data", "GRAPH"], "found a store of edge lists, expected one whose relations follow"),
        (["info", "--plots", "p"], "found a store of edge lists, which has no statistics, expected one"),
    ],
)
def test_what_edge_lists_lack_is_one_line(
    command: list[str], words: str, description: Path, tmp_path: Path
) -> None:
    graphstore.build_edges(description, tmp_path / "s")
    places = {"RUN": tmp_path / "r", "GRAPH": description}
    done = CliRunner().invoke(app, [*(str(places.get(word, word)) for word in command), str(tmp_path / "s")])
    assert isinstance(done.exception, ValueError), done.output
    assert words in str(done.exception) and "\n" not in str(done.exception)
    assert {p.name for p in tmp_path.iterdir()} == {"graph.yaml", "pairs.npy", "s"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (["--memory", "lots"], ClusterError, "found 'lots', expected a size such as"),
        (["--memory", "100"], StoreError, "expected at least"),
        (["--encoder", "hash:8"], ClusterError, "found --encoder, expected it where there is something to"),
        (["--time-dim", "8"], ClusterError, "found --time-dim, expected it where there is something to"),
        (["--ties", "strict"], ClusterError, "found --ties, expected settings of edge lists"),
        (["--video-dim", "8"], ClusterError, "found --video-dim, expected settings of edge lists"),
        (["--bad-numbers", "zero"], ClusterError, "found --bad-numbers, expected settings of edge lists"),
        (["--features", "f"], StoreError, "f: found no features"),
        (["--set", "encoder"], ClusterError, "--set: found 'encoder', expected KEY=VALUE with one of layout"),
        (["--set", "ties=strict"], ClusterError, "--set: found 'ties=strict', expected KEY=VALUE"),
        (
            ["--set", "time_dim=x"],
            ClusterError,
            "--set: found 'time_dim=x', expected time_dim=VALUE of type int",
        ),
        (
            ["--dataset", "nothing"],
            StoreError,
            "dataset: found 'nothing', expected one of xsvideo, tables, interactions, microlens, smpd, edges",
        ),
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
    return [sys.executable, "-m", "netgpt", *map(str, arguments)]


@dataclass(frozen=True)
class Work:
    """A command of a second or two that makes the folder OUT, and how many times it is killed."""

    arguments: list[object]
    num_kills: int

    def command(self, out: Path) -> list[str]:
        return _command(*self.arguments, "--out", out)


@pytest.fixture(scope="module")
def works(large: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Work]:
    folder = tmp_path_factory.mktemp("records")
    write_synthetic(folder / "all.json", 0.01, 0)
    records = json.loads((folder / "all.json").read_text(encoding="utf-8"))
    some, more = list(records.items())[:1200], list(records.items())[1200:]
    for name, items in (("some", some), ("more", more)):
        known = {k for k, _ in some} | {k for k, _ in items}
        kept = {k: {**r, "历史状态": [h for h in r["历史状态"] if str(h) in known]} for k, r in items}
        (folder / f"{name}.json").write_text(json.dumps(kept, ensure_ascii=False), encoding="utf-8")
    config = BuildConfig(encoder="hash:64", layout="csr")
    graphstore.build(folder / "some.json", folder / "store", config)
    graphstore.pack(folder / "store", folder / "pack")
    return {
        "edge lists": Work(["build", large, "--memory", "300KB"], 20),
        "records": Work(["build", folder / "all.json", "--encoder", "hash:64"], 20),
        "synth": Work(["synth", "--scale", "0.005"], 5),
        "append": Work(["append", folder / "store", "--data", folder / "more.json"], 5),
        "pack": Work(["pack", folder / "store"], 5),
        "unpack": Work(["unpack", folder / "pack"], 5),
    }


KINDS = ["edge lists", "records", "synth", "append", "pack", "unpack"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_ends_in_one_line_and_nothing(kind: str, works: dict[str, Work], tmp_path: Path) -> None:
    """Stood in for by a limit on the size of files: writes fail in the middle in the same way."""
    done = subprocess.run(
        works[kind].command(tmp_path / "s"),
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1, done.stderr
    assert "netgpt: no room on the disk" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def digests(path: Path) -> dict[str, str]:
    return {p.relative_to(path).as_posix(): file_digest(p) for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("kind", ["edge lists", pytest.param("records", marks=pytest.mark.all)])
def test_killed_at_some_moments_there_is_nothing_or_all_of_it(
    kind: str, works: dict[str, Work], tmp_path: Path
) -> None:
    kill(works[kind], 3, tmp_path)


@pytest.mark.all
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_there_is_nothing_or_all_of_it(
    kind: str, works: dict[str, Work], tmp_path: Path
) -> None:
    kill(works[kind], works[kind].num_kills, tmp_path)


def kill(work: Work, num_kills: int, tmp_path: Path) -> None:
    """Kill a command so often, each time at another moment, and look at what it left."""

    def started(out: Path) -> subprocess.Popen[bytes]:
        """The command, from the moment when its work begins."""
        process = subprocess.Popen(work.command(out), stderr=subprocess.DEVNULL)
        while process.poll() is None and not list(tmp_path.glob(f".{out.name}.*.tmp")):
            time.sleep(0.001)
        return process

    process, start = started(tmp_path / "whole"), time.perf_counter()
    while not (tmp_path / "whole").exists():
        assert process.poll() in (None, 0)
        time.sleep(0.001)
    works_s = time.perf_counter() - start
    assert process.wait() == 0
    whole, rng, unfinished = digests(tmp_path / "whole"), random.Random(0), 0
    for i in range(num_kills):
        out = tmp_path / f"s{i}"
        process = started(out)
        # The first as soon as it works; the others anywhere in their part of the time
        time.sleep(rng.uniform(i, i + 1) / num_kills * works_s if i else 0.0)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists():
            assert digests(out) == whole
        else:
            unfinished += 1
    assert unfinished >= num_kills // 3
    # What a killed process left behind does not stand in the way of the next
    assert subprocess.run(work.command(tmp_path / "s"), check=False).returncode == 0
    assert digests(tmp_path / "s") == whole
