"""The seal of a store: digests of all its files, written last.

SEAL.json holds for every file its SHA-256 and its length, and for the data of every array the CRC32C
of each Zarr chunk (the shard index counts as the last one), so that damage has an address. Version 1
had the SHA-256 alone; such stores are still read.
"""

from __future__ import annotations

import hashlib
import os
import re
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr

from netgpt.graphstore.arrays import CHUNK_BYTES, MAX_CHUNK_BYTES, read_meta
from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.files import MAX_JSON_BYTES, file_digest, inside, read_json, value_digest, write_json

FORMAT, VERSION, OLDEST_VERSION = "netgpt-graph", 3, 1
SEAL, PACK = "SEAL.json", "PACK.json"
_MAX_RANGES = 4


@dataclass(frozen=True)
class Seal:
    """What SEAL.json says. Files are named by their path in the store."""

    version: int
    files: dict[str, str]
    """SHA-256 of each file."""
    sizes: dict[str, int]
    """Bytes of each file; empty in version 1."""
    chunks: dict[str, tuple[int, str]]
    """By file of an array: bytes of a chunk, and the CRC32C of all chunks, 8 hexadecimal digits each."""

    @property
    def arrays(self) -> list[str]:
        """Arrays and groups of the store, by the files of their metadata; not its root."""
        return [name.removesuffix("/zarr.json") for name in self.files if name.endswith("/zarr.json")]

    @property
    def digest(self) -> str:
        """SHA-256 over the digests of all files: equal digests mean equal bytes."""
        return value_digest(self.files)


def store_files(root: Path) -> list[str]:
    """Every file of a store but the seal, links and what is no plain file included."""
    paths = (p for p in root.rglob("*") if p.is_symlink() or not p.is_dir())
    return sorted(p.relative_to(root).as_posix() for p in paths if p != root / SEAL)


def array_of(name: str) -> str:
    """The array or group that a file belongs to; the file itself where that is the store's root."""
    return re.sub(r"/(zarr\.json|c(/0)+)$", "", name)


def digest_file(path: Path, chunk_bytes: int) -> tuple[str, str]:
    """SHA-256 of a file, and the CRC32C of each run of `chunk_bytes` bytes, 8 hexadecimal digits each."""
    whole, chunks = hashlib.sha256(), array("I")
    with path.open("rb") as file:
        while block := file.read(chunk_bytes):
            whole.update(block)
            chunks.append(google_crc32c.value(block))
    return whole.hexdigest(), np.array(chunks, ">u4").tobytes().hex()


def write_seal(root: Path, parent: tuple[Path, Seal] | None = None) -> Seal:
    """Digest every file and write SEAL.json.

    Files that `parent` (another store and its seal) has with equal bytes become hard links to its own,
    where both are on one file system.
    """
    files, sizes, chunks = {}, {}, {}
    for name in store_files(root):
        path = root / name
        sizes[name] = path.stat().st_size
        if path.name == "zarr.json":
            files[name] = file_digest(path)
        else:
            chunk_bytes = read_meta(root, array_of(name)).chunk_bytes
            files[name], crcs = digest_file(path, chunk_bytes)
            chunks[name] = (chunk_bytes, crcs)
        if parent is not None and parent[1].files.get(name) == files[name]:
            _link(parent[0] / name, path)
    seal = Seal(VERSION, files, sizes, chunks)
    write_json(root / SEAL, seal_value(seal))
    return seal


def seal_value(seal: Seal) -> dict[str, Any]:
    """The JSON value of a seal, of the seal's own version."""
    value: dict[str, Any] = {"format": FORMAT, "version": seal.version, "files": seal.files}
    if seal.version > 1:
        value["sizes"] = seal.sizes
        value["chunks"] = {name: {"bytes": n, "crc32c": crcs} for name, (n, crcs) in seal.chunks.items()}
    return value


def _link(original: Path, copy: Path) -> None:
    other = copy.with_name(f"{copy.name}.link")
    try:
        os.link(original, other)
    except OSError:  # another file system, or one without hard links: the copy is as good
        return
    other.replace(copy)


