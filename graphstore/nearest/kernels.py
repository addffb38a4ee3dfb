"""Compiled loops of the search for the nearest: the best of a block of scores, and the heads that they are.

Legend: q tails of a block, b their distinct vectors, c vectors of the bank in a product, m candidates, k
heads of a row, D width, N nodes.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_TOGETHER = 32
"""Scores that are looked at at once: almost always none of them is good enough."""
_FEW = 4
"""Candidates beyond k that are scored in float64 at first: mostly no more are needed."""


@njit(cache=True, nogil=True)
def unit(x: np.ndarray, scale: float, out: np.ndarray) -> int:
    """Rows [n, D] divided by their lengths, times `scale`, into out [n, D] float32; rows of zeros stay.

    Returns the first row with a number that is not finite, −1 where there is none.
    """
    for i in range(len(x)):
        total = 0.0
        for j in range(x.shape[1]):
            total += np.float64(x[i, j]) ** 2
        if not np.isfinite(total):
            return i
        factor = scale / np.sqrt(total) if total > 0 else 0.0
        for j in range(x.shape[1]):
            out[i, j] = np.float64(x[i, j]) * factor
    return -1


@njit(cache=True, nogil=True)
def _compact(value: np.ndarray, place: np.ndarray, most: int) -> np.float32:
    """Move the greatest `most` of the values to the front, any of equal ones; returns the greatest that may
    have gone."""
    least = np.partition(value, len(value) - most)[len(value) - most]
    above = 0
    for j in range(len(value)):
        above += value[j] > least
    equal, kept = most - above, 0
    for j in range(len(value)):
        if value[j] > least or (value[j] == least and equal > 0):
            equal -= value[j] == least
            value[kept], place[kept] = value[j], place[j]
            kept += 1
    return least


@njit(cache=True, nogil=True)
def keep_best(
    scores: np.ndarray,
    first: int,
    row_of: np.ndarray,
    limit: np.ndarray,
    most: int,
    value: np.ndarray,
    place: np.ndarray,
    num: np.ndarray,
    least: np.ndarray,
) -> None:
    """Take from scores [b, c] float32, of the bank's vectors from `first` on, what may be among each tail's
    best.

    row_of [q]: a tail's row of the scores. limit [q]: vectors of the bank that a tail may see, the first
    ones. value [q, 2m] float32, place [q, 2m] int32, num [q]: candidates so far; `most` is m. least [q]
    float32: no score that was dropped is above it; −inf where none was.
    """
    width = value.shape[1]
    for i in range(len(row_of)):
        row = scores[row_of[i]]
        last = min(limit[i] - first, len(row))
        n, bound = num[i], least[i]
        for begin in range(0, last, _TOGETHER):
            end = min(begin + _TOGETHER, last)
            if end - begin == _TOGETHER:  # a loop of a known length, which a compiler makes one of vectors
                good = np.int32(0)
                for j in range(_TOGETHER):
                    good |= np.int32(row[begin + j] > bound)
                if good == 0:
                    continue
            for j in range(begin, end):
                if row[j] > bound:
                    if n == width:
                        bound = _compact(value[i], place[i], most)
                        n = most
                        if row[j] <= bound:
                            continue
                    value[i, n], place[i, n] = row[j], first + j
                    n += 1
        num[i], least[i] = n, bound


@njit(cache=True, nogil=True)
def _inner(x: np.ndarray, y: np.ndarray) -> float:
    """The inner product in float64, in one order."""
    a = b = c = d = 0.0
    whole = len(x) - len(x) % 4
    for j in range(0, whole, 4):
        a += np.float64(x[j]) * np.float64(y[j])
        b += np.float64(x[j + 1]) * np.float64(y[j + 1])
        c += np.float64(x[j + 2]) * np.float64(y[j + 2])
        d += np.float64(x[j + 3]) * np.float64(y[j + 3])
    for j in range(whole, len(x)):
        a += np.float64(x[j]) * np.float64(y[j])
    return (a + b) + (c + d)


@njit(cache=True, nogil=True)
def _earlier(members: np.ndarray, begin: int, end: int, time: np.ndarray, until: int) -> int:
    """Of members[begin:end], the latest first, the place of the first whose time is before `until`."""
    while begin < end:
        middle = (begin + end) // 2
        if time[members[middle]] >= until:
            begin = middle + 1
        else:
            end = middle
    return begin


@njit(cache=True, nogil=True)
def _take(
    node: int, score: float, tail: int, apart: np.ndarray, heads: np.ndarray, scores: np.ndarray, num: int
) -> int:
    """Put a node into the row of `num` heads if it may be in it; the number of heads then."""
    if node == tail:
        return num
    if apart[node] >= 0:
        if apart[node] == apart[tail]:
            return num
        for j in range(num):
            if apart[heads[j]] == apart[node]:
                return num
    heads[num], scores[num] = node, score
    return num + 1


@njit(cache=True, nogil=True)
def first_heads(
    vectors: np.ndarray,
    begin: np.ndarray,
    members: np.ndarray,
    time: np.ndarray,
    is_timed: bool,
    apart: np.ndarray,
    tails: np.ndarray,
    rows: np.ndarray,
    value: np.ndarray,
    place: np.ndarray,
    num: np.ndarray,
    least: np.ndarray,
    error: float,
    heads: np.ndarray,
    scores: np.ndarray,
    found: np.ndarray,
) -> np.ndarray:
    """The rows of tails [q] with the vectors rows [q], from candidates that `keep_best` left.

    vectors [n, D] float32; members[begin[v]:begin[v + 1]]: nodes of the bank with vector v, the latest first
    and then by number. time [N] (is_timed: heads are earlier), apart [N]: nodes that share a value, but −1,
    are in no row together. heads [q, k], scores [q, k] float64, found [q] are filled, the best first, among
    equals the latest. Returns which rows are certain [q]: no candidate that was dropped can be in them, as a
    float32 score is off by `error` at most.
    """
    k = heads.shape[1]
    certain = np.zeros(len(tails), np.bool_)
    for i in range(len(tails)):
        tail, until = tails[i], time[tails[i]]
        by_value = np.argsort(-value[i, : num[i]], kind="mergesort")
        exact = np.empty(num[i], np.float64)
        scored, wanted, taken = 0, min(num[i], k + _FEW), 0
        while True:
            for j in range(scored, wanted):
                exact[j] = _inner(vectors[rows[i]], vectors[place[i, by_value[j]]])
            scored = wanted
            order = np.argsort(-exact[:scored], kind="mergesort")
            taken, j = 0, 0
            while j < scored and taken < k:
                score, last = exact[order[j]], j + 1
                while last < scored and exact[order[last]] == score:
                    last += 1
                if last == j + 1:
                    v = place[i, by_value[order[j]]]
                    one, end = begin[v], begin[v + 1]
                    if is_timed:
                        one = _earlier(members, one, end, time, until)
                    while one < end and taken < k:
                        taken = _take(members[one], score, tail, apart, heads[i], scores[i], taken)
                        one += 1
                else:  # several vectors with one score: their nodes in one order
                    some = place[i][by_value[order[j:last]]]
                    for node in _merged(members, begin, some, time, is_timed, until):
                        if taken < k:
                            taken = _take(node, score, tail, apart, heads[i], scores[i], taken)
                j = last
            if scored == num[i]:
                break
            # Those behind have no greater float32 score: they matter where rounding may hide them
            if taken == k and scores[i, k - 1] > np.float64(value[i, by_value[scored]]) + error:
                break
            wanted = min(num[i], 2 * scored)
        found[i] = taken
        dropped = least[i] > -np.inf
        certain[i] = not dropped or (taken == k and scores[i, k - 1] > np.float64(least[i]) + error)
    return certain


@njit(cache=True, nogil=True)
def _merged(
    members: np.ndarray,
    begin: np.ndarray,
    some: np.ndarray,
    time: np.ndarray,
    is_timed: bool,
    until: int,
) -> np.ndarray:
    """The nodes of some vectors that a tail may see, the latest first and then by number."""
    starts = np.empty(len(some), np.int64)
    total = 0
    for j in range(len(some)):
        v = some[j]
        starts[j] = _earlier(members, begin[v], begin[v + 1], time, until) if is_timed else begin[v]
        total += begin[v + 1] - starts[j]
    nodes = np.empty(total, np.int64)
    n = 0
    for j in range(len(some)):
        for one in range(starts[j], begin[some[j] + 1]):
            nodes[n] = members[one]
            n += 1
    nodes.sort()
    if is_timed:
        nodes = nodes[np.argsort(-time[nodes], kind="mergesort")]
    return nodes
