"""Rows by tail from edges in any order: a counting sort that needs no more memory than it is given.

Tails are counted in one pass. Then consecutive tails are cut into ranges whose rows fit the memory;
the edges of each range go to a file of their own, and each file is scattered to its rows in turn.
Where all rows fit at once, edges are scattered as they are read, with no file between. A row keeps
the order in which its edges were read.

Legend: N tails, E edges, n edges of a piece, K ranges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from netgpt.graphstore.arrays import ArrayWriter
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import RelationType
from netgpt.graphstore.spill import EdgeFile, may_stay_open

CHUNK_EDGES = 1 << 20
"""Edges that are read at once."""
_TAIL_BYTES = 40
"""Memory for each tail: its degree, the sums of degrees, and room for the range that holds it."""

_MANY_TAILS = 1 << 20
_TOGETHER = 256
"""Edges whose cursors are read together."""


@dataclass(frozen=True)
class Piece:
    """heads, tails [n] int64, none below 0; file and first say where the piece begins, for messages."""

    heads: np.ndarray
    tails: np.ndarray
    file: str
    first: int
    tail_file: str | None = None
    """Where tails have a file of their own."""
    values: tuple[np.ndarray, ...] = ()
    """What edges have of their own, [n] each: their times where they have some, then numbers."""


Pieces = Callable[[], Iterator[Piece]]
Part = tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]
"""Heads, tails and values of some edges."""


@dataclass(frozen=True)
class Values:
    """What edges of a relation have of their own."""

    is_timed: bool = False
    """Whether they have times: rows are in the order of (time, head)."""
    numbers: tuple[str, ...] = ()

    @staticmethod
    def of(relation: RelationType) -> Values:
        return Values(bool(relation.time), relation.numbers)

    @property
    def arrays(self) -> tuple[tuple[str, np.dtype[Any]], ...]:
        """Path beside `indices`, and type, in the order of a piece's values."""
        time = (("time", np.dtype(np.int64)),) if self.is_timed else ()
        return time + tuple((f"numbers/{name}", np.dtype(np.float32)) for name in self.numbers)


NO_VALUES = Values()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What becomes of equal edges and of edges from a node to itself: keep, drop or error."""

    duplicates: str = "keep"
    self_loops: str = "keep"
    same_type: bool = True
    """Heads and tails are nodes of one type: else no edge is a self-loop."""

    @property
    def keeps_loops(self) -> bool:
        return self.self_loops == "keep" or not self.same_type

    @property
    def keeps_duplicates(self) -> bool:
        return self.duplicates == "keep"


@dataclass(frozen=True)
class RowStats:
    num_edges: int
    num_duplicates: int
    num_self_loops: int


@njit(cache=True, nogil=True)
def _count(heads: np.ndarray, tails: np.ndarray, loops: bool, degree: np.ndarray) -> None:
    for i in range(len(tails)):
        if loops or heads[i] != tails[i]:
            degree[tails[i]] += 1


@njit(cache=True, nogil=True)
def _scatter(
    heads: np.ndarray,
    tails: np.ndarray,
    loops: bool,
    first: int,
    end: np.ndarray,
    cursor: np.ndarray,
    out: np.ndarray,
    places: np.ndarray,
) -> int:
    """Put each head at its row's cursor. −1 where a row is full: the files are not those counted.

    places: filled with where each edge was put, −1 for one that is left out; of length 0 where nobody asks.
    Rows lie anywhere, so the cursors of some edges are read before the first of them is put: reads that do
    not wait for one another are under way together, which makes two to three times the speed. Returns what
    came of those reads, of no meaning, so that no compiler leaves them out.
    """
    read, last_row = 0, max(0, len(end) - 1)
    for block in range(0, len(tails), _TOGETHER):
        last = min(block + _TOGETHER, len(tails))
        for i in range(block, last if len(end) else block):
            read |= cursor[np.uint64(min(max(tails[i] - first, 0), last_row))]
        for i in range(block, last):
            row = tails[i] - first
            if len(places):
                places[i] = -1
            if loops or heads[i] != tails[i]:
                if row < 0 or row >= len(end) or cursor[row] >= end[row]:
                    return -1
                out[cursor[row]] = heads[i]
                if len(places):
                    places[i] = cursor[row]
                cursor[row] += 1
    return read


@njit(cache=True, nogil=True)
def _time_order(indptr: np.ndarray, heads: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The order of the edges by row, time and head: [E]."""
    order = np.empty(len(heads), np.int64)
    for row in range(len(indptr) - 1):
        begin, end = indptr[row], indptr[row + 1]
        by_head = np.argsort(heads[begin:end], kind="mergesort")
        order[begin:end] = begin + by_head[np.argsort(time[begin:end][by_head], kind="mergesort")]
    return order


