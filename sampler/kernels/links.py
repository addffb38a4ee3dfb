"""Negatives of edges, and the edges of a sample that would give targets away.

Legend: B edges of a batch, K negatives of each, N tails, P pairs, E sampled edges of a relation.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numba import njit

from netgpt.graphstore import mixing
from netgpt.sampler.kernels.generator import draw, row_state

MAX_TRIES = 64
"""Draws of a negative that may be positives; then the next candidate upwards that is none is taken."""
_WHOLE = 1 << 32


@njit(cache=True, nogil=True)
def sort_rows(indptr, heads):  # type: ignore[no-untyped-def]
    """Sort each row of heads in place."""
    for v in range(len(indptr) - 1):
        heads[indptr[v] : indptr[v + 1]].sort()


@njit(inline="always")
def _is_in(values, first, last, value):  # type: ignore[no-untyped-def]
    """Whether values[first:last], ascending, have one."""
    while first < last:
        middle = (first + last) >> 1
        if values[middle] < value:
            first = middle + 1
        else:
            last = middle
    return first < len(values) and values[first] == value


@njit(nogil=True)
def _draw_negatives(  # type: ignore[no-untyped-def]
    key, edges, tails, bounds, indptr, positives, order, share, alias, is_one_type, out
):
    """Negatives of edges into out [B, K]; returns [B] bool, whether there is one.

    Negative j of an edge is the first of draws (key, edge, j, 0), (key, edge, j, 1), … that is no positive
    of its tail and, where tails and heads are of one type, not the tail. bounds [B]: how many candidates
    there are for each; order: the candidates, [0] where they are the nodes' own numbers. positives: of each
    tail, ascending, one row behind the other. share [n] (of 2**32) and alias [n]: how candidates are
    weighted, [0] where all alike.
    """
    found = np.ones(len(edges), np.bool_)
    for i in range(len(edges)):
        first, last, bound = indptr[tails[i]], indptr[tails[i] + 1], bounds[i]
        state = row_state(key, edges[i])
        for j in range(out.shape[1]):
            if bound == 0:
                found[i] = False
                break
            place, node, is_good = np.int64(0), np.int64(0), False
            for t in range(MAX_TRIES):
                number = 2 * (j * MAX_TRIES + t)
                place = draw(state, number, bound)
                if len(share) and draw(state, number + 1, _WHOLE) >= share[place]:
                    place = np.int64(alias[place])
                node = np.int64(order[place]) if len(order) else place
                is_good = not (is_one_type and node == tails[i]) and not _is_in(
                    positives[:last], first, last, node
                )
                if is_good:
                    break
            for _ in range(bound):
                if is_good:
                    break
                place = (place + 1) % bound
                node = np.int64(order[place]) if len(order) else place
                is_good = not (is_one_type and node == tails[i]) and not _is_in(
                    positives[:last], first, last, node
                )
            if not is_good:
                found[i] = False
                break
            out[i, j] = node
    return found


def _cached(digest):  # type: ignore[no-untyped-def]
    """`_draw_negatives`, compiled once on a machine: the cache knows this file and the digest."""

    @njit(cache=True, nogil=True)
    def draw_negatives(*arguments):  # type: ignore[no-untyped-def]
        digest  # noqa: B018 - a part of the cache's key
        return _draw_negatives(*arguments)

    return draw_negatives


# Numba's cache would not see that a function from another file has changed
_SOURCES = Path(__file__).with_name("generator.py").read_bytes() + mixing.SOURCE
draw_negatives = _cached(hashlib.blake2b(_SOURCES, digest_size=16).hexdigest())


@njit(cache=True, nogil=True)
def untold(tail_ids, head_ids, degrees, heads, targets, indptr, target_heads):  # type: ignore[no-untyped-def]
    """Which sampled edges are none between the ends of a target: [E] bool; lowers `degrees` by the others.

    tail_ids, head_ids: numbers of the batch's nodes. targets [P]: tails of targets, ascending, with a row of
    their heads each, ascending too.
    """
    keeps = np.ones(len(heads), np.bool_)
    at = 0
    for v in range(len(degrees)):
        degree = degrees[v]
        place = np.searchsorted(targets, tail_ids[v])
        if place < len(targets) and targets[place] == tail_ids[v]:
            first, last = indptr[place], indptr[place + 1]
            for e in range(at, at + degree):
                if _is_in(target_heads[:last], first, last, head_ids[heads[e]]):
                    keeps[e] = False
                    degrees[v] -= 1
        at += degree
    return keeps


@njit(cache=True)
def alias_table(weights):  # type: ignore[no-untyped-def]
    """Walker's alias method, as Vose makes its table (IEEE Trans. Softw. Eng. 17, 1991).

    weights [n] float64, above 0 → what share of 2**32 each place keeps for itself, [n] int64, and whose the
    rest is, [n] int64.
    """
    num = len(weights)
    scaled = weights * (num / weights.sum())
    share, alias = np.full(num, _WHOLE, np.int64), np.arange(num)
    small, large = np.empty(num, np.int64), np.empty(num, np.int64)
    num_small = num_large = 0
    for i in range(num):
        if scaled[i] < 1:
            small[num_small] = i
            num_small += 1
        else:
            large[num_large] = i
            num_large += 1
    while num_small and num_large:
        num_small -= 1
        less, more = small[num_small], large[num_large - 1]
        share[less], alias[less] = np.int64(scaled[less] * _WHOLE), more
        scaled[more] -= 1 - scaled[less]
        if scaled[more] < 1:
            num_large -= 1
            small[num_small] = more
            num_small += 1
    return share, alias
