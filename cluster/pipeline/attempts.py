"""RUN/attempts.jsonl: when each stage was tried, on what, and how it ended. Lines are only ever added."""

from __future__ import annotations

import json
import math
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ATTEMPTS = "attempts.jsonl"
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"


@dataclass(frozen=True)
class Attempt:
    """One try at a stage by one driver. Times are seconds since 1970."""

    stage: str
    id: str
    start_s: float
    workers: int
    device: str
    threads: int
    """CPU threads of each worker."""
    end_s: float | None = None
    outcome: str = ""
    """done, failed, interrupted; empty where it runs, or its driver was killed."""
    restarts: int = 0
    """Times that Ray started its workers again."""
    peak_bytes: int | None = None
    """Resident memory of the worker that took most."""

    made_by: Mapping[str, str] = field(default_factory=dict)
    """Command, versions and machine of the driver; empty where nothing is recorded."""

    @property
    def seconds(self) -> float | None:
        # A clock that was set back in between must not make time negative
        return None if self.end_s is None else max(0.0, self.end_s - self.start_s)


def start_attempt(
    run: Path,
    stage: str,
    *,
    workers: int,
    device: str,
    threads: int,
    made_by: Mapping[str, str] | None = None,
) -> str:
    """Note that a stage is tried; the attempt's id."""
    name = uuid.uuid4().hex[:12]
    event = {"event": "start", "stage": stage, "attempt": name, "time": time.time()}
    told = {"workers": workers, "device": device, "threads": threads}
    _add(run, {**event, **told, **({"made_by": dict(made_by)} if made_by else {})})
    return name


def end_attempt(
    run: Path, stage: str, attempt: str, outcome: str, *, restarts: int, peak_bytes: int | None
) -> None:
    event = {"event": "end", "stage": stage, "attempt": attempt, "time": time.time(), "outcome": outcome}
    _add(run, {**event, "restarts": restarts, "peak_bytes": peak_bytes})


def _add(run: Path, line: dict[str, Any]) -> None:
    """One write of a whole line, behind what is there; a line that a crash tore stays alone."""
    with (run / ATTEMPTS).open("ab") as file:
        torn = file.tell() > 0 and not _ends_a_line(run / ATTEMPTS)
        file.write(("\n" if torn else "").encode() + json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def read_attempts(run: Path) -> list[Attempt]:
    """The attempts of a run in the order of their starts; [] where nothing was recorded.

    Lines that are torn or of another form are left out: a report must not depend on them.
    """
    try:
        lines = (run / ATTEMPTS).read_bytes().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
    events = [event for event in map(_event, lines) if event is not None]
    ends = {event["attempt"]: event for event in events if event["event"] == "end"}
    attempts = [_attempt(event, ends.get(event["attempt"])) for event in events if event["event"] == "start"]
    return sorted(attempts, key=lambda attempt: attempt.start_s)


def _event(line: str) -> dict[str, Any] | None:
    """A line as a start or an end with a stage, a name and a time, or None."""
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or event.get("event") not in ("start", "end"):
        return None
    named = isinstance(event.get("stage"), str) and isinstance(event.get("attempt"), str)
    return event if named and _number(event.get("time")) is not None else None


def _number(value: object) -> float | None:
    """A finite number from 0 that a double holds, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e15:
        return None
    return float(value) if math.isfinite(value) else None


def _texts(value: object) -> dict[str, str]:
    some = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in some if isinstance(text, str)}


def _whole(value: object, default: int) -> int:
    number = _number(value)
    return default if number is None else int(number)


def _attempt(start: dict[str, Any], end: dict[str, Any] | None) -> Attempt:
    known = end or {}
    peak = _number(known.get("peak_bytes"))
    return Attempt(
        stage=start["stage"],
        id=start["attempt"],
        start_s=float(start["time"]),
        workers=max(1, _whole(start.get("workers"), 1)),
        device="cuda" if start.get("device") == "cuda" else "cpu",
        threads=max(1, _whole(start.get("threads"), 1)),
        end_s=None if end is None else float(end["time"]),
        outcome=str(known.get("outcome", "")),
        restarts=_whole(known.get("restarts"), 0),
        peak_bytes=None if peak is None else int(peak),
        made_by=_texts(start.get("made_by")),
    )
