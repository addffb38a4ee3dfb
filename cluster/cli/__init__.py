"""The command line. Machine output goes to standard output, progress and logs to standard error.

Exit status: 0 on success; 2 for wrong usage, bad input or a bad place, with one line that says what and
where; 128 and the number of a signal that ended the command; 1 for anything else.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer

from netgpt.cluster.cli import bench, cluster, plan, report, run, stores
from netgpt.cluster.errors import ClusterError, FailedError, is_bad_input
from netgpt.cluster.jobs.submit import enter_callers_folder
from netgpt.cluster.origin import versions
from netgpt.cluster.progress import say
from netgpt.cluster.signals import INTERRUPTED, end_by_signals, ended_by
from netgpt.graphstore.files import is_full, is_place, target_of
from netgpt.graphstore.json_stream import is_text

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
        end_by_signals()
        for word in sys.argv[1:]:
            if not is_text(word):
                raise ClusterError(f"found the argument {word!r}, expected one in UTF-8")
        enter_callers_folder()
        sys.path.append(os.getcwd())  # a recipe's own modules; behind all that is installed
        app()  # leaves with 0, or with 2 after a message about wrong usage
    except (KeyboardInterrupt, SystemExit) as ended:
        if (name := ended_by(ended)) is None:
            raise
        with suppress(OSError):  # a terminal that hung up
            say(f"netgpt: ended by {name}")
        sys.exit(INTERRUPTED if isinstance(ended, KeyboardInterrupt) else ended.code)
    except Exception as error:
        said = said_of(error)
        if said is None:
            traceback.print_exc()
            said = 1, f"failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        status, line = said
        say(f"netgpt: {line}")
        sys.exit(status)


def said_of(error: Exception) -> tuple[int, str] | None:
    """Exit status and line of what needs no trace: bad input, a bad place, a machine that lacks
    something. None for others: they are ours to mend."""
    line = " ".join(str(error).splitlines())
    if is_bad_input(error):
        return 2, line
    if isinstance(error, FailedError):
        return 1, line
    if isinstance(error, MemoryError):
        return 1, f"no memory is left ({line or 'for what was asked'})"
    if not isinstance(error, OSError):
        return None
    where = f"{target_of(str(error.filename))}: " if error.filename else ""
    if is_full(error):
        return 1, f"{where}no room on the disk ({error.strerror}); make room and run the command again"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return 2, f"{where}{error.strerror}: found a limit of {_open_files()}, expected more; raise ulimit -n"
    if is_place(error) and error.filename and _is_asked(str(error.filename)):
        return 2, f"{where}{error.strerror}"
    return None


def _is_asked(place: str) -> bool:
    """Whether a path is one of the command's words, in or above one: others are ours to know."""
    words = [word.partition("=")[2] if "=" in word else word for word in sys.argv[1:]]
    asked = [os.path.abspath(word) for word in words if word and not word.startswith("-")]
    path = os.path.abspath(place)
    return any(os.path.commonpath([path, one]) in (path, one) for one in asked)


def _open_files() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
