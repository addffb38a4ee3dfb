"""Commands that make or read stores, in bad places: a line and status 2, or they work; nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netgpt import graphstore
from tests.conftest import SMALL
from tests.places import ROOT, Command, Limits, leftovers, plain_user, run_all

BUILD = ("--encoder", "hash:16", "--time-dim", "4", "--video-dim", "4")
COMMANDS = [
    Command(("data", "{source}"), "records"),
    Command(("build", "{source}", "--out", "{out}", *BUILD), "records", "folder"),
    Command(("build", "{source}", "--out", "{out}", "--memory", "1MB"), "edges", "folder"),
    Command(("build", "{source}", "--out", "{out}"), "tables", "folder"),
    Command(("synth", "--scale", "0.0003", "--out", "{out}"), "", "folder"),
    Command(("synth", "--scale", "0.0003", "--json", "{out}"), "", "file"),
    Command(("synth", "--dataset", "smpd", "--scale", "0.001", "--json", "{out}"), "", "folder"),
    Command(("synth", "--dataset", "microlens", "--scale", "0.001", "--json", "{out}"), "", "folder"),
    Command(("synth", "--dataset", "interactions", "--scale", "0.001", "--json", "{out}"), "", "file"),
    Command(("append", "{store}", "--data", "{source}", "--out", "{out}"), "later", "folder"),
    Command(("similar", "{source}", "--by", "title", "--k", "2", "--out", "{out}"), "store", "folder"),
    Command(("info", "{source}"), "store"),
    Command(("info", "{source}", "--json"), "store"),
    Command(("info", "{store}", "--plots", "{out}"), "", "folder"),
    Command(("verify", "{source}"), "store"),
    Command(("pack", "{source}", "--out", "{out}"), "store", "folder"),
    Command(("unpack", "{source}", "--out", "{out}"), "packed", "folder"),
    Command(("annotate", "{source}", "--out", "{out}"), "records", "file"),
    Command(("annotate", "{records}", "--save-factors", "{out}"), "", "file"),
    Command(("describe", "{source}"), "tables"),
    Command(("plan", "--store", "{source}"), "store", works=False),
    Command(("config", "--config", "{source}"), "recipe"),
    Command(("features", "{source}", "--text", "/no/such", "--out", "{out}"), "records", works=False),
]
MAKING = [c for c in COMMANDS if c.makes]
BEGINNING = [
    Command(("run", "--data", "{records}", "--out", "{out}")),
    Command(("pretrain", "--store", "{store}", "--out", "{out}")),
    Command(("sweep", "--data", "{records}", "--out", "{out}", "--vary", "graph.lr=0.1|0.2")),
    Command(
        ("sweep", "--data", "{records}", "--out", "{out}", "--vary", "graph.lr=0.1..0.2", "--trials", "2")
    ),
    Command(("cluster", "up", "--host", "127.0.0.2", "--state", "{out}")),
]
"""Commands whose targets are refused before anything starts."""
READING = [c for c in COMMANDS if c.source]


@pytest.fixture(scope="module")
def world(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A little of everything that commands read."""
    root = tmp_path_factory.mktemp("world")
    old = {k: {**r, "历史状态": []} for k, r in list(records.items())[:40]}
    new = {k: {**r, "历史状态": []} for k, r in list(records.items())[40:50]}
    for name, part in (("records", old), ("later", new)):
        (root / f"{name}.json").write_text(json.dumps(part, ensure_ascii=False))
    rows = np.random.default_rng(0).integers(0, 50, (2000, 2))
    np.savetxt(root / "edges.csv", rows, "%d", ",", header="src,dst", comments="")
    (root / "edges.yaml").write_text("nodes: {u: {}}\nedges: [{type: [u, r, u], path: edges.csv}]\n")
    (root / "people.csv").write_text("id,name\n1,Ada\n2,Bo\n")
    (root / "tables.yaml").write_text(
        "tables: {person: {path: people.csv, key: id, columns: {name: text}}}\n"
    )
    (root / "recipe.yaml").write_text("base: demo\ngraph: {epochs: 2}\n")
    graphstore.build(root / "records.json", root / "store", SMALL)
    graphstore.pack(root / "store", root / "packed")
    names = {"edges": "edges.yaml", "tables": "tables.yaml", "recipe": "recipe.yaml"}
    files = {name: names.get(name, name) for name in ("store", "packed", *names)}
    return {
        name: root / file
        for name, file in {**files, "records": "records.json", "later": "later.json"}.items()
    }


def asked(commands: list[Command], world: dict[str, Path], **given: Any) -> list[tuple[list[str], Path]]:
    return [(one.given(world, **given), world["records"].parent) for one in commands]


@pytest.fixture
def shut(tmp_path: Path) -> Path:
    """A folder that nobody may write."""
    folder = tmp_path / "shut"
    folder.mkdir()
    folder.chmod(0o555)
    return folder


