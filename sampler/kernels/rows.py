"""Rows of one relation: found, sampled without replacement, and relabelled.

A row is sampled in three passes over a block of rows, each a plain loop whose loads do not wait for
one another: choose positions in the rows (and ask for those cache lines), load the heads (and ask
for their stamps), relabel. The table of stamps says of each node where it is in the batch; what an
earlier batch left there has an older stamp, so nothing is ever cleared.

Legend: n tails (nodes whose rows are sampled), E sampled edges, k heads of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from netgpt.sampler.kernels.generator import MAX_DEGREE, draw, row_state
from netgpt.sampler.kernels.memory import prefetch

BLOCK = 1024
"""Edges that a pass goes over at least: enough loads in flight, few enough to stay in the cache."""
_AHEAD = 16
"""Tails ahead whose rows are asked for."""
_S32, _LOW = np.int64(32), np.int64(0xFFFFFFFF)


class Rows(NamedTuple):
    """Rows of some tails, int64 but degrees, [n] each."""

    tails: np.ndarray
    starts: np.ndarray
    """Where in `indices` a row begins."""
    lengths: np.ndarray
    """How long it is; of a row in order of time, as far as it is visible."""
    owns: np.ndarray
    """Place of the tail itself in its row; the row's end where it is not in it."""
    degrees: np.ndarray
    """int32: heads to sample."""
    limits: np.ndarray
    """Latest times of the heads; [0] where there is no limit."""


@njit(inline="always")
def _visible(indices, start, length, times, by_edge, limit):  # type: ignore[no-untyped-def]
    """How many edges of a row in time order are not later than the limit; −1 where a head is no node.

    by_edge: times are those of edges, and not of heads.
    """
    low, high = np.int64(0), np.int64(length)
    while low < high:
        middle = (low + high) >> 1
        u = start + middle if by_edge else np.int64(indices[start + middle])
        if u < 0 or u >= len(times):
            return np.int64(-1)
        if times[u] <= limit:
            low = middle + 1
        else:
            high = middle
    return low


@njit
def find_rows(  # type: ignore[no-untyped-def]
    indices, begin, end, rank, rows, times, is_sorted, by_edge, fanout, with_replacement
):
    """Fill `rows`, of which tails and limits are given.

    indices, begin, end, rank: the relation's arrays (rank of length 0 for csr). times: of all heads, or of
    the edges (by_edge), of length 0 where there is no limit; is_sorted: rows are in their order.

    Returns the sum of the degrees, the longest list of positions that a row needs, and the place of a
    tail whose row points outside (or −1).
    """
    total, longest, tails = np.int64(0), np.int64(0), rows.tails
    for i in range(len(tails)):
        if i + _AHEAD < len(tails):
            prefetch(begin, tails[i + _AHEAD])
            prefetch(end, tails[i + _AHEAD])
            if len(rank):
                prefetch(rank, tails[i + _AHEAD])
        v = tails[i]
        start, stop = begin[v], end[v]
        if start < 0 or stop < start or stop > len(indices) or stop - start >= MAX_DEGREE:
            return total, longest, np.int64(i)
        length = stop - start
        own = length
        if len(rank):
            own = min(np.int64(rank[v]), length)
            if own < 0:
                return total, longest, np.int64(i)
        if len(times) and is_sorted:
            length = _visible(indices, start, length, times, by_edge, rows.limits[i])
            if length < 0:
                return total, longest, np.int64(i)
            own = min(own, length)
        degree = length - (own < length)
        if len(times) and not is_sorted:
            degree = np.int64(0)
            for p in range(length):
                u = indices[start + p]
                if u < 0 or u >= len(times):
                    return total, longest, np.int64(i)
                degree += p != own and times[u] <= rows.limits[i]
            longest = max(longest, degree)
        if fanout >= 0:
            degree = fanout if with_replacement and degree > 0 else min(degree, fanout)
        rows.starts[i], rows.lengths[i], rows.owns[i], rows.degrees[i] = start, length, own, degree
        total += degree
        longest = max(longest, degree)
    return total, longest, np.int64(-1)


@njit(inline="always")
def _add(seen, marker, p):  # type: ignore[no-untyped-def]
    """Add p to the open-addressing set of the row with this marker; False where it is there."""
    mask = len(seen) - 1
    slot = p & mask
    entry = marker | p
    while seen[slot] >= marker:  # what earlier rows left is below
        if seen[slot] == entry:
            return False
        slot = (slot + 1) & mask
    seen[slot] = entry
    return True


@njit(inline="always")
def _floyd(state, degree, marker, seen, chosen):  # type: ignore[no-untyped-def]
    """Choose len(chosen) of the numbers below `degree`, in as many draws whatever the degree.

    Floyd's algorithm (Bentley and Floyd, "A Sample of Brilliance"), in the order of its draws.
    """
    for i in range(len(chosen)):
        last = degree - len(chosen) + i
        p = draw(state, i, last + 1)
        if not _add(seen, marker, p):
            p = last
            _add(seen, marker, p)
        chosen[i] = p


