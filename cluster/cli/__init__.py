"""The command line. Machine output goes to standard output, progress and logs to standard error.

Exit status: 0 on success; 2 for wrong usage or bad input, with one line that says what and where;
1 for anything else.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from netgpt.cluster.cli import bench, cluster, plan, report, run, stores
from netgpt.cluster.errors import FailedError, is_bad_input, is_full_disk
from netgpt.cluster.jobs.submit import enter_callers_folder
from netgpt.cluster.origin import versions
from netgpt.cluster.progress import say

app = typer.Typer(
    name="netgpt",
    help="Training of large graph models: a heterogeneous graph joined to a large language model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
stores.register(app)
run.register(app)
report.register(app)
plan.register(app)
app.add_typer(cluster.app, name="cluster")
app.add_typer(bench.app, name="bench")


def _show_versions(wanted: bool) -> None:
    if wanted:
        for name, version in versions().items():
            print(f"{name} {version}")
        raise typer.Exit


@app.callback()
def _every_command(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_versions,
            is_eager=True,
            help="Versions of netgpt and what it runs on.",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    try:
        enter_callers_folder()
        sys.path.append(os.getcwd())  # a recipe's own modules; behind all that is installed
        app()  # leaves with 0, or with 2 after a message about wrong usage
    except Exception as error:
        if is_bad_input(error):
            say(f"netgpt: {' '.join(str(error).splitlines())}")
            sys.exit(2)
        if isinstance(error, OSError) and is_full_disk(error):
            where = f" for {error.filename}" if error.filename else ""
            say(f"netgpt: no room on the disk{where} ({error.strerror}); make room and run the command again")
            sys.exit(1)
        if isinstance(error, FailedError):
            say(f"netgpt: {' '.join(str(error).splitlines())}")
            sys.exit(1)
        traceback.print_exc()
        say(f"netgpt: failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        sys.exit(1)
