"""Checkpoints of a DeepSpeed engine, whole or not there.

DeepSpeed writes each rank's shard in place. Here all ranks write into a folder of their own, rank 0
flushes it, names the digests, and renames it; loading takes the newest step whose digests hold.
What training needs besides (position, best weights) is in the folder too, as safetensors.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch

from graphstore.files import file_digest, fsync_dir, read_json, write_json
from trainers import checkpoint, distributed
from trainers.errors import TrainerError

DIGESTS, STATE, TAG = "digests.json", "state.safetensors", "engine"
KEEP = 2


def save(
    folder: Path, step: int, engine: Any, tensors: dict[str, torch.Tensor], meta: dict[str, Any]
) -> None:
    """Write the checkpoint of `step` under `folder`; every rank calls this.

    `tensors` and `meta` are rank 0's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = distributed.broadcast_object(f".{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    temporary = folder / name
    engine.save_checkpoint(str(temporary), tag=TAG, save_latest=False, exclude_frozen_parameters=True)
    distributed.barrier()
    if distributed.rank() == 0:
        checkpoint.save(temporary / STATE, tensors, {"step": step, **meta})
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        for path in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
        write_json(temporary / DIGESTS, {p.relative_to(temporary).as_posix(): file_digest(p) for p in files})
        target = folder / f"step-{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        temporary.rename(target)
        fsync_dir(folder)
        _clean(folder, target)
    distributed.barrier()


def _clean(folder: Path, newest: Path) -> None:
    """Keep the last few up to the newest one."""
    steps = sorted(p for p in folder.glob("step-*") if p.name <= newest.name)
    for path in steps[:-KEEP]:
        shutil.rmtree(path, ignore_errors=True)


def find(folder: Path, key: str = "") -> Path | None:
    """The newest checkpoint of the inputs `key` whose digests hold, or None."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        try:
            digests = read_json(path / DIGESTS)
            sound = digests and all(file_digest(path / name) == d for name, d in digests.items())
            if sound and checkpoint.load(path / STATE)[1]["key"] == key:
                return path
        except (OSError, ValueError):
            continue
    return None


def load(
    folder: Path, engine: Any, trained: set[str], key: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Put the newest sound checkpoint into the engine; its tensors and meta, or None where there is none.

    `trained`: names of the trained parameters; TrainerError unless the checkpoint has exactly these
    (DeepSpeed would not say, since frozen ones are left out).
    """
    if distributed.rank() == 0:
        for left in folder.glob(".*.tmp"):  # of a writer that was killed
            shutil.rmtree(left, ignore_errors=True)
    path = distributed.broadcast_object(find(folder, key) if distributed.rank() == 0 else None)
    if path is None:
        return None
    tensors, meta = checkpoint.load(path / STATE)
    found = set(meta["trained"])
    if found != trained:
        raise TrainerError(
            f"{path}: found trained parameters of another model ({sorted(found ^ trained)[:3]}…); "
            "remove the checkpoint to start anew"
        )
    engine.load_checkpoint(str(path), tag=TAG, load_module_strict=False)
    distributed.barrier()
    return tensors, meta
