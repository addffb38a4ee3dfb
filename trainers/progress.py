"""Progress of a stage as a small file that anyone may read.

The worker that trains and the person who waits are different processes, perhaps on different
machines: the worker (rank 0) replaces a JSON file a few times a second, the front end draws it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path

from netgpt.graphstore.verify import OnProgress as OnProgress

PROGRESS = "progress.json"
_PERIOD_S, _LOG_PERIOD_S, _RATE_S = 0.25, 10.0, 30.0
_log = logging.getLogger(__name__)


def no_progress(done: int, total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class ProgressState:
    """What the file says."""

    done: int
    total: int
    unit: str
    """Of one: step, part."""
    values: dict[str, float]
    """By name, such as loss."""
    note: str
    """The last line for the person who waits."""
    rate: float
    """Units a second over about the last `_RATE_S` seconds; 0 where it is not known yet."""


class Progress:
    """Where a stage is. Only rank 0's writes; `None` as the folder makes it silent."""

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / PROGRESS if folder else None
        self._last = self._logged = 0.0
        self._recent: deque[tuple[int, float]] = deque()  # done, when: of this process, the oldest first
        self._note = ""

    def note(self, text: str) -> None:
        """A line for the person who waits, to be shown once; it stays until the next."""
        self._note = text
        if self._path is not None:
            _log.info(text)

    def update(self, done: int, total: int, unit: str, **values: float) -> None:
        """Say that `done` of `total` units are done; written at most four times a second.

        values: those that are not finite, such as the best of nothing yet, are not shown.
        """
        now = time.monotonic()
        if self._path is None or (now - self._last < _PERIOD_S and done < total):
            return
        self._last = now
        if self._recent and done < self._recent[-1][0]:
            self._recent.clear()  # another count has begun
        self._recent.append((done, now))
        while len(self._recent) > 2 and now - self._recent[1][1] >= _RATE_S:
            self._recent.popleft()
        # No fsync: it is for the eye, and a torn file after a crash is only not shown
        temporary = self._path.with_name(f".{PROGRESS}.{os.getpid()}.tmp")
        shown = {key: round(value, 4) for key, value in values.items() if math.isfinite(value)}
        state = ProgressState(done, total, unit, shown, self._note, self._rate())
        temporary.write_text(json.dumps(asdict(state)))
        temporary.replace(self._path)
        if now - self._logged >= _LOG_PERIOD_S or done >= total:
            self._logged = now
            said = "".join(f", {key} {value}" for key, value in shown.items())
            _log.info("%s %d of %d%s", unit, done, total, said)

    def _rate(self) -> float:
        """Units a second over about the last `_RATE_S` seconds: a slow phase says nothing of the next. 0
        where this process has done none."""
        (first, since), (done, now) = self._recent[0], self._recent[-1]
        return (done - first) / (now - since) if now > since else 0.0


def read_progress(folder: Path) -> ProgressState | None:
    """None where there is no file, or a torn one."""
    try:
        return ProgressState(**json.loads((folder / PROGRESS).read_text()))
    except (OSError, ValueError, TypeError):
        return None
