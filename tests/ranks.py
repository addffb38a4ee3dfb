"""Stages in processes of their own, as on a cluster: one for each rank."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from netgpt.graphstore import Store
from netgpt.trainers.loop import CHECKPOINTS
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import StageJob


def job_of(stage: str, store: Store, run: Path, settings: Settings) -> StageJob:
    """A job in a run's folder, where a worker finds it."""
    job = StageJob(
        stage=stage, run=run, store=store.path.resolve(), settings=settings, inputs={"of": "a test"}
    )
    (run / "logs").mkdir(parents=True)
    (run / "job.json").write_text(json.dumps(job.to_dict()), encoding="utf-8")
    return job


def torchrun(run: Path, world_size: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command += [str(world_size), "-m", "netgpt.trainers.worker", str(run / "job.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def kill_in_an_epoch(run: Path, stage: str) -> None:
    """Start two ranks, and end them with SIGKILL once there is a checkpoint."""
    running = torchrun(run, 2)
    for _ in range(1200):
        if list((run / stage / CHECKPOINTS).glob("*")):
            break
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
