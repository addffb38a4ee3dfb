"""Places a stage on Ray: workers of Ray Train, a task or a pool; and what a worker does there."""

from __future__ import annotations

import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from netgpt.cluster.config import ClusterConfig
from netgpt.cluster.errors import ClusterError, StageFailedError, is_bad_input, is_full_disk
from netgpt.cluster.progress import say
from netgpt.cluster.workers.compat import (
    StartFailure,
    start_failure,
    trainer_class,
    worker_failures,
    worker_logs,
)
from netgpt.cluster.workers.locks import rank_lock
from netgpt.cluster.workers.mapped import run_mapped
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.session import is_local
from netgpt.graphstore import Store
from netgpt.graphstore.files import read_json, write_json
from netgpt.sampler import SamplingEngine
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.logs import log_path
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import MappedStage, StageJob

STARTS = "starts.json"
KEPT_LOGS = 4
"""Logs of workers that died while they were started, the newest, that a run keeps."""
_LACK_S = 60.0
"""Seconds after which Ray Train asks again for resources that a cluster lacks."""


@dataclass(frozen=True)
class StageWork:
    """What goes to every worker of a stage: the one thing that is sent through Ray."""

    job: StageJob
    cluster: ClusterConfig
    store: NodeStore
    attempt: str


def _work(work: StageWork) -> None:
    """What runs on every worker: the stage, with sampling actors beside it where it wants some."""
    from netgpt.trainers import distributed
    from netgpt.trainers.stages.session import stage_session
    from netgpt.trainers.worker import use_process_group

    job, attempt = work.job, work.attempt
    if not job.folder.is_dir():
        raise TrainerError(
            f"{job.folder}: not seen on this node; a run's folder is on a disk that all nodes share"
        )
    if refused := folder.refused(job.folder, attempt):
        raise TrainerError(refused)
    use_process_group(job.device)  # which Ray Train has made for several workers
    rank = distributed.rank()
    with rank_lock(job.run, job.described.name, rank), _refusals(job, attempt):
        if rank == 0:
            starts = num_starts(job.folder, attempt) + 1
            write_json(job.folder / STARTS, {"attempt": attempt, "starts": starts})
        placed = replace(job, store=work.store.local())
        with stage_session(placed, lambda job, store: _engine(job, store, work.cluster)) as session:
            session.finish(session.stage.run(placed, session.tools))


def _engine(job: StageJob, store: Store, cluster: ClusterConfig) -> SamplingEngine | None:
    """Sampling actors beside this worker, or None where the worker samples itself or does not sample."""
    options = job.described.sampling(job, store) if cluster.sampling_workers else None
    if options is None:
        return None
    from netgpt.cluster.workers.sampling import RaySamplingEngine

    return RaySamplingEngine(store, options, num_workers=cluster.sampling_workers, prefetch=cluster.prefetch)


@contextmanager
def _refusals(job: StageJob, attempt: str) -> Iterator[None]:
    """Ray starts workers again after any error: of bad input they must hear at once."""
    try:
        yield
    except ValueError as error:
        if is_bad_input(error):
            folder.refuse(job.folder, attempt, error)
        raise


def num_starts(place: Path, attempt: str) -> int:
    """Times that an attempt's workers were started so far, in a stage's folder."""
    try:
        noted = read_json(place / STARTS)
    except (OSError, ValueError):
        return 0
    return int(noted["starts"]) if noted["attempt"] == attempt else 0


def run_on_ray(work: StageWork, need: Resources) -> None:
    """Run one prepared stage on the connected Ray. Raises StageFailedError, or a worker's bad-input error."""
    import ray

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    job, stage, cluster = work.job, work.job.described, work.cluster
    launch: Callable[[], Any]
    if isinstance(stage, MappedStage):
        launch = lambda: run_mapped(stage, job, need, work.store)  # noqa: E731
    elif need.workers == 1:
        launch = _as_task(work, need)
    else:
        launch = _as_workers(work, need)
    # Ray Train starts workers again that failed while they worked, but not those that died while they
    # were started: these are tried again here, as often
    for left in reversed(range(cluster.max_failures + 1)):
        since = time.time_ns()
        try:
            launch()
            return
        except Exception as error:
            cause = _cause(error, stage.name)
            if not worker_failures(error):
                cause = _with_last_words(cause, error, job, since)
            tried_by_ray = need.workers == 1 or bool(worker_failures(error))
            known = not isinstance(cause, StageFailedError)
            if not left or known or tried_by_ray or stage.placing == "pool" or not ray.is_initialized():
                raise cause from error
            started = max(num_starts(job.folder, work.attempt), cluster.max_failures + 1 - left)
            write_json(job.folder / STARTS, {"attempt": work.attempt, "starts": started})
            say(f"{stage.title}: its workers died while they were started; {left} more tries")


