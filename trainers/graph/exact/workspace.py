"""What exact inference works with: memory within a budget, blocks, and states that need no heads.

Shape suffixes: N nodes of a type, B nodes of a block, D hidden width.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from netgpt.trainers.graph.model import GraphModel
from netgpt.trainers.graph.tables import FeatureTables, WholeContents
from netgpt.trainers.progress import OnProgress

DEFAULT_MEMORY = 8 * 10**9
MAX_BLOCK_ROWS, MIN_BLOCK_ROWS = 16_384, 256
BLOCK_COPIES = 32
"""How often a block is there at once at most: features, states, means, products; and room for more."""


def to_input(x: np.ndarray) -> Tensor:
    """A copy in float32 (of node numbers in int64): torch is faster at it than numpy, and does not take
    read-only maps."""
    copied = torch.from_numpy(np.array(x))
    return copied if copied.dtype == torch.int64 else copied.float()


@dataclass(frozen=True)
class States:
    """States of the nodes of a type that relations end in."""

    h: np.ndarray
    """[N, D] by node; or [rows, D] by distinct content."""
    row: np.ndarray | None
    """[N] int: each node's row, where they are by content."""

    def of(self, block: slice) -> Tensor:
        """Those of the nodes of a block: [B, D]."""
        return torch.from_numpy(self.h[block] if self.row is None else self.h[self.row[block]])


class Workspace:
    """memory_bytes bounds what is held at once, without Python, its packages and the mapped store: half
    of it is for arrays of states, the rest for tables of contents and blocks."""

    def __init__(
        self,
        model: GraphModel,
        tables: FeatureTables,
        scratch: Path,
        memory_bytes: int,
        progress: OnProgress | None,
    ) -> None:
        self.model, self.tables, self.graph = model, tables, tables.graph
        self.width = model.shape.hidden
        self.threads = torch.get_num_threads()
        self.memory_bytes = memory_bytes
        self.held_bytes = 0
        """In arrays of states that are in memory."""
        rows = memory_bytes // (BLOCK_COPIES * 4 * max(self.width, *model.shape.feature_dims.values()))
        self.block_rows = int(np.clip(rows, MIN_BLOCK_ROWS, MAX_BLOCK_ROWS))
        self.seconds: dict[str, float] = {}
        self.mean_seconds: dict[str, float] = {}
        self._progress, self._done = progress, 0
        self._scratch, self._files = scratch, 0
        self._lent: dict[str, np.ndarray] = {}

    def array(self, rows: int, width: int = 0) -> np.ndarray:
        """Zeros [rows, width], by default D: in memory while such arrays take half of the budget, else a
        mapped file."""
        width = width or self.width
        size = rows * width * 4
        if self.held_bytes + size <= self.memory_bytes // 2:
            zeros = np.zeros((rows, width), np.float32)
            self.held_bytes += size
            weakref.finalize(zeros, self._free, size).atexit = False
            return zeros
        if rows == 0:
            return np.zeros((0, width), np.float32)
        self._files += 1
        path = self._scratch / f"states-{self._files}.f32"
        with path.open("wb") as file:  # a full disk is an error here, and the end of the process in a map
            os.posix_fallocate(file.fileno(), 0, size)
        mapped = np.memmap(path, np.float32, "r+", shape=(rows, width))
        path.unlink()  # its blocks on the disk are freed with the map
        return mapped

    def _free(self, size: int) -> None:
        self.held_bytes -= size

    def buffer(self, name: str, rows: int) -> np.ndarray:
        """[rows, D] of any content, the same memory at each call: fresh pages cost more than sums."""
        if name not in self._lent or len(self._lent[name]) < rows:
            self._lent.pop(name, None)
            self._lent[name] = np.empty((rows, self.width), np.float32)
        return self._lent[name][:rows]

    def is_small(self, rows: int) -> bool:
        """Whether a table [rows, D] beside the states is within the budget."""
        return 8 * rows * self.width * 4 <= self.memory_bytes

    def blocks(self, num: int, rows: int | None = None) -> Iterator[slice]:
        size = rows or self.block_rows
        return (slice(a, min(a + size, num)) for a in range(0, num, size))

    def edge_blocks(self, degree: np.ndarray, max_edges: int, max_rows: int) -> Iterator[slice]:
        """Ranges of tails with so many edges at most (or one tail), and so many rows."""
        ends, first = np.cumsum(degree), 0
        while first < len(degree):
            before = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, before + max_edges, side="right"))
            last = min(max(last, first + 1), first + max_rows)
            yield slice(first, last)
            first = last

    def count(self, what: str, since: float, steps: int = 1) -> None:
        """Some steps are done: one for each relation of each layer, and one for the own part of each of its
        types."""
        self.seconds[what] = self.seconds.get(what, 0.0) + perf_counter() - since
        self._done += steps
        if self._progress:
            all_steps = sum(len(part.edge_types) + len(part.tail_types) for part in self.model.parts)
            self._progress(self._done, all_steps)

    def inputs(self, by_node: bool) -> dict[str, States]:
        """Projected features of the types that relations end in: by node, or by distinct content."""
        start = perf_counter()
        states = {}
        for name in (n for n in self.model.shape.node_types if n in self.model.tail_types):
            contents = WholeContents.of(self.tables, name)
            row = None if by_node else contents.row
            h = self.array(self.graph.num_nodes[name] if row is None else len(contents.x))
            for block in self.blocks(len(h)):
                x = contents.x[block if contents.row is None or row is not None else contents.row[block]]
                h[block] = self.model.inputs(name, to_input(x)).numpy()
            states[name] = States(h, row)
        self.seconds["input"] = perf_counter() - start
        return states

    def alone(self, node_type: str) -> np.ndarray:
        """Final states of a type that no relation ends in, from its features alone: [N, D]."""
        contents = WholeContents.of(self.tables, node_type)
        model, last = self.model, self.model.layer(self.model.shape.num_layers - 1)
        h = self.array(self.graph.num_nodes[node_type])
        for block in self.blocks(len(h)):
            x = to_input(contents.x[block if contents.row is None else contents.row[block]])
            before = model.source(node_type, x, model.shape.num_layers - 1)
            h[block] = last.alone(node_type, before).numpy()
        return h

    def source_table(
        self,
        contents: WholeContents,
        make: Callable[[Tensor], Tensor],
        into: np.ndarray,
    ) -> np.ndarray:
        """What `make` makes of the features of every distinct content of a type that no relation ends in,
        written into `into`: [rows, D]."""
        for block in self.blocks(len(into)):
            into[block] = make(to_input(contents.x[block])).numpy()
        return into
