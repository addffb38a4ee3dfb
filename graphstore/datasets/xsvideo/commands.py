"""Commands of released records. Of the store only such modules import typer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.xsvideo import annotation
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import write_json
from netgpt.graphstore.json_stream import json_text


def annotate(
    source: Annotated[Path, typer.Argument(metavar="JSON", help="Released records; levels may be absent.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the records with their levels.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="Fit factors: CSV with platform, indicator, x (there), y (Kuaishou)."),
    ] = None,
    factors: Annotated[
        Path | None, typer.Option("--factors", help="Given factors: JSON {platform: {indicator: factor}}.")
    ] = None,
    save_factors: Annotated[
        Path | None, typer.Option("--save-factors", help="Write the factors that were used.")
    ] = None,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="With --out: also videos younger than two weeks.")
    ] = False,
    on_error: Annotated[str, typer.Option("--on-error", help="fail or skip: bad records.")] = "fail",
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Rate videos by the annotation rule, and say where that differs from the levels in the records."""
    if pairs is not None and factors is not None:
        raise StoreError("annotate: found both --pairs and --factors, expected one of them")
    used: dict[str, dict[str, float]] = {}
    if pairs is not None:
        used = annotation.read_pairs(pairs)
    elif factors is not None:
        used = annotation.read_factors(factors)
    counts = ReadReport()
    annotations = annotation.annotate_file(
        source,
        out,
        factors=used,
        provisional=provisional,
        on_error=on_error,  # type: ignore[arg-type]  # checked by read_records
        report=counts,
    )
    if counts.num_skipped:
        said = ", ".join(f"{name}: {num}" for name, num in counts.skipped.items())
        typer.echo(f"left out {counts.num_skipped} records ({said}); first: {counts.first_skipped}", err=True)
    if save_factors is not None:
        write_json(save_factors, used)
    report = annotation.summary(annotations, used)
    print(json_text(report, ensure_ascii=False) if as_json else annotation.summary_table(report))
