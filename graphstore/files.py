"""Files written whole or not at all, and their digests.

Every write that matters goes to a temporary name beside the target, is flushed to the disk and
then renamed, so that a reader sees the old file, the new file, or none.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
import weakref
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from netgpt.graphstore.errors import FormatError, StoreError

_BLOCK_BYTES = 1 << 20
MAX_JSON_BYTES = 1 << 26
"""Longest metadata that is read: a store of a terabyte has a seal of 10 MB."""

Item = TypeVar("Item")
Json = dict[str, Any]
"""An object as JSON has it, of keys that its writer knows."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def value_digest(value: Any) -> str:
    """SHA-256 of a JSON value in one canonical spelling (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def files_digest(root: Path, files: Iterable[Path]) -> str:
    """SHA-256 over some files below a folder and their names in it."""
    return value_digest({path.relative_to(root).as_posix(): file_digest(path) for path in files})


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items, none of them None, the next one made by another thread while one is in use."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item


def fsync_dir(path: Path) -> None:
    """Make a rename inside `path` durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_TEMPORARY = re.compile(r"(?<=/)\.(?P<name>[^/]+)\.[0-9]+-(?P<host>[0-9a-f]{8})[0-9a-f]{8}\.tmp")
_MAX_NAME_BYTES = 255
"""Of a file, on nearly all file systems."""
_LEFT_S = 2.0
"""A folder that nobody holds was left by a killed process once it is so old: before, it may be new."""


def _temporary(path: Path) -> Path:
    # The process id and a random part: two processes may write one target at once (a run that was
    # started again while a worker of the killed one still ends), and must not share a temporary.
    mark = f".{os.getpid()}-{_host()}{uuid.uuid4().hex[:8]}.tmp"
    name = os.fsencode(path.name)[: _MAX_NAME_BYTES - 1 - len(mark)]
    return path.with_name(f".{os.fsdecode(name)}{mark}")


def _host() -> str:
    """This machine in a name: locks of another may not be seen here."""
    return f"{zlib.crc32(os.uname().nodename.encode()):08x}"


def target_of(place: str) -> str:
    """A path in which temporary names are what they stand for."""
    return _TEMPORARY.sub(lambda match: match["name"], place)


def is_full(error: BaseException) -> bool:
    """Whether the system has no room for more."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_place(error: OSError) -> bool:
    """Whether it is what the system says of a path that a person named, or of its folder."""
    return error.errno in _PLACES


_PLACES = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTEMPTY, errno.ETXTBSY, errno.ENODEV, errno.ENXIO),
}


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """StoreError, naming `path` as it was asked for, where the system refuses to make it."""
    try:
        yield
    except OSError as error:
        if not is_place(error):
            raise
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}); choose another place"
        ) from error


@contextmanager
def _parents(path: Path) -> Iterator[None]:
    """The folder of `path`, made, and taken away again where nothing comes of it."""
    with writing_to(path):
        new = [one for one in path.parents if not one.exists()]
    try:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                path.lstat()  # a name that is too long is refused before the work
        yield
    except BaseException:
        for one in new:
            with suppress(OSError):  # another's work is in it
                one.rmdir()
        raise


def _new_file_mode(path: Path) -> int:
    """The mode that a new file at `path` gets. Asked by making one: to read the umask a process has to change
    it, for all its threads."""
    path.touch()
    try:
        return stat.S_IMODE(path.stat().st_mode)
    finally:
        path.unlink()


def _set_mode(fd: int, mode: int) -> None:
    if stat.S_IMODE(os.fstat(fd).st_mode) != mode:  # some file systems refuse to be asked for what they give
        os.fchmod(fd, mode)


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success flush it and rename it to `path`, else remove it.

    The file has the mode that the umask gives, whatever wrote it. StoreError where the place cannot be
    written.
    """
    temporary = _temporary(path)
    with _parents(path):
        if path.is_dir():
            raise StoreError(f"{path}: found a folder, expected the name of a file")
        with writing_to(path):
            mode = _new_file_mode(temporary)
        try:
            yield temporary
            with temporary.open("rb") as file:
                _set_mode(file.fileno(), mode)
                os.fsync(file.fileno())
            with writing_to(path):
                temporary.replace(path)
            fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def refuse_existing(out: Path, source: Path | None = None) -> None:
    """StoreError where something is at `out`, or where it would be made inside the folder `source`."""
    if out.exists() or out.is_symlink():
        raise StoreError(f"{out}: already there; remove it or choose another --out")
    if source is not None and out.resolve().is_relative_to(source.resolve()):
        raise StoreError(f"{out}: inside {source}, which must stay as it is; choose another --out")


