"""Memory that is lent again: fresh pages cost more than what is written into them."""

from __future__ import annotations

import weakref

import numpy as np
import torch
from torch import Tensor


class Lender:
    """Lends one block of memory at a time; others that are wanted meanwhile are fresh."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def empty(self, rows: int, width: int, dtype: torch.dtype) -> Tensor:
        """[rows, width] of any content, on the CPU. It comes back when nothing refers to it any more."""
        num_bytes = rows * width * dtype.itemsize
        block = self._free.pop() if self._free else torch.empty(0, dtype=torch.uint8)
        if len(block) < num_bytes:
            block = torch.empty(num_bytes + num_bytes // 8, dtype=torch.uint8)
        made: np.ndarray = block[:num_bytes].view(dtype).view(rows, width).numpy()
        weakref.finalize(made, self._back, block).atexit = False
        return torch.from_numpy(made)

    def _back(self, block: Tensor) -> None:
        if not self._free:
            self._free.append(block)


_lender = Lender()


def empty(rows: int, width: int, like: Tensor) -> Tensor:
    """[rows, width] of any content, of another's dtype and device; on the CPU lent by one lender."""
    if like.device.type == "cpu":
        return _lender.empty(rows, width, like.dtype)
    return like.new_empty(rows, width)
