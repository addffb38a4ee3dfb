"""Commands that show finished runs: a run's report, and runs beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.progress import say
from netgpt.graphstore.json_stream import json_text


def report(
    run_path: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    out: Annotated[Path | None, typer.Option("--out", help="The page (default RUN/report.html).")] = None,
    reasons: Annotated[
        bool, typer.Option("--reasons", help="Of the worst answers by a large language model too; slow.")
    ] = False,
) -> None:
    """A page of a run's results, curves, graph and cost, as one HTML file. Also of an unfinished run."""
    from netgpt.cluster.pipeline.run import Run
    from netgpt.cluster.report import write_report

    say(f"{write_report(Run.open_(run_path), out, reasons=reasons)}: written")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Runs; the first is compared with.")],
    of: Annotated[
        str, typer.Option("--of", help="What: stage1, stage3_generated, … (default the last of each run).")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Finished runs beside each other on the same test examples, with paired differences."""
    from netgpt.cluster import compare as comparing

    compared = comparing.compare(runs, of)
    print(json_text(comparing.to_json(compared)) if as_json else comparing.text_of(compared))


def register(app: typer.Typer) -> None:
    app.command()(report)
    app.command()(compare)