@njit(cache=True, nogil=True)
def _partition(
    heads: np.ndarray,
    tails: np.ndarray,
    range_of: np.ndarray,
    shift: int,
    first: np.ndarray,
    out_heads: np.ndarray,
    out_tails: np.ndarray,
) -> np.ndarray:
    """Order a piece by range, stably; returns where each range begins: [K + 1]."""
    num_ranges = len(first) - 1
    begin = np.zeros(num_ranges + 1, np.int64)
    where = np.empty(len(tails), np.int32)
    for i in range(len(tails)):
        k = range_of[tails[i] >> shift]
        while tails[i] >= first[k + 1]:
            k += 1
        where[i] = k
        begin[k + 1] += 1
    for k in range(num_ranges):
        begin[k + 1] += begin[k]
    cursor = begin[:-1].copy()
    for i in range(len(tails)):
        k = where[i]
        out_heads[cursor[k]] = heads[i]
        out_tails[cursor[k]] = tails[i]
        cursor[k] += 1
    return begin


@njit(cache=True, nogil=True)
def _drop_duplicates(indptr: np.ndarray, heads: np.ndarray) -> int:
    """Keep the first of equal heads of each row, in place; rows close up. Returns the number dropped.

    indptr [rows + 1] is rewritten; what is left is heads[: indptr[-1]].
    """
    kept = 0
    begin = indptr[0]
    for row in range(len(indptr) - 1):
        end = indptr[row + 1]
        order = np.argsort(heads[begin:end], kind="mergesort")
        drop = np.zeros(end - begin, np.bool_)
        for i in range(1, end - begin):
            drop[order[i]] = heads[begin + order[i]] == heads[begin + order[i - 1]]
        indptr[row] = kept
        for i in range(end - begin):
            if not drop[i]:
                heads[kept] = heads[begin + i]
                kept += 1
        begin = end
    dropped = indptr[-1] - kept
    indptr[-1] = kept
    return dropped


def _counted(pieces: Pieces, num_heads: int, num_tails: int, policy: Policy) -> tuple[np.ndarray, int]:
    """Edges of each tail [N] int64, and the number of self-loops; checks every node number."""
    try:
        degree = np.zeros(num_tails, np.int64)
    except (MemoryError, ValueError):  # numpy says the latter of what no address reaches
        raise StoreError(
            f"found {num_tails:,} tails, whose edges cannot be counted in the memory that there is "
            f"({8 * num_tails:,} bytes); node numbers are those of rows, from 0: number the nodes"
        ) from None
    num_loops = 0
    for piece in pieces():
        for values, num, end, file in (
            (piece.heads, num_heads, "head", piece.file),
            (piece.tails, num_tails, "tail", piece.tail_file or piece.file),
        ):
            if int(values.max()) >= num:
                row = int(np.argmax(values >= num))
                raise StoreError(
                    f"{file}: record {piece.first + row}: {end}: found node {values[row]}, "
                    f"expected a node number below {num}"
                )
        if not policy.keeps_loops:
            own = piece.heads == piece.tails
            num_loops += int(own.sum())
            if policy.self_loops == "error" and own.any():
                row = int(np.argmax(own))
                raise StoreError(
                    f"{piece.file}: record {piece.first + row}: found an edge from node {piece.tails[row]} "
                    "to itself, expected none (self_loops: error)"
                )
        _count(piece.heads, piece.tails, policy.keeps_loops, degree)
    return degree, num_loops


def _ranges(degree: np.ndarray, max_edges: int) -> np.ndarray:
    """First tail of each range and N: [K + 1] int64; each range has at most `max_edges` edges."""
    total = np.cumsum(degree)
    first = [0]
    while first[-1] < len(degree):
        before = int(total[first[-1] - 1]) if first[-1] else 0
        last = int(np.searchsorted(total, before + max_edges, side="right"))
        first.append(max(last, first[-1] + 1))
    return np.array(first, np.int64)