def test_a_target_that_cannot_be_made_is_named_in_one_line(
    world: dict[str, Path], shut: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    targets = [shut / "made", tmp_path / "file" / "made", tmp_path / ("n" * 300), tmp_path / "not\udce9utf"]
    told = [(command, target) for target in targets for command in (*MAKING, *BEGINNING)]
    lines = [(command.given(world, out=target), tmp_path) for command, target in told]
    problems = [
        (command.name, problem)
        for (command, target), done in zip(told, run_all(lines, Limits(is_plain_user=True)), strict=True)
        if (problem := done.refusal_problem("not\\udce9utf" if "udc" in ascii(target) else str(target)))
    ]
    assert not problems
    assert sorted(tmp_path.rglob("*")) == before


def test_a_source_that_cannot_be_read_is_named_in_one_line(world: dict[str, Path], tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    (closed / "source").write_text("")
    closed.chmod(0)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    before = sorted(tmp_path.iterdir())
    sources = [closed / "source", tmp_path / "missing", tmp_path / "empty", tmp_path / "folder"]
    out = tmp_path / "made"
    told = [(command, source) for source in sources for command in READING]
    told.remove((Command(("config", "--config", "{source}"), "recipe"), tmp_path / "empty"))  # all defaults
    lines = [(command.given(world, source=source, out=out), tmp_path) for command, source in told]
    problems = [
        (command.name, problem)
        for (command, source), done in zip(told, run_all(lines, Limits(is_plain_user=True)), strict=True)
        if (problem := done.refusal_problem(source.name))
    ]
    assert not problems
    closed.chmod(0o755)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "limits",
    [
        pytest.param(Limits(), marks=pytest.mark.all),
        Limits(
            files=256, environment=(("HOME", "/proc/nonexistent"), ("XDG_CACHE_HOME", "/proc/nonexistent"))
        ),
    ],
    ids=["any", "few files and no home"],
)
def test_relative_paths_with_spaces_and_any_letters_work(
    limits: Limits, world: dict[str, Path], tmp_path: Path
) -> None:
    here = tmp_path / "ein Ort 数据 é"
    shutil.copytree(world["records"].parent, here)
    relative = {name: Path(path.name) for name, path in world.items()}
    commands = [one for one in COMMANDS if one.works]
    lines = [(one.given(relative, out=f"neu 新 {i}/made {i}"), here) for i, one in enumerate(commands)]
    told = zip(commands, run_all(lines, limits), strict=True)
    problems = [(command.name, problem) for command, done in told if (problem := done.work_problem())]
    assert not problems
    for i, command in enumerate(commands):
        assert (here / f"neu 新 {i}" / f"made {i}").exists() == bool(command.makes)
    assert not leftovers(here)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_a_signal_ends_leaves_nothing(
    number: signal.Signals, world: dict[str, Path], tmp_path: Path
) -> None:
    lines = [(one.given(world, out=tmp_path / "new" / "made"), tmp_path) for one in MAKING]
    told = zip(MAKING, run_all(lines, Limits(signal=number)), strict=True)
    assert not [(one.name, problem) for one, done in told if (problem := done.end_problem(number))]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_process_that_is_told_to_end_takes_its_store_away(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ["synth", "--scale", "0.05", "--out", str(tmp_path / "made")]
    process = subprocess.Popen(
        [sys.executable, "-m", "netgpt", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # ignored under nohup
    )
    deadline = time.monotonic() + 60
    while not any(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None and leftovers(tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    # Python ends by SIGINT itself where it came while code of a string was made: 130 for a shell, too
    also = -signal.SIGINT if number == signal.SIGINT else 128 + number
    assert process.returncode in (128 + number, also) and "Traceback" not in said
    assert said.strip().splitlines()[-1] == f"netgpt: ended by {number.name}"
    assert not any(tmp_path.iterdir())


def test_the_program_starts_where_no_cache_can_be_written(tmp_path: Path) -> None:
    """Neither the tree nor the user's home: numba refuses to start without a place for what it compiles."""
    tree = tmp_path / "tree"
    skipped = shutil.ignore_patterns("__pycache__", ".*", "runs", "tests", "docs", "*.egg-info")
    shutil.copytree(ROOT, tree, symlinks=True, ignore=skipped)
    for place in (tree, *tree.rglob("*")):
        if not place.is_symlink():
            place.chmod(0o555 if place.is_dir() else 0o444)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"HOME": "/proc/none", "XDG_CACHE_HOME": "", "TMPDIR": temporary, "PYTHONPATH": tree}
    code = f"import netgpt.sampler; assert netgpt.__file__.startswith({str(tree)!r})"
    for words in (["-m", "netgpt", "--help"], ["-c", code]):
        done = subprocess.run(
            [*plain_user(), sys.executable, *words],
            env={**os.environ, **{name: str(value) for name, value in environment.items()}},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    (kept,) = temporary.glob("netgpt-compiled-*")
    assert kept.stat().st_mode & 0o777 == 0o700
