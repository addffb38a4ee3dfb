"""The few collectives that trainers need; without a process group they are the identity."""

from __future__ import annotations

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


def device() -> torch.device:
    """This rank's device: the current CUDA device where there is one, else the CPU."""
    return (
        torch.device("cuda", torch.cuda.current_device())
        if torch.cuda.is_available()
        else torch.device("cpu")
    )


def broadcast_object(value: Any) -> Any:
    """Rank 0's value on every rank; a small JSON-like value."""
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
