"""Places a stage's workers with Ray Train and shows their progress."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cluster.config import ClusterConfig
from cluster.errors import StageFailedError
from trainers.config import GraphConfig
from trainers.progress import PROGRESS, read_progress
from trainers.settings import SINGLE_WORKER_STAGES, StageJob

POLL_S, LOG_PERIOD_S = 0.3, 5.0


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs on every worker: the stage, with sampling actors for stage 1."""
    from trainers.worker import run_stage, use_process_group

    job, cluster = StageJob.from_dict(config["job"]), ClusterConfig(**config["cluster"])
    use_process_group(job.device)  # Ray Train has made it; this names DeepSpeed's accelerator
    engine = None
    graph = job.settings.graph
    if job.stage == "stage1" and cluster.sampling_workers and graph.neighbors == "sampled":
        import graphstore
        from cluster.sampling import RaySamplingEngine
        from trainers.graph.train import sampling_options

        store = graphstore.open(str(job.store))
        engine = RaySamplingEngine(
            store,
            sampling_options(store, graph, job.settings.sampler, job.settings.seed),
            num_workers=cluster.sampling_workers,
            prefetch=cluster.prefetch,
        )
    run_stage(job, engine)


def num_workers(stage: str, cluster: ClusterConfig, graph: GraphConfig) -> int:
    """Training workers of a stage; a step over the whole graph is one worker's."""
    exact = stage == "stage1" and graph.neighbors == "all"
    return 1 if stage in SINGLE_WORKER_STAGES or exact else cluster.workers


def choose_device(cluster: ClusterConfig, workers: int) -> str:
    """cpu or cuda, for a stage of so many workers on the connected Ray."""
    import ray

    available = ray.cluster_resources().get("GPU", 0)
    if cluster.device == "auto":
        return "cuda" if available >= workers else "cpu"
    return cluster.device


def run_on_ray(job: StageJob, cluster: ClusterConfig, title: str) -> None:
    """Run one prepared stage on the connected Ray. Raises StageFailedError, or a worker's bad-input error."""
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from trainers.worker import COLLECTIVE_HOURS

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    workers = num_workers(job.stage, cluster, job.settings.graph)
    scratch = job.run.resolve() / ".ray"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={"job": job.to_dict(), "cluster": cluster.__dict__},
        torch_config=TorchConfig(timeout_s=3600 * COLLECTIVE_HOURS),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=job.device == "cuda",
            resources_per_worker={"CPU": cluster.threads, "GPU": int(job.device == "cuda")},
        ),
        # Ray only restarts the workers: they resume from the stage's own checkpoints, so a restart of
        # the workers and a restart of the whole run take the same path
        run_config=RunConfig(
            name=f"{job.stage}-{uuid.uuid4().hex[:8]}",
            storage_path=str(scratch),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        with shown_progress(job.folder, title):
            trainer.fit()
    except Exception as error:
        raise _cause(error, job.stage) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def bad_input_of(error: BaseException) -> ValueError | None:
    """The project's own bad-input error among an error's causes, on whatever worker it was raised."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ValueError) and type(found).__module__.split(".")[0] in (
            "graphstore",
            "sampler",
            "trainers",
        ):
            return found
        found = getattr(found, "cause", None) or found.__cause__
    return None


def _cause(error: BaseException, stage: str) -> Exception:
    """The bad-input error of a worker, if that is what it was; else StageFailedError with ranks and cause."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        if found := bad_input_of(failure):
            return found
    ranks = ", ".join(str(rank) for rank in failures) or "unknown"
    first = next(iter(failures.values()), error)
    return StageFailedError(f"{stage}: workers failed (ranks {ranks}): {first}")


@contextmanager
def shown_progress(folder: Path, title: str) -> Iterator[None]:
    """Draw the stage's progress file as a bar on standard error until the block ends."""
    stop = threading.Event()

    def draw() -> None:
        # A log file gets a line now and then, a terminal a bar that moves
        period_s = POLL_S if sys.stderr.isatty() else LOG_PERIOD_S
        said = ""
        with tqdm(desc=title, total=None, dynamic_ncols=True, mininterval=period_s) as bar:
            ended = False
            while not ended:
                ended = stop.wait(period_s)
                said = _draw(bar, read_progress(folder), said)

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (folder / PROGRESS).unlink(missing_ok=True)


def _draw(bar: Any, progress: dict[str, Any] | None, said: str) -> str:
    """Show the progress, and its note where that is not what was `said` last; the note."""
    if progress is None:
        bar.refresh()
        return said
    note = str(progress["note"])
    if note and note != said:
        bar.write(note, file=sys.stderr)
    bar.unit = progress["unit"]
    bar.total, bar.n = progress["total"], progress["done"]
    if progress["values"]:
        bar.set_postfix(progress["values"], refresh=False)
    bar.refresh()
    return note or said
