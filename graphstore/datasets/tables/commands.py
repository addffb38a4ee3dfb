"""Commands of tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def describe(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="RelBench's folder, GraphStorm's JSON, or a description.")
    ],
) -> None:
    """Print what a source of tables says as a description, in YAML: to be changed, and saved beside it."""
    import yaml

    from netgpt.graphstore.datasets.tables.parse import as_tables, read_description

    read_description(source)
    print(yaml.safe_dump(as_tables(source), sort_keys=False, allow_unicode=True), end="")
