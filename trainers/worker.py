"""Runs one stage in this process, which may be one of several ranks. Knows nothing of Ray.

`torchrun -m netgpt.trainers.worker JOB.json` and `python -m netgpt.trainers.worker JOB.json` run what a
stage's folder has as its job.json.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import NoReturn

import torch
import torch.distributed as dist

from netgpt.trainers import distributed
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.session import run_stage

COLLECTIVE_HOURS = 12
"""How long ranks wait for each other: rank 0 alone evaluates, and that may take long on a large graph."""


def use_process_group(device: str) -> None:
    """Join torchrun's process group, or make one of this process alone (DeepSpeed wants one)."""
    if device == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    if dist.is_initialized():
        return
    backend = "nccl" if device == "cuda" else "gloo"
    timeout = timedelta(hours=COLLECTIVE_HOURS)
    if "RANK" in os.environ:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group(backend, timeout=timeout)
    else:
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)


def leave() -> NoReturn:
    """End this process as one that succeeded, without taking the interpreter apart.

    `torch.distributed.nn` and `deepspeed.comm` have the group of their import as a default of functions and
    hold it past `destroy_process_group`: gloo's threads meet the end of the interpreter, and one that lets go
    of a tensor then aborts the rank of a stage that is done ("terminate called without an active exception").
    """
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    job = StageJob.from_dict(json.loads(Path(sys.argv[1]).read_text()))
    use_process_group(job.device)
    try:
        if distributed.broadcast_object(folder.is_done(job.folder, job.inputs)):
            return
        if distributed.rank() == 0:
            job.prepare()
        distributed.barrier()
        run_stage(job)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
    leave()
