"""Who works on a run's folder, and on a stage's: locks that end with their process.

A driver that was killed leaves workers behind for some seconds. The next one waits for them before it
touches the folder.
"""

from __future__ import annotations

import errno
import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.files import writing_to

LOCK, _FOLDER = ".lock", ".workers"
WAIT_S, _POLL_S = 120.0, 0.2


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder, or one of features: two commands must not work on one.

    A folder that is new, and still empty where the work is refused, is taken away again.
    """
    new = [one for one in (folder, *folder.parents) if not one.exists()]
    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    try:
        with _held(folder):
            yield
    except BaseException:
        if new and [path.name for path in folder.iterdir()] == [LOCK]:
            (folder / LOCK).unlink()
            for one in new:
                with suppress(OSError):  # another's work is in it
                    one.rmdir()
        raise


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    with _lock_file(folder) as file:
        try:
            if file is not None:  # one that nobody can write is held by readers together
                kind = fcntl.LOCK_EX if file.writable() else fcntl.LOCK_SH
                fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ClusterError(
                f"{folder}: another process works on this folder; wait for it or choose another --out"
            ) from None
        yield


@contextmanager
def _lock_file(folder: Path) -> Iterator[IO[str] | None]:
    """The file that is locked; none in a folder that nobody can write, where there is none."""
    path, file = folder / LOCK, None
    try:
        file = path.open("w")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        with suppress(FileNotFoundError):
            file = path.open("r")
    try:
        yield file
    finally:
        if file is not None:
            file.close()


@contextmanager
def rank_lock(run: Path, stage: str, rank: int) -> Iterator[None]:
    """Hold a rank's part of a stage. ClusterError where another process keeps it."""
    path = run / _FOLDER / f"{stage}-{rank}"
    path.parent.mkdir(exist_ok=True)
    with path.open("w") as file:
        _wait(file.fileno(), path, stage)
        yield


def wait_for_workers(run: Path, stage: str) -> None:
    """Return when no process works on the stage any more. ClusterError where that takes too long."""
    for path in sorted((run / _FOLDER).glob(f"{stage}-*")):
        with path.open("w") as file:
            _wait(file.fileno(), path, stage)


def _wait(fd: int, path: Path, stage: str) -> None:
    until = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except OSError:
            if time.monotonic() > until:
                raise ClusterError(
                    f"{path}: a worker of an earlier attempt still works on {stage} after {WAIT_S:.0f} s; "
                    "end it"
                ) from None
        time.sleep(_POLL_S)
