"""What it means when a stage's workers fail on Ray: whose fault, in one line, and whether to try again."""

from __future__ import annotations

from netgpt.cluster.errors import ClusterError, StageFailedError, is_bad_input
from netgpt.cluster.workers.compat import worker_logs
from netgpt.graphstore.files import is_full
from netgpt.trainers.logs import log_path
from netgpt.trainers.stages.base import StageJob

KEPT_LOGS = 4
"""Logs of workers that died while they were started, the newest, that a run keeps."""


class NoRoomError(RuntimeError):
    """The cluster did not get room for all ranks in time."""


class NotStartedError(RuntimeError):
    """There was room, and the ranks' processes did not come up."""


class RanksFailedError(RuntimeError):
    """Ranks that had started failed."""

    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__(f"ranks {', '.join(map(str, failures))} failed")
        self.failures = failures
        """By rank, what Ray says of it; an error of the work is its `cause`."""


def may_pass(error: Exception) -> bool:
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
        if isinstance(cause, OSError) and is_full(cause):
            return OSError(cause.errno, cause.strerror, cause.filename)
        cause = getattr(cause, "cause", None) or cause.__cause__
    return None


def with_last_words(cause: Exception, error: Exception, job: StageJob, since: int) -> Exception:
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


def cause_of(error: BaseException, stage_name: str) -> Exception:
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
