"""Exact means over all heads of a relation, for every tail, with float64 sums, and their gradient.

Rows that start at one place of `indices` share a running sum: a walk over a group's list yields the
mean of each of its prefixes, so a prefix relation costs O(members), not O(edges). Rows of a csr
start each at a place of their own, and the same walk is their plain sum.

The gradient of a running sum is a running sum from the other end: a head has a share in every row
that ends behind it.

Legend: N heads, T tails, M length of `indices`, D width, B rows of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from netgpt.graphstore import Relation

MIN_COLUMNS = 16
"""Columns of a thread's share at least: a cache line of float32."""
MIN_WORK = 1 << 22
"""Additions of a thread's share of a block at least: some milliseconds."""


@njit(cache=True, nogil=True)
def _walk(h, content, indices, begin, end, rank, order, total, cursor, columns, out):  # type: ignore[no-untyped-def]
    """Means of the rows `order` [B] into out [B, D], for a range of columns.

    total [columns] float64 and cursor [2] (place in indices, start of the group) carry the running
    sum from block to block.
    """
    # Loops from zero over slices, and no division in them: so that they become vector instructions
    first, last = columns
    width = last - first
    at, group = cursor[0], cursor[1]
    for i in range(len(order)):
        v = order[i]
        mean = out[i, first:last]
        length = end[v] - begin[v]
        if length == 0:
            mean[:] = 0
            continue
        if begin[v] != group:
            group = begin[v]
            at = group
            total[:] = 0
        while at < end[v]:
            u = indices[at]
            head = h[content[u] if len(content) else u, first:last]
            for d in range(width):
                total[d] += head[d]
            at += 1
        if len(rank) and rank[v] < length:
            if length == 1:
                mean[:] = 0
                continue
            u = indices[begin[v] + rank[v]]
            own = h[content[u] if len(content) else u, first:last]
            share = 1.0 / (length - 1)
            for d in range(width):
                mean[d] = (total[d] - own[d]) * share
        else:
            share = 1.0 / length
            for d in range(width):
                mean[d] = total[d] * share
    cursor[0], cursor[1] = at, group


@njit(cache=True, nogil=True)
def _walk_back(g, content, indices, begin, end, rank, order, columns, grad):  # type: ignore[no-untyped-def]
    """Gradient of the means: g [T, D] → added to grad [N, D] float64, for a range of columns.

    `order` is that of the walk, and this one runs from its end: within a group from the longest row.
    """
    first, last = columns
    width = last - first
    total = np.zeros(width, np.float64)
    i = len(order) - 1
    while i >= 0:
        group = begin[order[i]]
        at = end[order[i]]
        total[:] = 0
        while i >= 0 and begin[order[i]] == group:
            v = order[i]
            while at > end[v]:
                at -= 1
                u = indices[at]
                head = grad[content[u] if len(content) else u, first:last]
                for d in range(width):
                    head[d] += total[d]
            length = end[v] - begin[v]
            own = len(rank) > 0 and rank[v] < length
            degree = length - own
            if degree > 0:
                share = 1.0 / degree
                mean = g[v, first:last]
                for d in range(width):
                    total[d] += mean[d] * share
                if own:
                    u = indices[begin[v] + rank[v]]
                    head = grad[content[u] if len(content) else u, first:last]
                    for d in range(width):
                        head[d] -= mean[d] * share
            i -= 1
        while at > group:
            at -= 1
            u = indices[at]
            head = grad[content[u] if len(content) else u, first:last]
            for d in range(width):
                head[d] += total[d]


class _Columns:
    """Ranges of columns, a thread each: sums do not depend on their number. Use in a with statement."""

    def __init__(self, width: int, threads: int) -> None:
        parts = max(1, min(threads, width // MIN_COLUMNS))
        self.ranges = [(width * i // parts, width * (i + 1) // parts) for i in range(parts)]
        self._pool = ThreadPoolExecutor(parts) if parts > 1 else None

    def __enter__(self) -> _Columns:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.shutdown()

    def each(self, work: Callable[[int, tuple[int, int]], None]) -> None:
        """work(part, its range), all at once."""
        if self._pool is None:
            work(0, self.ranges[0])
        else:
            list(self._pool.map(work, range(len(self.ranges)), self.ranges))


def walk_order(relation: Relation) -> np.ndarray:
    """Tails so that rows of one group follow each other, the longest last: [T]."""
    if relation.rank is None:  # rows of a csr lie behind each other already
        return np.arange(relation.num_dst)
    return np.lexsort((np.asarray(relation.end), np.asarray(relation.begin)))


class MeanWalk:
    """The rows of one relation in the order of the walk, and their means.

    content [N] int, if given: the row of `h` that holds the state of each head; by default its number.
    order: of `walk_order`, where it is known.
    """

    def __init__(
        self,
        relation: Relation,
        content: np.ndarray | None = None,
        threads: int = 1,
        order: np.ndarray | None = None,
    ) -> None:
        self.begin, self.end = np.asarray(relation.begin), np.asarray(relation.end)
        self.rank = np.empty(0, np.int32) if relation.rank is None else np.asarray(relation.rank)
        self.indices = np.asarray(relation.indices)
        self.content = np.empty(0, np.int32) if content is None else content
        self.order = walk_order(relation) if order is None else order
        self.threads = threads

    @property
    def num_tails(self) -> int:
        return len(self.begin)

    def blocks(
        self, h: np.ndarray, block_rows: int, out: np.ndarray | None = None
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Tails [B] and the means of their heads' rows of `h`: [B, D], zero where there are none.

        The array of means is used again for the next block; out [block_rows, D] can be lent for it.
        """
        width = h.shape[1]
        if out is None:
            out = np.empty((min(block_rows, len(self.order)), width), h.dtype)
        rows = (self.content, self.indices, self.begin, self.end, self.rank)
        # A block of little work is done before other threads have come
        work_of_block = len(self.indices) * width * block_rows // max(1, self.num_tails)
        with _Columns(width, min(self.threads, work_of_block // MIN_WORK)) as columns:
            states = [(np.zeros(b - a), np.array([0, -1], np.int64)) for a, b in columns.ranges]
            for first in range(0, len(self.order), block_rows):
                tails = self.order[first : first + block_rows]

                def work(part: int, of: tuple[int, int], tails: np.ndarray = tails) -> None:
                    _walk(h, *rows, tails, *states[part], of, out)

                columns.each(work)
                yield tails, out[: len(tails)]

    def mean(self, h: np.ndarray) -> np.ndarray:
        """Means of all tails: [N, D] → [T, D]."""
        means_of_all = np.empty((self.num_tails, h.shape[1]), h.dtype)
        for tails, means in self.blocks(h, 1 << 14):
            means_of_all[tails] = means
        return means_of_all

    def gradient(self, g: np.ndarray, num_heads: int) -> np.ndarray:
        """A loss's gradient by `h`, from that by the means: [T, D] → [num_heads, D], summed in float64."""
        grad = np.zeros((num_heads, g.shape[1]), np.float64)
        rows = (self.content, self.indices, self.begin, self.end, self.rank)
        with _Columns(g.shape[1], self.threads) as columns:
            columns.each(lambda _, of: _walk_back(g, *rows, self.order, of, grad))
        return grad.astype(g.dtype)


def exact_mean(relation: Relation, h: np.ndarray) -> np.ndarray:
    """Mean of `h` [N, D] over each tail's heads: [T, D]; zero where it has none."""
    return MeanWalk(relation).mean(h)
