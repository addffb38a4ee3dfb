"""What surrounds a running stage in a process: its log, torch's settings, its cost, its manifest."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from netgpt import graphstore
from netgpt.sampler import SamplingEngine
from netgpt.trainers import distributed
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.logs import stage_log
from netgpt.trainers.processor import use_cores
from netgpt.trainers.progress import OnProgress, Progress
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import Made, Stage, StageJob, Tools
from netgpt.trainers.tasks.names import make_task


@dataclass
class Session:
    """A stage that runs in this process: `stage.run(job, tools)`, then `finish` with what it made."""

    stage: Stage
    job: StageJob
    tools: Tools
    start_s: float

    def finish(self, made: Made) -> None:
        """Write the manifest: from here on the stage is done. Every rank calls this."""
        cost = _cost(self.job, time.perf_counter() - self.start_s)
        if distributed.rank() == 0:
            folder.finish(self.job.folder, self.job.inputs, list(made.outputs), dict(made.metrics), cost)
        distributed.barrier()


@contextmanager
def stage_session(
    job: StageJob, engine: Callable[[StageJob, graphstore.Store], SamplingEngine | None] | None = None
) -> Iterator[Session]:
    """Ready this process for a prepared job. engine: makes who samples for it; by default the stage does."""
    stage, num_ranks = job.described, distributed.world_size()
    with stage_log(job.run, stage.name, distributed.rank()) as log:
        log.info("%s: %d ranks, %s, from %s", stage.name, num_ranks, job.device, job.store)
        start = time.perf_counter()
        use_cores(job.num_threads)
        # Same bits in every run: forbid the few operations that have no deterministic form
        torch.use_deterministic_algorithms(True, warn_only=job.device == "cuda")
        # … but do not fill fresh memory: nothing here reads it, and filling costs more than training
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        if stage.placing != "all" and num_ranks > 1:
            raise TrainerError(f"{stage.name}: found {num_ranks} processes, expected one")
        store = graphstore.open(job.store)
        tools = Tools(
            store,
            make_task(job.settings.task),
            lambda unit: _progress(job, unit),
            engine(job, store) if engine else None,
        )
        yield Session(stage, job, tools, start)
        log.info("%s: done", stage.name)


def run_stage(job: StageJob) -> None:
    """Run a prepared stage to its manifest in this process, which may be one of several ranks."""
    with stage_session(job) as session:
        session.finish(session.stage.run(job, session.tools))


def _progress(job: StageJob, unit: str) -> OnProgress:
    progress = Progress(job.folder if distributed.rank() == 0 else None)
    return lambda done, total: progress.update(done, total, unit)


def _cost(job: StageJob, seconds: float) -> folder.Cost:
    """What a stage took: seconds of this process, start-up not counted; bytes of the rank that took most,
    resident (pages of mapped files too) and on its device."""
    device = torch.cuda.max_memory_allocated() if job.device == "cuda" else 0
    mine = [distributed.peak_resident_bytes(), device]
    peak = torch.tensor(mine, dtype=torch.int64, device=distributed.device(job.device))
    resident, allocated = distributed.max_across_ranks(peak).tolist()
    cost: folder.Cost = {"seconds": seconds, "peak_bytes": resident}
    if job.device == "cuda":
        cost["device_peak_bytes"] = allocated
    return cost