class _RowWriter:
    """Writes `indices` and `indptr` range by range."""

    def __init__(self, root: Path, folder: str, dtype: np.dtype[Any], policy: Policy, values: Values) -> None:
        self.root, self.folder, self.policy = root, folder, policy
        self.values = [ArrayWriter(root, f"{folder}/{name}", kind) for name, kind in values.arrays]
        self.indices = ArrayWriter(root, f"{folder}/indices", dtype)
        self.indptr = ArrayWriter(root, f"{folder}/indptr", np.int64)
        self.indptr.append(np.zeros(1, np.int64))
        self.num_duplicates = 0

    def append(
        self, first: int, indptr: np.ndarray, heads: np.ndarray, values: Sequence[np.ndarray] = ()
    ) -> None:
        """Rows of the tails from `first` on; indptr [rows + 1] counts from 0."""
        if not self.policy.keeps_duplicates:
            before = indptr.copy()
            dropped = _drop_duplicates(indptr, heads)
            if dropped and self.policy.duplicates == "error":
                row = int(np.argmax(np.diff(indptr) < np.diff(before)))
                raise StoreError(
                    f"{self.folder}: found two equal edges that end in node {first + row}, "
                    "expected none (duplicates: error)"
                )
            self.num_duplicates += dropped
        self.indptr.append(indptr[1:] + self.indices.num_rows)
        self.indices.append(heads[: indptr[-1]])
        for writer, numbers in zip(self.values, values, strict=True):
            writer.append(numbers)

    def close(self) -> None:
        for writer in (self.indices, self.indptr, *self.values):
            writer.close()


def write_rows(
    root: Path,
    folder: str,
    pieces: Pieces,
    *,
    num_heads: int,
    num_tails: int,
    policy: Policy,
    memory_bytes: int,
    values: Values = NO_VALUES,
    held_bytes: int = 0,
    progress: Callable[[int], None] | None = None,
) -> RowStats:
    """Write `folder/indices` (int32, or int64 for 2^31 heads and more) and `folder/indptr`; and beside them
    the values of edges, all of which are kept then.

    `pieces` is called twice and must give the same edges both times. `held_bytes` of the memory are taken by
    what the pieces are made with. `progress` is called with the
    number of edges of each piece once they are in their rows, so each is told of once. Raises StoreError for
    node numbers out of range, for what the policy forbids, and where one row needs more memory.
    """
    dtype = np.dtype(np.int32 if num_heads <= 2**31 else np.int64)
    least = held_bytes + _TAIL_BYTES * num_tails
    held = f", {held_bytes:,} bytes of keys" if held_bytes else ""
    if num_tails > _MANY_TAILS and memory_bytes < least:  # before they are counted
        raise StoreError(
            f"{folder}: memory: found {memory_bytes:,} bytes, expected at least "
            f"{least + _TAIL_BYTES:,} bytes ({num_tails:,} tails{held})"
        )
    degree, num_loops = _counted(pieces, num_heads, num_tails, policy)
    kinds = [kind for _, kind in values.arrays]
    assert policy.keeps_duplicates or not kinds
    # By edge: the head, and with duplicates to find a mark and its place in the sorted row; values, and what
    # it takes to put them in the order of times
    edge_bytes = dtype.itemsize + (0 if policy.keeps_duplicates else 1)
    edge_bytes += sum(kind.itemsize for kind in kinds) + (16 if values.is_timed else 0)
    longest = int(degree.max(initial=0))
    room = memory_bytes - least - (0 if policy.keeps_duplicates else 24 * longest)
    max_edges = room // edge_bytes
    if max_edges < longest or max_edges < 1:
        needed = memory_bytes - room + max(1, longest) * edge_bytes
        raise StoreError(
            f"{folder}: memory: found {memory_bytes:,} bytes, expected at least {needed:,} bytes "
            f"({num_tails:,} tails, the longest row has {longest:,} edges{held})"
        )
    first = _ranges(degree, max_edges)
    rows = _RowWriter(root, folder, dtype, policy, values)

    def scattered(k: int, part: Iterator[Part]) -> None:
        indptr = np.zeros(first[k + 1] - first[k] + 1, np.int64)
        np.cumsum(degree[first[k] : first[k + 1]], out=indptr[1:])
        heads, cursor = np.empty(indptr[-1], dtype), indptr[:-1].copy()
        own = [np.empty(indptr[-1], kind) for kind in kinds]
        fits = True
        for h, t, given in part:
            places = np.empty(len(h) if own else 0, np.int64)
            if fits:
                rest = (indptr[1:], cursor, heads, places)
                fits = _scatter(h, t, policy.keeps_loops, first[k], *rest) >= 0
            if own and fits:
                kept = places >= 0
                for array, numbers in zip(own, given, strict=True):
                    array[places[kept]] = numbers[kept]
            if progress:
                progress(len(h))
        if not fits or (cursor != indptr[1:]).any():
            raise StoreError(f"{folder}: the edge list changed while it was read; build again")
        if values.is_timed:
            order = _time_order(indptr, heads, own[0])
            heads = heads[order]
            for i in range(len(own)):  # one at a time: each is there twice for a moment
                own[i] = own[i][order]
        rows.append(int(first[k]), indptr, heads, own)

    if len(first) == 2:
        scattered(0, ((piece.heads, piece.tails, piece.values) for piece in pieces()))
    elif len(first) > 2:
        spill = _Spill(root / folder / "scratch", first, dtype, kinds)
        for piece in pieces():
            spill.append(piece)
        spill.close()
        for k in range(len(first) - 1):
            scattered(k, spill.read(k))
        spill.remove()
    rows.close()
    return RowStats(rows.indices.num_rows, rows.num_duplicates, num_loops)


