"""Places a stage on Ray, as ranks or as a pool; and what a worker does there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from netgpt.cluster.config import ClusterConfig
from netgpt.cluster.errors import ClusterError, StageFailedError, is_bad_input, is_full_disk
from netgpt.cluster.progress import say
from netgpt.cluster.workers.compat import worker_logs
from netgpt.cluster.workers.group import NoRoomError, NotStartedError, RanksFailedError, run_ranks
from netgpt.cluster.workers.locks import rank_lock
from netgpt.cluster.workers.mapped import run_mapped
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.resources import Resources
from netgpt.graphstore import Store
from netgpt.sampler import SamplingEngine
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.logs import log_path
from netgpt.trainers.stages.base import MappedStage, StageJob

KEPT_LOGS = 4
"""Logs of workers that died while they were started, the newest, that a run keeps."""
_LEAST_ROOM_S = 60.0
"""Room that a stage just gave back is not free at once."""


@dataclass(frozen=True)
class StageWork:
    """What goes to every worker of a stage: the one thing that is sent through Ray."""

    job: StageJob
    cluster: ClusterConfig
    store: NodeStore


def _work(work: StageWork) -> None:
    """What runs on every worker: the stage, with sampling actors beside it where it wants some."""
    from netgpt.trainers import distributed
    from netgpt.trainers.stages.session import stage_session
    from netgpt.trainers.worker import use_process_group

    job = work.job
    if not job.folder.is_dir():
        raise TrainerError(
            f"{job.folder}: not seen on this node; a run's folder is on a disk that all nodes share"
        )
    use_process_group(job.device)
    with rank_lock(job.run, job.described.name, distributed.rank()):
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


def run_on_ray(work: StageWork, need: Resources, on_restart: Callable[[], None] = lambda: None) -> None:
    """Run one prepared stage on the connected Ray. Raises StageFailedError, or a worker's bad-input error.

    Workers that died are started again, as often as the configuration says, and resume from the stage's own
    checkpoints, as a run that is started again does. on_restart: called each time.
    """
    import ray

    job, stage, cluster = work.job, work.job.described, work.cluster
    if isinstance(stage, MappedStage):  # its pool starts its own actors again
        try:
            run_mapped(stage, job, need, work.store)
        except Exception as error:
            raise _cause(error, stage.name) from error
        return
    room_s = max(_LEAST_ROOM_S, 60 * cluster.wait_minutes)
    for left in reversed(range(cluster.max_failures + 1)):
        since = time.time_ns()
        try:
            run_ranks(partial(_work, work), need, room_s=room_s)
            return
        except Exception as error:
            cause = _cause(error, stage.name)
            if not isinstance(error, RanksFailedError):
                cause = _with_last_words(cause, error, job, since)
            known = not isinstance(cause, StageFailedError)
            if not left or known or not _may_pass(error) or not ray.is_initialized():
                raise cause from error
            say(f"{cause}; they are started again, {left} more tries")
            on_restart()


def _may_pass(error: Exception) -> bool:
    """Whether another try may end otherwise: that of a defect will not."""
    from ray.exceptions import RayError

    if not isinstance(error, RanksFailedError):
        return isinstance(error, NotStartedError)
    causes = [getattr(failure, "cause", None) or failure for failure in error.failures.values()]
    return all(isinstance(cause, (RuntimeError, OSError, RayError)) for cause in causes)


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
    if not isinstance(cause, StageFailedError):
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
    from ray.exceptions import RayActorError

    failures = error.failures if isinstance(error, RanksFailedError) else {}
    for failure in [*failures.values(), error]:
        if known := _known_of(failure):
            return known
    if isinstance(error, StageFailedError):
        return error
    if isinstance(error, NoRoomError):
        return ClusterError(
            f"{stage_name}: its workers {error}; see ./launch.sh status, "
            "lower cluster.workers, or wait longer with cluster.wait_minutes"
        )
    if not failures:
        what = "did not start" if isinstance(error, NotStartedError) else "failed"
        return StageFailedError(f"{stage_name}: workers {what}: {last_error(str(error))}")
    # Of a rank that died the others hear as of an error of their own
    died = [one for one in failures.values() if isinstance(one, RayActorError)]
    first = [*died, *failures.values()][0]
    ranks = ", ".join(map(str, failures))
    return StageFailedError(f"{stage_name}: workers failed (ranks {ranks}): {last_error(str(first))}")
