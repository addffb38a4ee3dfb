"""The program as a person calls it, in this process."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

from netgpt.cluster.cli import main


def called(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Its end and what it says, for commands that start no Ray: most of their time is Python's start."""
    words, code = ["netgpt", *map(str, args)], 0
    out, err, before = StringIO(), StringIO(), sys.argv
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with redirect_stdout(out), redirect_stderr(err), chdir(cwd or Path.cwd()):
        sys.argv = words
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        finally:
            sys.argv = before
            for number, handler in handlers.items():
                signal.signal(number, handler)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())