def _as_task(work: StageWork, need: Resources) -> Callable[[], Any]:
    """A stage of one worker as one task: Ray Train would start a handful of processes around it."""
    import ray

    asked = need.per_worker()
    options: dict[str, Any] = {
        "num_cpus": asked["CPU"],
        "num_gpus": asked["GPU"],
        "memory": asked.get("memory"),
        "max_calls": 1,  # a process of its own, that ends with the stage
        "max_retries": work.cluster.max_failures,  # where the process or its node died
        "retry_exceptions": [RuntimeError, OSError],
    }
    task: Any = ray.remote(**options)(_work)
    return lambda: ray.get(task.remote(work))


def _as_workers(work: StageWork, need: Resources) -> Callable[[], Any]:
    """A stage of several workers, by Ray Train."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from netgpt.trainers.worker import COLLECTIVE_HOURS

    job, cluster = work.job, work.cluster
    failures: dict[str, Any] = {
        "max_failures": cluster.max_failures,
        "controller_failure_limit": max(1, round(cluster.wait_minutes * 60 / _LACK_S)),
    }
    scratch = job.run.resolve() / ".ray"

    def launch() -> None:
        name = f"{job.described.name}-{uuid.uuid4().hex[:8]}"
        trainer = trainer_class(is_local())(
            lambda config: _work(config["work"]),
            train_loop_config={"work": work},
            torch_config=TorchConfig(timeout_s=3600 * COLLECTIVE_HOURS),
            scaling_config=ScalingConfig(
                num_workers=need.workers,
                use_gpu=need.gpus > 0,
                resources_per_worker=need.per_worker(),
            ),
            # Ray only restarts the workers: they resume from the stage's own checkpoints, so a restart of
            # the workers and a restart of the whole run take the same path
            run_config=RunConfig(
                name=name,
                storage_path=str(scratch),
                failure_config=FailureConfig(**failures),
            ),
        )
        try:
            trainer.fit()
        finally:
            shutil.rmtree(scratch / name, ignore_errors=True)

    return launch


def _known_of(error: BaseException) -> ValueError | OSError | None:
    """A bad-input error or a full disk among an error's causes, on whatever worker it was raised."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ValueError) and is_bad_input(cause):
            return cause
        if isinstance(cause, OSError) and is_full_disk(cause):
            return OSError(cause.errno, cause.strerror, cause.filename)
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None


def _with_last_words(cause: Exception, error: Exception, job: StageJob, since: int) -> Exception:
    """What workers of this node said that ended before they began, kept in the run's logs and named.

    since: nanoseconds; what was said before is another's.
    """
    if not isinstance(cause, StageFailedError) and start_failure(error) is None:
        return cause
    said = [path for path in worker_logs() if path.stat().st_mtime_ns >= since]
    texts = [text for path in said if "Traceback" in (text := path.read_text(errors="replace"))]
    kept = log_path(job.run, f"{job.described.name}-start")
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("\n".join([*texts[-KEPT_LOGS:], str(error), ""]), encoding="utf-8")
    words = f"; a worker that was started said: {last_error(texts[-1])}" if texts else ""
    return type(cause)(f"{cause}{words} (see {kept})")


def last_error(text: str) -> str:
    """The line of a text with tracebacks that names the last error: the last that is not indented."""
    lines = [line for line in text.splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines else text.strip()


def _cause(error: BaseException, stage_name: str) -> Exception:
    """What to say: the bad input or the full disk of a worker, if it was that; else StageFailedError with
    ranks and cause."""
    failures = worker_failures(error)
    for failure in [*failures.values(), error]:
        if known := _known_of(failure):
            return known
    if not failures:
        lack = start_failure(error)
        if lack is StartFailure.NO_ROOM:
            return ClusterError(
                f"{stage_name}: its workers found no room on the cluster; see ./launch.sh status, "
                "lower cluster.workers, or wait longer with cluster.wait_minutes"
            )
    ranks = ", ".join(str(rank) for rank in failures) or "unknown"
    first = next(iter(failures.values()), error)
    return StageFailedError(f"{stage_name}: workers failed (ranks {ranks}): {last_error(str(first))}")
