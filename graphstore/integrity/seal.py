"""The seal of a store: digests of all its files, written last, and their verification."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import zarr

from graphstore.arrays import map_array
from graphstore.errors import FormatError
from graphstore.files import file_digest, read_json, value_digest, write_json

FORMAT, VERSION = "netgpt-graph", 1
SEAL = "SEAL.json"
Progress = Callable[[int, int], None]
"""Called with (done, total); the unit is the caller's."""


def _files(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file() and p != root / SEAL)


def write_seal(root: Path) -> str:
    """Digest every file and write SEAL.json; returns the store's digest."""
    files = {name: file_digest(root / name) for name in _files(root)}
    write_json(root / SEAL, {"format": FORMAT, "version": VERSION, "files": files})
    return value_digest(files)


def read_seal(root: Path) -> dict[str, str]:
    """File → digest of a sealed store. FormatError says why a directory is none."""
    if not root.is_dir():
        raise FormatError(f"{root}: no such store; make one with: netgpt build SOURCE --out {root}")
    if not (root / SEAL).exists():
        raise FormatError(
            f"{root}: no {SEAL}, so not a finished store; run again: netgpt build SOURCE --out {root}"
        )
    try:
        seal = read_json(root / SEAL)
        found, files = (seal["format"], seal["version"]), dict(seal["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{root / SEAL}: damaged ({error}); build the store again") from error
    if found != (FORMAT, VERSION):
        raise FormatError(f"{root}: found format {found}, expected {(FORMAT, VERSION)}")
    return files


def write_attributes(root: Path, attributes: dict[str, Any]) -> None:
    """Put the store's attributes on the root group (Zarr made the groups with the arrays)."""
    group = zarr.open_group(str(root), mode="a")
    group.attrs.update({"format": FORMAT, "version": VERSION, **attributes})


def verify(root: Path | str, progress: Progress | None = None) -> list[str]:
    """Read every byte of a store and say what is wrong: one line each, none for a sound store.

    Checks the digests of all files, files that are missing or were added, and that rows of relations
    lie inside their `indices` and name nodes that exist.
    """
    root = Path(root)
    files = read_seal(root)
    problems = [f"{name}: not part of the sealed store" for name in _files(root) if name not in files]
    for i, (name, digest) in enumerate(files.items()):
        if not (root / name).exists():
            problems.append(f"{_array_of(name)}: file {name} is missing")
        elif file_digest(root / name) != digest:
            problems.append(f"{_array_of(name)}: file {name} is damaged (its digest differs)")
        if progress:
            progress(i + 1, len(files))
    return problems or _check_rows(root)


def _array_of(name: str) -> str:
    folder, _, rest = name.partition("/c/")
    return folder if rest else name.removesuffix("/zarr.json")


def _check_rows(root: Path) -> list[str]:
    problems = []
    num_nodes = read_json(root / "zarr.json")["attributes"]["num_nodes"]
    for folder in sorted(root.glob("edges/*/*/*")):
        if not folder.is_dir():
            continue
        name, src = folder.relative_to(root).as_posix(), folder.parts[-3]
        indices = map_array(folder / "indices")
        if (folder / "indptr").exists():
            indptr = map_array(folder / "indptr")
            begin, end = indptr[:-1], indptr[1:]
        else:
            begin, end = map_array(folder / "begin"), map_array(folder / "end")
        if len(begin) and ((begin < 0) | (end < begin) | (end > len(indices))).any():
            problems.append(f"{name}: rows outside indices")
        if len(indices) and not 0 <= indices.min() <= indices.max() < num_nodes[src]:
            problems.append(f"{name}/indices: node numbers outside 0 to {num_nodes[src] - 1}")
    return problems
