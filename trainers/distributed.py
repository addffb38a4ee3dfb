"""The few collectives that trainers need; without a process group they are the identity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist


def _on() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _on() else 0


def world_size() -> int:
    return dist.get_world_size() if _on() else 1


def barrier() -> None:
    if _on():
        dist.barrier()


def device(kind: str) -> torch.device:
    """This rank's device of a kind: `cpu`, or `cuda` for the current CUDA device."""
    return torch.device("cuda", torch.cuda.current_device()) if kind == "cuda" else torch.device("cpu")


def broadcast_object(value: Any) -> Any:
    """Rank 0's value on every rank: a small one, or arrays."""
    if not _on():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def sum_across_ranks(values: torch.Tensor) -> torch.Tensor:
    """Element-wise sum over ranks, on every rank. In place."""
    if _on():
        dist.all_reduce(values)
    return values


def max_across_ranks(values: torch.Tensor) -> torch.Tensor:
    """Element-wise maximum over ranks, on every rank. In place."""
    if _on():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def peak_resident_bytes() -> int:
    """Largest resident set of this process so far; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return 0


def sum_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Sum all gradients over ranks, in one flat buffer.

    Not DistributedDataParallel: it lays its buckets out anew after the first step, so with three ranks
    or more the order of sums, and with it the last bits, would differ in the step after a resume.
    """
    if not _on():
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))
