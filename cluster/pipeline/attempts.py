"""RUN/attempts.jsonl: when each stage was tried, on what, and how it ended. Lines are only ever added."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ATTEMPTS = "attempts.jsonl"
DONE, FAILED, INTERRUPTED = "done", "failed", "interrupted"


@dataclass(frozen=True)
class Attempt:
    """One try at a stage by one driver. Times are seconds since 1970."""

    stage: str
    id: str
    started: float
    workers: int
    device: str
    threads: int
    """CPU threads of each worker."""
    ended: float | None = None
    outcome: str | None = None
    """done, failed, interrupted; None where it runs, or its driver was killed."""
    restarts: int = 0
    """Times that Ray started its workers again."""
    peak_bytes: int | None = None
    """Resident memory of the worker that took most."""

    @property
    def seconds(self) -> float | None:
        return None if self.ended is None else self.ended - self.started


def start_attempt(run: Path, stage: str, *, workers: int, device: str, threads: int) -> str:
    """Note that a stage is tried; the attempt's id."""
    name = uuid.uuid4().hex[:12]
    found = {"event": "start", "stage": stage, "attempt": name, "time": time.time()}
    _add(run, {**found, "workers": workers, "device": device, "threads": threads})
    return name


def end_attempt(
    run: Path, stage: str, attempt: str, outcome: str, *, restarts: int, peak_bytes: int | None
) -> None:
    found = {"event": "end", "stage": stage, "attempt": attempt, "time": time.time(), "outcome": outcome}
    _add(run, {**found, "restarts": restarts, "peak_bytes": peak_bytes})


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
    """All attempts of a run, oldest first; lines that a crash tore are passed over."""
    found: dict[str, Attempt] = {}
    try:
        lines = (run / ATTEMPTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for text in lines:
        try:
            line = json.loads(text)
            if line["event"] == "start":
                found[line["attempt"]] = Attempt(
                    *(line[name] for name in ("stage", "attempt", "time", "workers", "device", "threads"))
                )
            else:
                before = found[line["attempt"]]
                end = (line["time"], line["outcome"], line["restarts"], line["peak_bytes"])
                start = (before.workers, before.device, before.threads)
                found[before.id] = Attempt(before.stage, before.id, before.started, *start, *end)
        except (ValueError, KeyError, TypeError):
            continue
    return list(found.values())
