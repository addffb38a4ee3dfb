"""Commands of a whole run in bad places, and runs that a signal ends. Tests that `test_run.py` takes in."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from runs import SETTINGS, command

from netgpt.cluster.pipeline.attempts import read_attempts
from tests.places import Command, Limits, leftovers, run_all
from tests.program import called

OF_A_RUN = [
    Command(("evaluate", "{source}"), "whole"),
    Command(("evaluate", "{source}", "--json"), "whole"),
    Command(("status", "{source}"), "whole"),
    Command(("status", "{source}", "--json"), "whole"),
    Command(("compare", "{source}", "{source}"), "whole"),
    Command(("report", "{source}", "--out", "{out}"), "whole", "file"),
    Command(("predict", "{source}", "--data", "{new}"), "whole"),
    Command(("predict", "{source}", "--data", "{new}", "--out", "{out}"), "whole", "file"),
    Command(("predict", "{source}", "--data", "{new}", "--out", "{out}.parquet"), "whole", "file"),
    Command(("export", "{source}", "--out", "{out}"), "whole", "folder"),
    Command(("embeddings", "{source}", "--out", "{out}"), "whole", "folder"),
]


def test_commands_of_a_run_name_a_bad_target_or_source(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    world = {"whole": whole, "new": data[1]}
    shut = tmp_path / "shut"
    shut.mkdir()
    shut.chmod(0o555)
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    told = [
        (one, one.given(world, out=target), target)
        for target in (shut / "made", tmp_path / ("n" * 300))
        for one in OF_A_RUN
        if one.makes
    ]
    told += [
        (one, one.given(world, source=source, out=tmp_path / "made"), source)
        for source in (tmp_path / "missing", tmp_path / "file")
        for one in OF_A_RUN
    ]
    done = run_all([(words, tmp_path) for _, words, _ in told], Limits(is_plain_user=True))
    problems = [
        (one.name, problem)
        for (one, _, place), made in zip(told, done, strict=True)
        if (problem := made.refusal_problem(str(place)))
    ]
    assert not problems
    assert sorted(tmp_path.rglob("*")) == before


def test_a_whole_run_that_nobody_may_write_answers_all_the_same(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Given by a relative path with a space and letters outside ASCII."""
    run = tmp_path / "ein Lauf 数据"
    shutil.copytree(whole, run)
    places = [run, *run.rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    before = sorted(run.rglob("*"))
    world = {"whole": Path(run.name), "new": data[1]}
    lines = [(one.given(world, out=f"neu 新 {i}"), tmp_path) for i, one in enumerate(OF_A_RUN)]
    lines.append((["report", run.name], tmp_path))
    *made, page = run_all(lines, Limits(is_plain_user=True))
    told = zip(OF_A_RUN, made, strict=True)
    assert not [(one.name, problem) for one, done in told if (problem := done.work_problem())]
    assert not page.refusal_problem("report.html")
    for done in (made[1], made[3]):
        json.loads(done.out, parse_constant=pytest.fail)
    assert sorted(run.rglob("*")) == before and not leftovers(tmp_path)


@pytest.mark.all
def test_commands_of_a_run_that_a_signal_ends_leave_nothing(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    before = sorted(whole.rglob("*"))
    world = {"whole": whole, "new": data[1]}
    making = [one for one in OF_A_RUN if one.makes]
    lines = [(one.given(world, out=tmp_path / "new" / "made"), tmp_path) for one in making]
    told = zip(making, run_all(lines, Limits(signal=signal.SIGTERM)), strict=True)
    assert not [(one.name, problem) for one, done in told if (problem := done.end_problem(signal.SIGTERM))]
    assert not any(tmp_path.iterdir()) and sorted(whole.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.all)])
def test_a_run_that_a_signal_ends_says_so_and_can_go_on(
    number: signal.Signals, data: tuple[Path, Path], tmp_path: Path
) -> None:
    """In stage 1; the run's name is no ASCII."""
    run = tmp_path / "Lauf 数据"
    changes = ("graph.epochs=100000", "graph.patience=100000", "graph.batch_size=2", "cluster.workers=1")
    arguments = command("pretrain", "--config", "demo", "--data", data[0], "--out", run, *SETTINGS, *changes)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    shown: dict[str, Any] = {}
    deadline = time.monotonic() + 120
    while not shown.get("total") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.3)
        asked = called("status", run, "--json")
        if asked.returncode == 0:
            (shown,) = json.loads(asked.stdout, parse_constant=pytest.fail)["stages"][:1]
    assert shown["state"] == "running" and shown["values"]
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number, said
    assert said.strip().splitlines()[-1] == f"netgpt: ended by {number.name}"
    assert "Traceback" not in said and "(unknown)" not in said and "rror" not in said, said
    assert [attempt.outcome for attempt in read_attempts(run)] == ["interrupted"]
    status = called("status", run)
    assert "stopped" in status.stdout and "failed" not in status.stdout
    assert not list(run.glob(".*.tmp"))  # a worker's own is removed when the stage goes on
