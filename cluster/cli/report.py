"""The command that writes a run's report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.progress import say


def report(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page (default RUN/report.html).")] = None,
) -> None:
    """A page of a run's results, curves, graph and cost, as one HTML file. Also of an unfinished run."""
    from netgpt.cluster.pipeline.run import Run
    from netgpt.cluster.report import write_report

    say(f"{write_report(Run.open_(run_path), out)}: written")


def register(app: typer.Typer) -> None:
    app.command()(report)