class _Spill:
    """Edges on disk, by range of tails: 8 bytes an edge where heads fit int32 and so do ranges."""

    def __init__(
        self, folder: Path, first: np.ndarray, dtype: np.dtype[Any], kinds: Sequence[np.dtype[Any]]
    ) -> None:
        """kinds: of the values of edges."""
        self.folder, self.first = folder, first
        folder.mkdir(parents=True)
        widest = int(np.diff(first).max())
        self.dtypes = (dtype, np.dtype(np.int32 if widest < 2**31 else np.int64), *kinds)
        num = len(first) - 1
        open_ = may_stay_open(num * len(self.dtypes))
        self.files = [EdgeFile(folder / str(k), self.dtypes, stays_open=open_) for k in range(num)]
        # Range of every 2^shift-th tail: with the step to the next one or two, a search of no depth
        self.shift = max(0, int(first[-1]).bit_length() - 16)
        places = np.arange(0, int(first[-1]) + 1, 1 << self.shift)
        self.range_of = np.searchsorted(first, places, side="right") - 1
        self.heads, self.tails = (np.empty(0, np.int64) for _ in range(2))

    def append(self, piece: Piece) -> None:
        num = len(piece.heads)
        if piece.values:
            self._append_with_values(piece)
            return
        if len(self.heads) < num:
            self.heads, self.tails = np.empty(num, np.int64), np.empty(num, np.int64)
        begin = _partition(
            piece.heads, piece.tails, self.range_of, self.shift, self.first, self.heads, self.tails
        )
        for k, file in enumerate(self.files):
            part = slice(begin[k], begin[k + 1])
            file.append(self.heads[part], self.tails[part] - self.first[k])

    def _append_with_values(self, piece: Piece) -> None:
        where = np.searchsorted(self.first, piece.tails, side="right") - 1
        order = np.argsort(where, kind="stable")
        begin = np.searchsorted(where[order], np.arange(len(self.first)))
        for k, file in enumerate(self.files):
            part = order[begin[k] : begin[k + 1]]
            arrays = (piece.heads, piece.tails - self.first[k], *piece.values)
            file.append(*(array[part] for array in arrays))

    def close(self) -> None:
        for file in self.files:
            file.close()

    def read(self, k: int) -> Iterator[Part]:
        for h, t, *values in self.files[k].read(CHUNK_EDGES):
            yield h, t.astype(np.int64) + self.first[k], tuple(values)
        self.files[k].remove()

    def remove(self) -> None:
        self.folder.rmdir()
