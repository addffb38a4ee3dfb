"""Checkpoints of a DeepSpeed engine, whole or not there, loadable at any world size, without pickle.

DeepSpeed's own are pickled shards of one world size. Here each trained parameter's float32 value and
optimiser state are put together from the ranks' parts, and each rank writes its share of the parameters
as safetensors into a folder of one step. Rank 0 flushes it, names the digests, and renames it; loading
takes the newest step whose digests hold, and each rank takes its part of every tensor.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path
from typing import Any

import torch
from torch import nn

from netgpt.graphstore.files import file_digest, fsync_dir, read_json, write_json
from netgpt.trainers import checkpoint, distributed
from netgpt.trainers.errors import TrainerError

DIGESTS, STATE = "digests.json", "state.safetensors"
KEEP = 2
MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a parameter, besides the number of its steps."""


def trained_values(trained: dict[str, nn.Parameter]) -> dict[str, torch.Tensor]:
    """The float32 values that the optimiser holds, whole, on rank 0's CPU; every rank calls this."""
    from deepspeed.utils import safe_get_full_fp32_param  # imports slowly and logs: only where it is used

    found = {}
    for name, p in trained.items():
        value = safe_get_full_fp32_param(p)
        if distributed.rank() == 0:  # the others have a part of it to give, and no use for the whole
            found[name] = value.cpu()
    return found


def save(
    folder: Path,
    step: int,
    trained: dict[str, nn.Parameter],
    tensors: dict[str, torch.Tensor],
    meta: dict[str, Any],
) -> None:
    """Write the checkpoint of `step` under `folder`; every rank calls this.

    trained: parameters of an engine that has made at least one step, by name. `tensors` and `meta` are
    rank 0's.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    rank, world_size = distributed.rank(), distributed.world_size()
    temporary = folder / distributed.broadcast_object(f".{os.getpid()}-{uuid.uuid4().hex[:8]}.tmp")
    temporary.mkdir(parents=True, exist_ok=True)
    mine: dict[str, torch.Tensor] = {}
    for i, (name, p) in enumerate(sorted(trained.items())):
        # Every rank has a part of every tensor, so all take part, and one keeps it
        parts = {"value": safe_get_full_fp32_param(p)}
        parts |= {key: safe_get_full_optimizer_state(p, key) for key in MOMENTS}
        if i % world_size == rank:
            mine |= {f"{key}.{name}": value.cpu() for key, value in parts.items()}
    checkpoint.save(temporary / f"part-{rank:05d}.safetensors", mine, {})
    distributed.barrier()
    if rank == 0:
        checkpoint.save(temporary / STATE, tensors, {"step": step, **meta})
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
            if sound and checkpoint.load(path / STATE)[1]["key"] == key:
                return path
        except (OSError, ValueError):
            continue
    return None


def load(
    folder: Path, engine: Any, trained: dict[str, nn.Parameter], key: str
) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """Put the newest sound checkpoint into the engine; its tensors and meta, or None where there is none.

    trained: the engine's trained parameters, by name; TrainerError unless the checkpoint has exactly these.
    """
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    if distributed.rank() == 0:
        for left in folder.glob(".*.tmp"):  # of a writer that was killed
            shutil.rmtree(left, ignore_errors=True)
    path = distributed.broadcast_object(find(folder, key) if distributed.rank() == 0 else None)
    if path is None:
        return None
    tensors, meta = checkpoint.load(path / STATE)
    found = set(meta["trained"])
    if found != set(trained):
        raise TrainerError(
            f"{path}: found trained parameters of another model ({sorted(found ^ set(trained))[:3]}…); "
            "remove the checkpoint to start anew"
        )
    _make_state(engine, meta["step"])
    for part in sorted(path.glob("part-*.safetensors")):
        for name, value in checkpoint.load(part)[0].items():
            kind, parameter = name.split(".", 1)
            p = trained[parameter]
            if value.shape != p.shape:
                raise TrainerError(
                    f"{part}: found {parameter} of shape {tuple(value.shape)}, expected {tuple(p.shape)}; "
                    "remove the checkpoint to start anew"
                )
            if kind == "value":
                safe_set_full_fp32_param(p, value)
                p.data.copy_(value)
            else:
                safe_set_full_optimizer_state(p, value, kind)
    distributed.barrier()
    return tensors, meta


def _make_state(engine: Any, updates: int) -> None:
    """Give a fresh ZeRO-2 optimiser the state that it else makes in its first step."""
    zero = engine.optimizer
    for flat in zero.single_partition_of_fp32_groups:
        state = {key: torch.zeros_like(flat) for key in MOMENTS}
        zero.optimizer.state[flat] = {"step": torch.tensor(float(updates)), **state}
    zero._lazy_init_hp_params_optimizer_state()  # parameters find their parts of it
