"""A run's report: one HTML page that needs nothing but itself.

`gather` and its neighbours read a run into frozen values, `charts` draws, `page` writes. A run that is not
finished gets a page of what is there. The same run gives the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netgpt.cluster.pipeline.run import Run

REPORT = "report.html"


def write_report(run: Run, out: Path | None = None, *, reasons: bool = False) -> Path:
    """Write the page of a run, whole or not at all; returns where (default: report.html in the run).

    reasons: of the worst answers also by a large language model, which takes as long as some hundred answers.

    Takes no lock: a run that is under way may be looked at, and its own driver may call this.
    """
    # Only here: matplotlib and jinja take a second, and whoever imports this module may never render
    from netgpt.cluster.report.gather import gather
    from netgpt.cluster.report.page import render
    from netgpt.graphstore.files import atomic_file

    path = out or run.path / REPORT
    text = render(gather(run, reasons=reasons))
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