@contextmanager
def atomic_dir(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success flush and rename it, else remove it.

    `path` must not be there, or be an empty folder: others cannot be replaced in one step. Files and
    folders in it have the modes that the umask gives, whatever wrote them; hard links to files elsewhere
    stay as they are. What killed processes left of the same target is removed first. StoreError where the
    place cannot be written, and where another process makes the same folder.
    """
    temporary = _temporary(path)
    with _parents(path), ExitStack() as stack:
        with writing_to(path):
            is_empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
            if (path.exists() or path.is_symlink()) and not is_empty:
                raise StoreError(
                    f"{path}: already there, and no empty folder; remove it or choose another place"
                )
            _remove_left(path)
            temporary.mkdir()
            stack.callback(shutil.rmtree, temporary, ignore_errors=True)
            folder_mode = stat.S_IMODE(temporary.stat().st_mode)
            file_mode = _new_file_mode(temporary / "mode")
            held = os.open(temporary, os.O_RDONLY)
            stack.callback(os.close, held)
        with suppress(OSError):  # a file system without locks: what a killed process leaves there stays
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield temporary
        for folder, _, files in os.walk(temporary):
            for name in files:
                place = os.path.join(folder, name)
                with open(place, "rb") as file:
                    if os.fstat(file.fileno()).st_nlink == 1 and not os.path.islink(place):
                        _set_mode(file.fileno(), file_mode)
                    os.fsync(file.fileno())
            os.chmod(folder, folder_mode)
            fsync_dir(Path(folder))
        with writing_to(path):
            temporary.rename(path)
        fsync_dir(path.parent)


def _remove_left(path: Path) -> None:
    """Remove the temporary folders of `path` whose processes on this machine ended. StoreError where one
    works on it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        match = _TEMPORARY.search(f"/{left.name}")
        if match is None or match["name"] != path.name or match["host"] != _host():
            continue
        try:
            held = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(held).st_mtime >= _LEFT_S:
                shutil.rmtree(left, ignore_errors=True)
        except BlockingIOError:
            raise StoreError(
                f"{path}: another process is making it; wait for it or choose another place"
            ) from None
        except OSError:  # a file system without locks
            pass
        finally:
            os.close(held)


def write_json(path: Path, value: Any) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(
            json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8"
        )


def read_json(path: Path) -> Any:
    """The value of a JSON file. Raises OSError, and ValueError for what is not JSON or far too long."""
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: found more than {MAX_JSON_BYTES:,} bytes, expected metadata")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError(f"{path}: found values nested without end, expected metadata") from None


def inside(root: Path, name: str) -> Path:
    """`root/name`, a plain file that is reached without leaving `root`.

    Raises FormatError for names that lead out, for links anywhere on the way, for what is no plain file
    (a pipe would wait for ever) and for what is not there.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts:
        raise FormatError(f"{root}: found the file name {name!r}, expected one inside the store")
    path = root
    for part in parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise FormatError(f"{root}: {name}: missing ({reason})") from None
        if stat.S_ISLNK(mode):
            raise FormatError(f"{root}: {name}: found a link, expected a file of the store's own")
    if not stat.S_ISREG(mode):
        raise FormatError(f"{root}: {name}: found no plain file, expected one")
    return path


def total_bytes(root: Path) -> int:
    """Length of all files below a folder. Files may go while it counts: a run's temporary ones do."""
    total = 0
    for place, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


class FileWatch:
    """Tells which of some files changed in place: their size, or the time of their last write.

    A file that was replaced by another of its name has not changed: a map of it stays what it was.
    """

    def __init__(self) -> None:
        self._watched: dict[Path, tuple[int, int, int]] = {}
        weakref.finalize(self, _close_all, self._watched)

    def add(self, path: Path) -> None:
        """Watch a file from now on; the first call for a path counts."""
        if path not in self._watched:
            fd = os.open(path, os.O_RDONLY)
            status = os.fstat(fd)
            self._watched[path] = (fd, status.st_size, status.st_mtime_ns)

    def changed(self) -> Path | None:
        """One of the files that changed, or None."""
        for path, (fd, size, mtime_ns) in self._watched.items():
            status = os.fstat(fd)
            if status.st_size != size or status.st_mtime_ns != mtime_ns:
                return path
        return None


def _close_all(watched: dict[Path, tuple[int, int, int]]) -> None:
    for fd, _, _ in watched.values():
        os.close(fd)
