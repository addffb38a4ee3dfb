"""What a person sees while stages run: a bar each, and the same as metrics of Ray's Prometheus endpoint."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from netgpt.cluster.pipeline.status import plural
from netgpt.cluster.progress import say
from netgpt.trainers.progress import PROGRESS, ProgressState, read_progress

POLL_S, LOG_PERIOD_S = 0.3, 10.0


class _Gauges:
    """netgpt_stage_{done,total,rate} and netgpt_stage_value, by run, stage and name of the value."""

    def __init__(self, run: str, stage: str) -> None:
        from ray.util.metrics import Gauge

        tags = ("run", "stage")
        self._of = {"run": _tag(run), "stage": _tag(stage)}
        self._plain = {
            name: Gauge(f"netgpt_stage_{name}", description=text, tag_keys=tags)
            for name, text in (
                ("done", "Units of the stage that are done."),
                ("total", "Units of the stage."),
                ("rate", "Units a second."),
            )
        }
        self._value = Gauge(
            "netgpt_stage_value", description="A value such as loss.", tag_keys=(*tags, "name")
        )

    def set(self, progress: ProgressState) -> None:
        for name, gauge in self._plain.items():
            gauge.set(float(getattr(progress, name)), tags=self._of)
        for name, value in progress.values.items():
            self._value.set(float(value), tags={**self._of, "name": _tag(name)})


def _tag(text: str) -> str:
    """A text as Ray's metrics take it: ASCII, what is not in escapes."""
    return text.encode("ascii", "backslashreplace").decode("ascii")


@contextmanager
def shown_progress(folder: Path, title: str) -> Iterator[None]:
    """Show the stage's progress file on standard error until the block ends: on a terminal as a bar, in a log
    as a line now and then. Needs a Ray session."""
    stop = threading.Event()
    gauges = _Gauges(folder.parent.name, folder.name)
    moving = sys.stderr.isatty()
    period_s = POLL_S if moving else LOG_PERIOD_S

    def draw() -> None:
        shown = _Bar(title) if moving else _StageLines(title)
        said, ended = "", False
        while not ended:
            ended = stop.wait(period_s)
            progress = read_progress(folder)
            if progress is not None:
                gauges.set(progress)
                if progress.note != said:
                    said = progress.note
                    say(said)
            shown.update(progress)
        shown.close()

    thread = threading.Thread(target=draw, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        (folder / PROGRESS).unlink(missing_ok=True)


class _Bar:
    """A bar that moves; those of stages side by side are below each other."""

    def __init__(self, title: str) -> None:
        self._bar = tqdm(desc=title, total=None, dynamic_ncols=True, mininterval=POLL_S)

    def update(self, progress: ProgressState | None) -> None:
        if progress is not None:
            self._bar.unit = progress.unit
            self._bar.total, self._bar.n = progress.total, progress.done
            if progress.values:
                self._bar.set_postfix(progress.values, refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        self._bar.close()


class _StageLines:
    """A line at the start, where something is new, and at the end with the time it took."""

    def __init__(self, title: str) -> None:
        self._title, self._start = title, time.monotonic()
        self._last: tuple[int, int] | None = None
        say(f"{title} …")

    def update(self, progress: ProgressState | None) -> None:
        if progress is None or self._last == (progress.done, progress.total):
            return
        self._last = (progress.done, progress.total)
        rate = f", {progress.rate:.3g}/s" if progress.rate else ""
        values = "".join(f", {key} {value:g}" for key, value in progress.values.items())
        unit = plural(progress.unit, progress.total)
        say(f"{self._title}: {progress.done} of {progress.total} {unit}{rate}{values}")

    def close(self) -> None:
        say(f"{self._title}: ended after {time.monotonic() - self._start:.0f} s")
