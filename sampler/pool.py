"""Memory for batches that is used again: fresh pages would cost a fifth of the sampling."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

_ALIGN = 64
_MAX_FREE = 16
"""Buffers that are kept though nobody uses them."""


def room(num_bytes: int) -> int:
    """Bytes that an array takes in an arena."""
    return -(-num_bytes // _ALIGN) * _ALIGN


class Arena:
    """Arrays of any content, one behind the other in a piece of memory; elsewhere if it has no room."""

    def __init__(self, memory: np.ndarray | None) -> None:
        """memory [bytes] uint8."""
        self._memory = np.empty(0, np.uint8) if memory is None else memory
        self._used = 0

    def allocate(self, length: int, dtype: Any) -> np.ndarray:
        num_bytes = int(length) * np.dtype(dtype).itemsize
        first, self._used = self._used, self._used + room(num_bytes)
        if self._used > len(self._memory):
            return np.empty(length, dtype)
        return self._memory[first : first + num_bytes].view(dtype)


Lend = Callable[[int], Arena]
"""An arena for arrays of so many bytes in all (each rounded by `room`)."""


def lent(buffer: Any, give_back: Callable[[], object]) -> np.ndarray:
    """A buffer as [bytes] uint8. `give_back` is called when no array over it is left."""
    # Views of views keep the first array of the chain: over a memoryview that is this one, over an
    # array it would be that array, and memory would come back that is still read
    whole = np.frombuffer(memoryview(buffer), np.uint8)
    assert whole[1:].base is whole or not len(whole)
    weakref.finalize(whole, give_back).atexit = False
    return whole


class MemoryPool:
    """Lends memory, and takes it back when the last array over it is gone. Threads may share one."""

    def __init__(self) -> None:
        self._free: deque[np.ndarray] = deque(maxlen=_MAX_FREE)

    def lend(self, num_bytes: int) -> Arena:
        buffer = None
        while self._free and buffer is None:
            try:
                buffer = self._free.pop()
            except IndexError:
                break
            if len(buffer) < num_bytes:  # batches have grown: it goes
                buffer = None
        if buffer is None:
            buffer = np.empty(num_bytes, np.uint8)
        free, taken = self._free, buffer
        return Arena(lent(taken, lambda: free.append(taken)))
