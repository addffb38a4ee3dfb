"""Commands as a person gives them in a bad place, all of a table in one process that has less than usual."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DRIVER = """
import json, os, sys
from pathlib import Path
from netgpt.cluster import signals
from netgpt.graphstore import files
from tests.program import called
mode_of = files._new_file_mode
def told(number):
    def mode_and_signal(path):
        mode = mode_of(path)
        os.kill(os.getpid(), number)
        return mode
    signals._last = float('-inf')
    return mode_and_signal
for line in sys.stdin:
    words, cwd, number = json.loads(line)
    files._new_file_mode = told(number) if number else mode_of
    done = called(*words, cwd=Path(cwd))
    print(json.dumps([done.returncode, done.stdout, done.stderr]), file=sys.__stdout__, flush=True)
"""


@dataclass(frozen=True)
class Command:
    """A command, what it reads, and what it makes."""

    words: tuple[str, ...]
    """With `{source}` and `{out}`, and names of the world in braces."""
    source: str = ""
    """What of the world it reads."""
    makes: str = ""
    """`file` or `folder`; empty for what it makes nothing of."""
    works: bool = True
    """Whether it ends well where nothing is wrong with the places."""

    @property
    def name(self) -> str:
        return " ".join(word for word in self.words if not word.startswith(("{", "-")))

    def given(self, world: dict[str, Path], source: object = None, out: object = None) -> list[str]:
        names: dict[str, object] = {**world, "out": out}
        names["source"] = source if source is not None else world.get(self.source, "")
        return [word.format_map(names) for word in self.words]


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    said: str

    @property
    def lines(self) -> list[str]:
        return self.said.strip().splitlines()

    def refusal_problem(self, *words: str) -> str:
        """What is wrong with a refusal: status 2, and a last line that names what the person gave."""
        last = self.lines[-1] if self.lines else ""
        fine = self.status == 2 and "Traceback" not in self.said and last.startswith("netgpt: ")
        fine = fine and ".tmp" not in last and all(word in last for word in words)
        return "" if fine else f"{words}: {self.status}: {self.said[-600:]}"

    def end_problem(self, number: signal.Signals) -> str:
        """What is wrong with the end by a signal: its status, and one line."""
        fine = self.status == 128 + number and "Traceback" not in self.said
        fine = fine and self.lines[-1:] == [f"netgpt: ended by {number.name}"]
        return "" if fine else f"{number.name}: {self.status}: {self.said[-600:]}"

    def work_problem(self) -> str:
        """What is wrong where a command should have worked."""
        fine = self.status == 0 and "Traceback" not in self.said
        return "" if fine else f"{self.status}: {self.said[-600:]}"


@dataclass(frozen=True)
class Limits:
    """What a process has less of."""

    files: int = 0
    """Open files at most; 0: as many as here."""
    environment: tuple[tuple[str, str], ...] = ()
    is_plain_user: bool = False
    """Whether permissions hold for it also where the tests are root's."""
    signal: int = 0
    """That each command is sent when it has begun to write what it makes; 0: none."""


def plain_user() -> list[str]:
    """Words before a command for which permissions hold also where the tests are root's."""
    if os.getuid():
        return []
    if (setpriv := shutil.which("setpriv")) is None:
        pytest.skip("root reads and writes everything here, and there is no setpriv")
    less = "-dac_override,-dac_read_search"
    words = [setpriv, f"--bounding-set={less}", f"--inh-caps={less}"]
    if subprocess.run([*words, "true"], capture_output=True, check=False).returncode:
        pytest.skip("root reads and writes everything here, and setpriv may not change that")
    return words


def run_all(asked: Iterable[tuple[Sequence[object], Path]], limits: Limits) -> list[Done]:
    """Commands and their working folders, one after the other in one process of these limits."""
    command = [*(plain_user() if limits.is_plain_user else ()), sys.executable, "-c", DRIVER]

    def limited() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which is ignored where the tests run under nohup
        if limits.files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limits.files, limits.files))

    lines = "".join(json.dumps([[*map(str, words)], str(cwd), limits.signal]) + "\n" for words, cwd in asked)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(limits.environment)}
    done = subprocess.run(
        command,
        input=lines,
        capture_output=True,
        text=True,
        preexec_fn=limited,
        env=environment,
        timeout=600,
        check=False,
    )
    made = [Done(*json.loads(line)) for line in done.stdout.splitlines()]
    assert len(made) == lines.count("\n"), done.stderr[-3000:]
    return made


def leftovers(folder: Path) -> set[str]:
    """Names below a folder that are of something half-made."""
    return {p.name for p in folder.rglob("*") if re.search(r"\.tmp\b", p.name)}
