"""What a person sees while stages run: a bar each, and the same as metrics of Ray's Prometheus endpoint."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from trainers.progress import PROGRESS, read_progress

POLL_S, LOG_PERIOD_S = 0.3, 5.0


class _Gauges:
    """netgpt_stage_{done,total,rate} and netgpt_stage_value, by run, stage and name of the value."""

    def __init__(self, run: str, stage: str) -> None:
        from ray.util.metrics import Gauge

        tags = ("run", "stage")
        self._of = {"run": run, "stage": stage}
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

    def set(self, progress: dict[str, Any]) -> None:
        for name, gauge in self._plain.items():
            gauge.set(float(progress.get(name, 0)), tags=self._of)
        for name, value in progress["values"].items():
            self._value.set(float(value), tags={**self._of, "name": name})


@contextmanager
def shown_progress(folder: Path, title: str) -> Iterator[None]:
    """Draw the stage's progress file as a bar on standard error until the block ends. Needs a Ray session."""
    stop = threading.Event()
    gauges = _Gauges(folder.parent.name, folder.name)

    def draw() -> None:
        # A log file gets a line now and then, a terminal a bar that moves
        period_s = POLL_S if sys.stderr.isatty() else LOG_PERIOD_S
        said = ""
        with tqdm(desc=title, total=None, dynamic_ncols=True, mininterval=period_s) as bar:
            ended = False
            while not ended:
                ended = stop.wait(period_s)
                progress = read_progress(folder)
                if progress is not None:
                    gauges.set(progress)
                said = _draw(bar, progress, said)

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
