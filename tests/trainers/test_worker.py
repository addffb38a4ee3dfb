"""How a rank ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from netgpt.graphstore import Store
from netgpt.trainers.settings import Settings
from tests.ranks import job_of

SCRIPT = """
import atexit, os, runpy, sys
import netgpt.trainers.stages.session as session

class Abort:
    def __del__(self, abort=os.abort):
        abort()

def run_stage(job):
    atexit.register(print, "exit functions")
    sys.held = Abort()

session.run_stage = run_stage
runpy.run_module("netgpt.trainers.worker", run_name="__main__")
"""


def test_what_aborts_while_the_interpreter_ends_fails_no_rank(store: Store, tmp_path: Path) -> None:
    """As gloo's thread that lets go of a tensor then. What is registered for the exit runs all the same."""
    job_of("stage1", store, tmp_path / "run", Settings())
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "run" / "job.json")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines()[-1] == "exit functions"