def parse_seal(value: Any, where: Path) -> Seal:
    """The seal of a JSON value. FormatError, naming `where`, for other formats and for damage."""
    try:
        found, version = value["format"], value["version"]
        if found != FORMAT or type(version) is not int or version < OLDEST_VERSION:
            raise FormatError(f"{where}: found format {found!r} version {version!r}, expected {FORMAT!r}")
        if version > VERSION:
            raise FormatError(
                f"{where}: found format version {version}, this program reads versions {OLDEST_VERSION} to "
                f"{VERSION}; install a newer netgpt"
            )
        files, sizes = dict(value["files"]), dict(value.get("sizes", {}))
        chunks = {name: (c["bytes"], c["crc32c"]) for name, c in value.get("chunks", {}).items()}
        for name, digest in files.items():
            name.encode()  # a lone surrogate is no file name
            if not re.fullmatch("[0-9a-f]{64}", digest):
                raise ValueError(f"digest of {name!r}")
        if version > 1 and files.keys() != sizes.keys():
            raise ValueError("other files have a size than have a digest")
        if any(type(size) is not int or size < 0 for size in sizes.values()):
            raise ValueError("a size that is no whole number")
        for name, (chunk_bytes, crcs) in chunks.items():
            if type(chunk_bytes) is not int or chunk_bytes < 1 or type(crcs) is not str:
                raise ValueError(f"chunks of {name!r}")
            if name not in sizes or len(crcs) != 8 * -(-sizes[name] // chunk_bytes):
                raise ValueError(f"chunks of {name!r}")
        seal = Seal(version, files, sizes, chunks)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{where}: damaged ({error}); build the store again") from None
    return seal


def read_seal(root: Path) -> Seal:
    """The seal of a store. FormatError says why a directory is none."""
    if not root.is_dir():
        raise FormatError(f"{root}: no such store; make one with: netgpt build SOURCE --out {root}")
    if (root / PACK).exists():
        raise FormatError(f"{root}: a packed store; unpack it first: netgpt unpack {root} --out STORE")
    if not (root / SEAL).exists():
        raise FormatError(
            f"{root}: no {SEAL}, so not a finished store; run again: netgpt build SOURCE --out {root}"
        )
    try:
        value = read_json(inside(root, SEAL))
    except FormatError:
        raise
    except (OSError, ValueError) as error:
        raise FormatError(f"{root / SEAL}: damaged ({error}); build the store again") from error
    return parse_seal(value, root / SEAL)


def check_sizes(root: Path, seal: Seal) -> None:
    """Find truncated and missing files without reading them. Raises FormatError for the first."""
    for name, size in seal.sizes.items():
        num_bytes = inside(root, name).stat().st_size
        if num_bytes != size:
            raise FormatError(
                f"{root}: {array_of(name)}: file {name}: found {num_bytes} bytes, expected {size}; "
                "build the store again"
            )


def file_problems(root: Path, name: str, seal: Seal) -> list[str]:
    """Read one file of a store; one line that names its array where it is not as sealed."""
    found_in = array_of(name)
    try:
        path = inside(root, name)
    except FormatError as error:
        return [f"{found_in}: file {within(root, error)}"]
    size = path.stat().st_size
    if size != seal.sizes.get(name, size):
        return [f"{found_in}: file {name}: found {size} bytes, expected {seal.sizes[name]}"]
    if path.name == "zarr.json" and size > MAX_JSON_BYTES:
        return [f"{found_in}: file {name} is damaged (no metadata is that long)"]
    chunk_bytes, expected = seal.chunks.get(name, (CHUNK_BYTES, ""))
    if chunk_bytes > MAX_CHUNK_BYTES:  # not one of ours: the digest of the whole has to do
        chunk_bytes, expected = CHUNK_BYTES, ""
    try:
        whole, crcs = digest_file(path, chunk_bytes)
    except OSError as error:
        return [f"{found_in}: file {name} cannot be read ({error.strerror})"]
    if whole == seal.files[name]:
        return []
    wrong = [i // 8 for i in range(0, len(expected), 8) if crcs[i : i + 8] != expected[i : i + 8]]
    if not wrong:
        return [f"{found_in}: file {name} is damaged (its digest differs)"]
    return [f"{found_in}: file {name} is damaged in {_ranges(wrong, chunk_bytes, size)}"]


def within(root: Path, error: FormatError) -> str:
    """The text of an error without the store's path, where a caller says that itself."""
    return str(error).removeprefix(f"{root}: ").removeprefix(f"{root.absolute()}: ")


def require_whole(root: Path, seal: Seal) -> None:
    """Read every file of a store. Raises FormatError for the first that is not as sealed."""
    for name in seal.files:
        require_file(root, name, seal)


def require_file(root: Path, name: str, seal: Seal) -> None:
    """Read one file of a store. Raises FormatError where it is not as sealed."""
    if problems := file_problems(root, name, seal):
        raise FormatError(f"{root}: {problems[0]}")


def _ranges(chunks: list[int], chunk_bytes: int, size: int) -> str:
    """Runs of chunk numbers as byte ranges: `bytes 0 to 1048576 and 2097152 to 3145728`, half open."""
    edges = np.flatnonzero(np.diff(chunks) > 1)
    firsts, lasts = np.r_[0, edges + 1], np.r_[edges, len(chunks) - 1]
    texts = [
        f"{chunks[a] * chunk_bytes} to {min(size, (chunks[b] + 1) * chunk_bytes)}"
        for a, b in zip(firsts[:_MAX_RANGES], lasts[:_MAX_RANGES], strict=True)
    ]
    more = f" and {len(firsts) - _MAX_RANGES} more" if len(firsts) > _MAX_RANGES else ""
    return f"bytes {' and '.join(texts)}{more}"


def write_attributes(root: Path, attributes: dict[str, Any]) -> None:
    """Put the store's attributes on the root group (Zarr made the groups with the arrays)."""
    group = zarr.open_group(str(root), mode="a")
    group.attrs.update({"format": FORMAT, "version": VERSION, **attributes})
