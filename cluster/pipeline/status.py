"""What a run's stages are doing, read from its folder: for anyone who sees it, beside the driver or not."""

from __future__ import annotations

import fcntl
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.attempts import FAILED, Attempt, read_attempts
from netgpt.cluster.pipeline.run import CONFIG
from netgpt.cluster.workers.locks import LOCK
from netgpt.trainers.logs import log_path
from netgpt.trainers.progress import read_progress
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import Stage
from netgpt.trainers.stages.names import stage_of

DONE, RUNNING, WAITING, STOPPED = "done", "running", "waiting", "stopped"


@dataclass(frozen=True)
class StageStatus:
    stage: str
    title: str
    state: str
    """done, running, waiting, failed, or stopped: its driver ended; the same command goes on."""
    seconds: float
    """Time of all attempts so far."""
    attempts: int
    restarts: int
    done: int | None = None
    """Units that are done, of `total`, in the unit named."""
    total: int | None = None
    unit: str = ""
    rate: float = 0.0
    """Units a second."""
    values: dict[str, float] | None = None
    log: str = ""
    """The stage's log file, where there is one."""

    @property
    def remaining_s(self) -> float | None:
        if self.state != RUNNING or not self.rate or self.done is None or self.total is None:
            return None
        return (self.total - self.done) / self.rate


def is_worked_on(run: Path) -> bool:
    """Whether a process holds the run."""
    try:
        with (run / LOCK).open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except FileNotFoundError:
        return False
    except OSError:
        return True


def run_status(run: Path) -> list[StageStatus]:
    """Each stage that the run has or will have, in order. ClusterError where there is no run."""
    if not (run / CONFIG).exists():
        raise ClusterError(f"{run}: found no run, expected a folder made by netgpt run")
    config = load_config(str(run / CONFIG))
    attempts, held = read_attempts(run), is_worked_on(run)
    stages = []
    for name in (*config.stages, *config.baselines):
        stage = stage_of(name)
        own = [attempt for attempt in attempts if attempt.stage == stage.name]
        if stage.applies(config) and (own or name in config.stages):
            stages.append(_status_of(run, stage, own, held))
    return stages


def _status_of(run: Path, stage: Stage, attempts: list[Attempt], held: bool) -> StageStatus:
    place, last, now = run / stage.name, attempts[-1] if attempts else None, time.time()
    open_ = last is not None and last.end_s is None
    if open_ and held:
        state = RUNNING
    elif folder.read_manifest(place) is not None:
        state = DONE
    elif last is None:
        state = WAITING
    else:
        state = FAILED if last.outcome == FAILED else STOPPED
    seconds = sum(a.seconds or 0.0 for a in attempts)
    progress = None
    if state == RUNNING:
        assert last is not None
        seconds += now - last.start_s
        progress = read_progress(place)
    log = log_path(run, stage.name)
    restarts, log_name = sum(a.restarts for a in attempts), str(log) if log.exists() else ""
    status = StageStatus(stage.name, stage.title, state, seconds, len(attempts), restarts, log=log_name)
    if progress is None:
        return status
    return replace(
        status,
        done=progress.done,
        total=progress.total,
        unit=progress.unit,
        rate=progress.rate,
        values=progress.values,
    )


def status_json(run: Path) -> dict[str, Any]:
    stages = [{**asdict(one), "remaining_s": one.remaining_s} for one in run_status(run)]
    return {"run": str(run), "worked_on": is_worked_on(run), "stages": stages}


def status_text(run: Path) -> str:
    """A line a stage, and what to do where nobody works on a run that is not whole."""
    lines = []
    stages = run_status(run)
    for one in stages:
        line = f"{one.title:<22}{one.state:<9}{_duration(one.seconds) if one.attempts else '':>8}"
        if one.state == RUNNING and one.total:
            line += f"  {one.done} of {one.total} {plural(one.unit, one.total)}"
            line += f", {one.rate:.3g}/s" if one.rate else ""
            line += f", {_duration(one.remaining_s)} to go" if one.remaining_s is not None else ""
            line += "".join(f", {key} {value:g}" for key, value in (one.values or {}).items())
        if one.attempts > 1 or one.restarts:
            line += f"  ({one.attempts} attempts, {one.restarts} restarts)"
        lines.append(line + (f"  see {one.log}" if one.state == FAILED and one.log else ""))
    if not is_worked_on(run) and any(one.state != DONE for one in stages):
        lines.append("nobody works on this run; the command that started it goes on where it stopped")
    return "\n".join(lines)


def plural(unit: str, num: int) -> str:
    """A unit's name for so many of it."""
    return unit if num == 1 else f"{unit}s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