class Scratch(NamedTuple):
    """Memory of a batch that rows are sampled in."""

    edges: np.ndarray
    """[BLOCK + longest row's heads] int64: positions in `indices`, then heads."""
    visible: np.ndarray
    """[longest list] int64: positions of a row's visible heads."""
    seen: np.ndarray
    """int64 [a power of two, four times what is drawn of a row at least]: the set of its positions."""


@njit
def sample_rows(  # type: ignore[no-untyped-def]
    indices,
    first_edge,
    rows,
    times,
    with_replacement,
    key,
    stamps,
    stamp,
    nodes,
    num_nodes,
    heads,
    edges,
    scratch,
    num_rows,
):
    """Sample found rows: heads [E] as positions in `nodes` and, where asked for, numbers of edges [E].

    times: of all heads, of length 0 but for rows in no order of time. stamps: the table of the heads'
    type; what is not yet in the batch is added to nodes, behind the num_nodes of them. edges: of length
    0 where no numbers are asked for. num_rows: how many markers of the set are used up.

    Returns the new number of nodes, or −1 where a head is no node.
    """
    at, row, num_src, block = np.int64(0), 0, np.uint64(len(stamps)), scratch.edges
    while row < len(rows.tails):
        num = np.int64(0)
        while row < len(rows.tails) and num < BLOCK:
            k = np.int64(rows.degrees[row])
            if k > 0:
                v, start, length, own = rows.tails[row], rows.starts[row], rows.lengths[row], rows.owns[row]
                degree = length - (own < length)
                if len(times):
                    degree = np.int64(0)
                    for p in range(length):
                        if p != own and times[indices[start + p]] <= rows.limits[row]:
                            scratch.visible[degree] = p
                            degree += 1
                chosen = block[num : num + k]
                if with_replacement:
                    state = row_state(key, v)
                    for i in range(k):
                        chosen[i] = draw(state, i, degree)
                elif k < degree:
                    _floyd(row_state(key, v), degree, (num_rows + row + 1) << _S32, scratch.seen, chosen)
                else:
                    for i in range(k):
                        chosen[i] = i
                for i in range(k):
                    p = scratch.visible[chosen[i]] if len(times) else chosen[i] + (chosen[i] >= own)
                    chosen[i] = start + p
                    prefetch(indices, start + p)
                if len(edges):
                    for i in range(k):
                        p = chosen[i] - start
                        edges[at + num + i] = first_edge[v] + p - (p > own)
                num += k
            row += 1
        is_bad = False
        for i in range(num):
            u = np.int64(indices[block[i]])
            block[i] = u
            is_bad |= np.uint64(u) >= num_src
            prefetch(stamps, u)
        if is_bad:
            return np.int64(-1)
        num_nodes = relabel(block[:num], stamps, stamp, nodes, num_nodes, heads[at : at + num])
        at += num
    return num_nodes


@njit
def take_heads(  # type: ignore[no-untyped-def]
    indices, tails, stamps, stamp, nodes, num_nodes, heads, edges, scratch
):
    """`sample_rows` of a relation in which node v has one head, edge v: nothing is to be found or chosen."""
    num_src, block = np.uint64(len(stamps)), scratch.edges
    for i in range(min(BLOCK, len(tails))):
        prefetch(indices, tails[i])
    for first in range(0, len(tails), BLOCK):
        num, is_bad = min(BLOCK, len(tails) - first), False
        for i in range(num):
            v = tails[first + i]
            u = np.int64(indices[v])
            block[i] = u
            is_bad |= np.uint64(u) >= num_src
            prefetch(stamps, u)
            if first + i + BLOCK < len(tails):
                prefetch(indices, tails[first + i + BLOCK])
            if len(edges):
                edges[first + i] = v
        if is_bad:
            return np.int64(-1)
        num_nodes = relabel(block[:num], stamps, stamp, nodes, num_nodes, heads[first : first + num])
    return num_nodes


@njit(inline="always")
def relabel(ids, stamps, stamp, nodes, num_nodes, positions):  # type: ignore[no-untyped-def]
    """Positions of node numbers [n] in `nodes`, adding those that are new at its end.

    An entry of the table holds the stamp of its batch and, below, the position. Returns the new number
    of nodes.
    """
    for i in range(len(ids)):
        u = ids[i]
        entry = stamps[u]
        position = entry & _LOW
        if entry >> _S32 != stamp:
            position = num_nodes
            stamps[u] = (stamp << _S32) | position
            nodes[position] = u
            num_nodes += 1
        positions[i] = position
    return num_nodes
