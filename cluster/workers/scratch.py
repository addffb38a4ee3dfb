"""Where Ray keeps its sockets and logs: a short path that this user may write."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from netgpt.cluster.errors import ClusterError

RAY_TMPDIR = "RAY_TMPDIR"
_SOCKET_BYTES = 107
"""Longest name of a socket in the file system, on Linux."""
_WITHIN_BYTES = 72
"""Of /ray/session_DATE_TIME_PID/sockets/plasma_store, and a few for what Ray may add."""
MOST_BYTES = _SOCKET_BYTES - _WITHIN_BYTES


def ray_scratch() -> str:
    """The folder for RAY_TMPDIR: the one that is set, else the system's, else a short one of this user's own.

    Ray makes `ray` in it, for all users of a machine, so that whoever comes first has it for itself.
    ClusterError for a folder that was set and does not do.
    """
    if given := os.environ.get(RAY_TMPDIR):
        if problem := _problem(Path(given)):
            raise ClusterError(f"{RAY_TMPDIR}: found {given}, {problem}; set {RAY_TMPDIR} to another folder")
        return given
    first = Path(tempfile.gettempdir())
    for folder in (first, Path("/tmp")):
        if not _problem(folder):
            return str(folder)
    own = Path("/tmp") / f"netgpt-{os.getuid()}"
    problem = _make_ours(own) or _problem(own)
    if not problem:
        return str(own)
    raise ClusterError(
        f"found no folder for Ray's sockets: {first}, {_problem(first)}, nor {own}, {problem}; set "
        f"{RAY_TMPDIR} to a short path that can be written"
    )


def _problem(folder: Path) -> str:
    """Why Ray could not work below a folder; empty where it could."""
    length = len(os.fsencode(folder.absolute()))
    if length > MOST_BYTES:
        return f"a path of {length} bytes, expected at most {MOST_BYTES} for Ray's sockets"
    try:
        (folder / "ray").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder / "ray"):
            pass
    except OSError as error:
        return f"which cannot be written ({error.strerror}: {error.filename})"
    return ""


def _make_ours(folder: Path) -> str:
    """Make a folder with a name that anyone could guess; what is wrong where another had it first."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        return f"which cannot be made ({error.strerror})"
    is_ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return "" if is_ours else "which is not this user's alone"
