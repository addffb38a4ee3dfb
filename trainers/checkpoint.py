"""Checkpoints of a training: whole or not there, loadable at any world size, without pickle.

Each is a folder of one step. Every rank writes a share of the trained parameters, float32 values and both of
Adam's moments, as safetensors; rank 0 adds the best weights so far and the loop's state, flushes the folder,
names the digests, and renames it. Loading takes the newest step whose digests hold.

    step-00000200/part-00000.safetensors    value.NAME, exp_avg.NAME, exp_avg_sq.NAME
                  state.safetensors         best weights; in its header the loop's state and the inputs' key
                  digests.json
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from netgpt.graphstore.files import file_digest, fsync_dir, read_json, write_json
from netgpt.trainers import distributed, weights
from netgpt.trainers.errors import TrainerError

DIGESTS, STATE = "digests.json", "state.safetensors"
KEEP = 2
VALUE, MOMENTS = "value", ("exp_avg", "exp_avg_sq")
"""What is kept of a parameter: its value, and AdamW's state besides the number of its steps."""


@dataclass(frozen=True)
class Checkpoint:
    """A sound checkpoint: its step, the best weights at that time, and what the loop kept."""

    path: Path
    step: int
    best: dict[str, torch.Tensor]
    meta: dict[str, Any]

    def tensors(self, shapes: dict[str, torch.Size]) -> Iterator[tuple[str, str, torch.Tensor]]:
        """(kind, parameter, tensor) of every part. TrainerError unless the parameters are `shapes`' own."""
        names = set(self.meta["trained"])
        if names != set(shapes):
            raise TrainerError(
                f"{self.path}: found trained parameters of another model "
                f"({sorted(names ^ set(shapes))[:3]}…); remove the checkpoint to start anew"
            )
        for part in sorted(self.path.glob("part-*.safetensors")):
            for name, tensor in weights.load(part)[0].items():
                kind, parameter = name.split(".", 1)
                if tensor.shape != shapes[parameter]:
                    raise TrainerError(
                        f"{part}: found {parameter} of shape {tuple(tensor.shape)}, expected "
                        f"{tuple(shapes[parameter])}; remove the checkpoint to start anew"
                    )
                yield kind, parameter, tensor


def save(
    folder: Path,
    step: int,
    share: dict[str, torch.Tensor],
    best: dict[str, torch.Tensor],
    meta: dict[str, Any],
) -> None:
    """Write the checkpoint of `step` under `folder`; every rank calls this.

    share: this rank's part of the trained parameters' tensors, named KIND.PARAMETER. `best` and `meta` are
    rank 0's; meta has the inputs' `key` and the names that are `trained`.
    """
    rank = distributed.rank()
    temporary = folder / distributed.broadcast_object(f".{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    weights.save(temporary / f"part-{rank:05d}.safetensors", share, {})
    distributed.barrier()
    if rank == 0:
        weights.save(temporary / STATE, best, {"step": step, **meta})
        files = sorted(p for p in temporary.iterdir() if p.is_file())
        write_json(temporary / DIGESTS, {p.name: file_digest(p) for p in files})
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
            if sound and weights.load(path / STATE)[1]["key"] == key:
                return path
        except (OSError, ValueError):
            continue
    return None


def open_newest(folder: Path, key: str) -> Checkpoint | None:
    """The newest sound checkpoint of these inputs; every rank gets the same one. None where there is none."""
    if distributed.rank() == 0:
        for left in folder.glob(".*.tmp"):  # of a writer that was killed
            shutil.rmtree(left, ignore_errors=True)
    path = distributed.broadcast_object(find(folder, key) if distributed.rank() == 0 else None)
    if path is None:
        return None
    best, meta = weights.load(path / STATE)
    return Checkpoint(path, int(meta["step"]), best, meta)
