"""Exact means over all heads of a relation, for every tail, with float64 sums.

Rows that start at one place of `indices` share a running sum: a walk over a group's list yields the
mean of each of its prefixes, so a prefix relation costs O(members), not O(edges). Rows of a csr
start each at a place of their own, and the same walk is their plain sum.

Legend: N heads, T tails, M length of `indices`, D width.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from graphstore import Relation


@njit(cache=True, nogil=True)
def _walk(h, indices, begin, end, rank, order, out):  # type: ignore[no-untyped-def]
    width = h.shape[1]
    total = np.zeros(width, np.float64)
    at, group = np.int64(0), np.int64(-1)
    for i in range(len(order)):
        v = order[i]
        length = end[v] - begin[v]
        if length == 0:
            out[v, :] = 0
            continue
        if begin[v] != group:
            group = begin[v]
            at = group
            total[:] = 0
        while at < end[v]:
            u = indices[at]
            for d in range(width):
                total[d] += h[u, d]
            at += 1
        if len(rank) and rank[v] < length:
            own = indices[begin[v] + rank[v]]
            if length == 1:
                out[v, :] = 0
                continue
            for d in range(width):
                out[v, d] = (total[d] - h[own, d]) / (length - 1)
        else:
            for d in range(width):
                out[v, d] = total[d] / length


def exact_mean(relation: Relation, h: np.ndarray, out: np.ndarray) -> None:
    """Mean of `h` [N, D] float32 over each tail's heads, into `out` [T, D]; zero where it has none."""
    begin, end = np.asarray(relation.begin), np.asarray(relation.end)
    rank = np.empty(0, np.int32) if relation.rank is None else relation.rank
    _walk(h, relation.indices, begin, end, rank, np.lexsort((end, begin)), out)
