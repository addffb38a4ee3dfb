"""What a person sees while a command works: lines and progress bars on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from netgpt.trainers.progress import OnProgress

LOG_PERIOD_S = 10.0


def say(text: str) -> None:
    """A line for the person, above the progress bars; in a log in one piece."""
    if sys.stderr.isatty():
        tqdm.write(text, file=sys.stderr)
    else:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()


class _Lines:
    """What a log has in place of a bar: a line now and then, and one at the end of what took its time."""

    def __init__(self, title: str, unit: str) -> None:
        self.title, self.unit, self.done = title, unit, 0
        self._start = self._said = time.monotonic()

    def update(self, done: int, total: int | None) -> None:
        self.done, now = done, time.monotonic()
        ends = done == total and now - self._start > 1
        if ends or now - self._said >= LOG_PERIOD_S:
            self._said = now
            unit = self.unit if self.unit.startswith(" ") else f" {self.unit}"
            of = "" if total is None else f" of {total:,}"
            say(f"{self.title}: {done:,}{of}{unit} after {now - self._start:.0f} s")


def bar(title: str, unit: str) -> OnProgress:
    """A progress bar on standard error that shows itself after a second; without a terminal, lines."""
    if not sys.stderr.isatty():
        return _Lines(title, unit).update
    shown: tqdm | None = None  # made at the first step: an error before it is one line alone

    def update(done: int, total: int) -> None:
        nonlocal shown
        if shown is None:
            shown = tqdm(
                desc=title, unit=unit, total=total, unit_scale=unit == "B", dynamic_ncols=True, delay=1
            )
        shown.total = total
        shown.update(done - shown.n)
        if done == total:
            shown.close()

    return update


@contextmanager
def counting_bar(title: str, unit: str, *, scaled: bool = False) -> Iterator[Callable[[int], Any]]:
    """A progress bar without a known end; yields what is called with the number of each batch."""
    if not sys.stderr.isatty():
        lines = _Lines(title, unit)
        yield lambda num: lines.update(lines.done + num, None)
        lines.update(lines.done, lines.done)
        return
    with tqdm(desc=title, unit=unit, unit_scale=scaled, dynamic_ncols=True, delay=1) as shown:
        yield shown.update
