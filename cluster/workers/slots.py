"""Memory that two processes of one node share, for batches that one writes and the other reads.

Ray moves a batch of 13 MB in 6 to 10 ms, up to a third of the time in which it is sampled: it goes
through the object store, whose pages are new each time. Here the reader keeps pieces of memory
(slots), lends one with each request, and the writer samples right into it. The reader owns them, as
open files without a name: whoever dies, nothing is left behind, and a request that is repeated
writes the same bytes again. A process that is forked off the reader shares the slots: what it
holds of a batch is written again when the reader's own arrays are gone.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections import deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from netgpt.sampler import FlatBatch
from netgpt.sampler.pool import Arena, lent

_ARRAYS = ("nodes", "degrees", "heads", "trees", "edge_ids")


@dataclass(frozen=True)
class SlotName:
    """What another process of the node needs to open a slot."""

    pid: int
    fd: int
    num_bytes: int
    device: int
    inode: int
    """The file that is meant: the descriptor may be another file's by now, or in another container."""


class Slot:
    """A piece of shared memory, of the process that made it."""

    num_made = 0

    def __init__(self, num_bytes: int) -> None:
        """Raises OSError where there is no memory, or no descriptor left."""
        Slot.num_made += 1
        fd = os.memfd_create("netgpt-batch", os.MFD_CLOEXEC)
        weakref.finalize(self, os.close, fd)
        os.ftruncate(fd, num_bytes)
        status = os.fstat(fd)
        self.name = SlotName(os.getpid(), fd, num_bytes, status.st_dev, status.st_ino)
        self.memory = mmap.mmap(fd, num_bytes)


class SlotPool:
    """The reader's slots: as many as batches are under way or alive, of the size that is now needed."""

    def __init__(self) -> None:
        self.num_bytes = 0
        self._free: deque[Slot] = deque()

    def take(self) -> Slot | None:
        """A slot that nobody reads or writes; None as long as no size is known, or without such memory."""
        if not self.num_bytes or not hasattr(os, "memfd_create"):
            return None
        while self._free:
            slot = self._free.pop()  # the last one used: its pages are in the caches
            if slot.name.num_bytes >= self.num_bytes:
                return slot
        try:
            return Slot(self.num_bytes)
        except OSError:  # a caller that keeps very many batches: they go without
            return None

    def give_back(self, slot: Slot | None) -> None:
        if slot is not None:
            self._free.append(slot)

    def read(self, slot: Slot, written: Written) -> FlatBatch:
        """The batch that was written, without a copy. The slot is free again when its arrays are gone."""
        whole = lent(slot.memory, lambda: self._free.append(slot))
        arrays = {
            name: None
            if place is None
            else whole[place.offset : place.offset + place.num_bytes].view(place.dtype)
            for name, place in written.places.items()
        }
        return FlatBatch(written.epoch, written.num_nodes_TH, written.num_edges_HR, **arrays)  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Place:
    offset: int
    num_bytes: int
    dtype: str


@dataclass(frozen=True)
class Written:
    """A batch whose arrays are in a slot."""

    epoch: int
    num_nodes_TH: np.ndarray
    num_edges_HR: np.ndarray
    places: dict[str, _Place | None]


@dataclass(frozen=True)
class Unwritten:
    """A batch that no slot had room for, and how large one must be."""

    batch: FlatBatch
    num_bytes: int

    def writable(self) -> FlatBatch:
        """The batch in memory of its own, as those of slots are: what Ray gives can only be read."""
        copies: dict[str, Any] = {name: getattr(self.batch, name) for name in _ARRAYS}
        copies = {name: None if a is None else a.copy() for name, a in copies.items()}
        return replace(self.batch, **copies)


class SlotWriter:
    """The writer's side: lends a slot's memory to a sampler. One batch at a time."""

    def __init__(self) -> None:
        self._open: dict[SlotName, mmap.mmap] = {}
        self._memory: np.ndarray | None = None
        self._wanted = 0

    def start(self, name: SlotName | None) -> None:
        """Lend this slot; nothing where it cannot be opened."""
        self._memory, self._wanted = None, 0
        if name is not None:
            try:
                self._memory = np.frombuffer(self._map(name), np.uint8)
            except OSError:  # another container, or a reader that is gone
                return

    def _map(self, name: SlotName) -> mmap.mmap:
        if name not in self._open:
            for old in [n for n in self._open if n.num_bytes < name.num_bytes]:
                del self._open[old]  # the reader lends no smaller ones any more
            place = f"/proc/{name.pid}/fd/{name.fd}"
            status = os.stat(place)  # before it is opened for writing
            if (status.st_dev, status.st_ino, status.st_size) != (name.device, name.inode, name.num_bytes):
                raise FileNotFoundError(place)
            fd = os.open(place, os.O_RDWR)
            try:
                self._open[name] = mmap.mmap(fd, name.num_bytes)
            finally:
                os.close(fd)
        return self._open[name]

    def lend(self, num_bytes: int) -> Arena:
        self._wanted = num_bytes
        return Arena(self._memory)

    def finish(self, batch: FlatBatch) -> Written | Unwritten:
        """What to tell the reader: where the arrays are, or the batch itself."""
        if self._memory is None or self._wanted > len(self._memory):
            return Unwritten(batch, self._wanted)
        base = self._memory.ctypes.data
        places: dict[str, _Place | None] = {}
        for name in _ARRAYS:
            array: np.ndarray | None = getattr(batch, name)
            if array is None:
                places[name] = None
            else:
                places[name] = _Place(array.ctypes.data - base, array.nbytes, array.dtype.str)
        return Written(batch.epoch, batch.num_nodes_TH, batch.num_edges_HR, places)
