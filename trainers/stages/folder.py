"""A stage's folder: what it was made from, whether it is done, and its manifest.

A stage is done when its manifest is there: it is written last, by rename, and holds the digests of
what the stage read and of the files that it made. A folder of other inputs is emptied before the
stage starts, so a checkpoint in it is always one of the same inputs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypedDict, cast

from netgpt.graphstore.files import Json, file_digest, read_json, value_digest, write_json

MANIFEST, INPUTS = "manifest.json", "inputs.json"
VERSION = 1


class Cost(TypedDict, total=False):
    """What making a stage took."""

    seconds: float
    peak_bytes: int | None
    """Resident memory of the worker that took most."""
    device_peak_bytes: int


class Manifest(TypedDict):
    """What a finished stage leaves word of."""

    version: int
    inputs: Json
    outputs: dict[str, str]
    """Digest of each file that it made, by its path in the folder."""
    metrics: Json
    """The stage's own: a curve, a history, counts, an evaluation's metrics."""
    cost: Cost


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a finished stage, or None."""
    try:
        manifest = read_json(folder / MANIFEST)
    except (OSError, ValueError):
        return None
    whole = isinstance(manifest, dict) and manifest.get("version") == VERSION
    return cast(Manifest, manifest) if whole else None


def stage_digest(folder: Path) -> str:
    """Digest of what a finished stage made: for the inputs of the stages behind it."""
    manifest = read_manifest(folder)
    return value_digest(manifest["outputs"]) if manifest else ""


def is_done(folder: Path, inputs: Json) -> bool:
    """Whether the stage was finished from these inputs and its files are as it left them."""
    manifest = read_manifest(folder)
    return (
        manifest is not None
        and manifest["inputs"] == inputs
        and all(
            (folder / name).exists() and file_digest(folder / name) == digest
            for name, digest in manifest["outputs"].items()
        )
    )


def prepare(folder: Path, inputs: Json, *, resumes: bool) -> bool:
    """Make the folder ready; True where work of the same inputs is in it, to go on with.

    `resumes`: whether the stage has checkpoints; without them it starts in an empty folder.
    """
    try:
        same = resumes and read_json(folder / INPUTS) == inputs and not (folder / MANIFEST).exists()
    except (OSError, ValueError):
        same = False
    if same:
        for left in folder.glob(".*.tmp"):  # of a writer that was killed
            left.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / INPUTS, inputs)
    return same


def finish(folder: Path, inputs: Json, outputs: list[str], metrics: Json, cost: Cost | None = None) -> None:
    """Write the manifest: from here on the stage is done. `outputs` are files or folders in it.

    cost is no part of what the stage made.
    """
    files = [
        p
        for name in outputs
        for p in ([folder / name] if (folder / name).is_file() else _below(folder / name))
    ]
    made: Manifest = {
        "version": VERSION,
        "inputs": inputs,
        "outputs": {p.relative_to(folder).as_posix(): file_digest(p) for p in files},
        "metrics": metrics,
        "cost": cost or {},
    }
    write_json(folder / MANIFEST, made)


def _below(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())
