"""Means over the heads of sampled rows on the CPU, and their gradients, in compiled loops over a few threads.

A thread's part is a range of tails there, and a range of columns or of the table's rows back: every sum is
one thread's, in the order of the tails, so threads change no bit. All that is read of one table has one
gradient.

Legend: C rows of a table, N nodes, T tails, E edges, D width.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

MIN_WORK = 1 << 18
"""Additions of a thread's share at least: a tenth of a millisecond."""
COLUMNS = 16
"""Columns of a thread's share are a multiple of it: a cache line of float32."""
CACHED = 1 << 20
"""Bytes of a table's gradient that may be added to at random places: they stay in a core's cache."""


@dataclass(frozen=True)
class Bags:
    """Rows of tails, one behind the other."""

    heads_E: np.ndarray
    """int: nodes."""
    ends_T: np.ndarray
    """int: behind each row's last edge."""
    factor_T: np.ndarray
    """What each mean is multiplied by; empty: one."""

    @staticmethod
    def of(heads_E: Tensor, ends_T: Tensor, factor_T: Tensor | None = None) -> Bags:
        return Bags(heads_E.numpy(), ends_T.numpy(), numbers(factor_T))


@njit(inline="always")
def _run(row, heads, e, end):  # type: ignore[no-untyped-def]
    """The table's row of edge e, and how many edges from it on have the same: neighbours often do."""
    c, same = row[heads[e]] if len(row) else heads[e], 1
    while e + same < end and (row[heads[e + same]] if len(row) else heads[e + same]) == c:
        same += 1
    return c, same


@njit(cache=True, nogil=True)
def _mean(x, row, share, heads, ends, factor, first, last, adds, out):  # type: ignore[no-untyped-def]
    """Means over heads of share · x for the tails [first, last), into rows of `out` or added to them."""
    width = x.shape[1]
    for t in range(first, last):
        begin, end = (ends[t - 1] if t else 0), ends[t]
        mean = out[t]
        part = x.dtype.type(1) / x.dtype.type(max(1, end - begin))
        if len(factor):
            part *= x.dtype.type(factor[t])
        e, written = begin, adds
        while e < end:
            if len(share):  # each edge by itself
                c, same = _run(row, heads, e, e + 1)
                weight = part * x.dtype.type(share[heads[e]])
            else:
                c, same = _run(row, heads, e, end)
                weight = part * x.dtype.type(same)
            state = x[c]
            if written:
                for d in range(width):
                    mean[d] += weight * state[d]
            else:
                for d in range(width):
                    mean[d] = weight * state[d]
                written = True
            e += same
        if not written:
            mean[:] = 0


@njit(cache=True, nogil=True)
def _spread(g, row, heads, ends, factor, first, last, grad):  # type: ignore[no-untyped-def]
    """Gradient of means by the table's rows: added to grad [C, D], for the columns [first, last)."""
    width = last - first
    for t in range(len(ends)):
        begin, end = (ends[t - 1] if t else 0), ends[t]
        part = g.dtype.type(1) / g.dtype.type(max(1, end - begin))
        if len(factor):
            part *= g.dtype.type(factor[t])
        mean = g[t, first:last]
        e = begin
        while e < end:
            c, same = _run(row, heads, e, end)
            state, weight = grad[c, first:last], part * g.dtype.type(same)
            for d in range(width):
                state[d] += weight * mean[d]
            e += same


@njit(cache=True, nogil=True)
def _collect(g, row, heads, ends, factor, first, last, grad):  # type: ignore[no-untyped-def]
    """The same sums for the table's rows [first, last), each from all its tails at once: where many are
    added to a table that is larger than a cache."""
    width, begins = g.shape[1], np.zeros(last - first + 1, np.int64)
    for e in range(len(heads)):
        c = row[heads[e]] if len(row) else heads[e]
        if first <= c < last:
            begins[c - first + 1] += 1
    for i in range(last - first):
        begins[i + 1] += begins[i]
    at, tails, weights = begins[:-1].copy(), np.empty(begins[-1], np.int32), np.empty(begins[-1], g.dtype)
    for t in range(len(ends)):
        begin, end = (ends[t - 1] if t else 0), ends[t]
        part = g.dtype.type(1) / g.dtype.type(max(1, end - begin))
        if len(factor):
            part *= g.dtype.type(factor[t])
        e = begin
        while e < end:
            c, same = _run(row, heads, e, end)
            if first <= c < last:
                i = c - first
                tails[at[i]], weights[at[i]] = t, part * g.dtype.type(same)
                at[i] += 1
            e += same
    for i in range(last - first):
        state = grad[first + i]
        for k in range(begins[i], at[i]):
            mean, weight = g[tails[k]], weights[k]
            for d in range(width):
                state[d] += weight * mean[d]


@njit(cache=True, nogil=True)
def _spread_own(g, row, first, last, grad):  # type: ignore[no-untyped-def]
    """Gradient of the first nodes' own rows, for the columns [first, last)."""
    for t in range(len(g)):
        state, own = grad[row[t] if len(row) else t, first:last], g[t, first:last]
        for d in range(last - first):
            state[d] += own[d]


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="bags")


os.register_at_fork(after_in_child=_pool.cache_clear)  # its threads are the parent's


def in_parts(work: Callable[[int, int], object], num: int, cost: int, unit: int = 1) -> None:
    """work(first, last) over ranges of [0, num), all but the last multiples of `unit`: as many at once as
    torch has threads, if they are worth it. cost: additions in all."""
    parts = max(1, min(torch.get_num_threads(), cost // MIN_WORK, num // unit))
    bounds = [num * i // parts // unit * unit for i in range(parts)] + [num]
    if parts == 1:
        work(0, num)
    else:
        list(_pool(parts).map(work, bounds[:-1], bounds[1:]))


def numbers(tensor: Tensor | None) -> np.ndarray:
    """Empty for none."""
    return np.empty(0, np.int64) if tensor is None else tensor.detach().numpy()


def bag_means(
    x: np.ndarray, row: np.ndarray, share: np.ndarray, bags: Bags, out: np.ndarray, adds: bool
) -> None:
    """Means over each tail's heads of their rows of x [C, D], times their shares, into `out` [T, D].

    row [N]: empty for a head's number; share [N]: empty for one.
    """
    cost = (len(bags.heads_E) + len(bags.ends_T)) * x.shape[1]

    def work(first: int, last: int) -> None:
        _mean(x, row, share, bags.heads_E, bags.ends_T, bags.factor_T, first, last, adds, out)

    in_parts(work, len(bags.ends_T), cost)


def add_gradient(g: np.ndarray, row: np.ndarray, bags: Bags, grad: np.ndarray) -> None:
    """Add to grad [C, D] what means with the gradient g [T, D] come from."""
    (num, width), cost = grad.shape, len(bags.heads_E) * g.shape[1]
    random = grad.nbytes <= CACHED or len(bags.heads_E) < num
    add, parts, unit = (_spread, width, COLUMNS) if random else (_collect, num, 1)

    def work(first: int, last: int) -> None:
        add(g, row, bags.heads_E, bags.ends_T, bags.factor_T, first, last, grad)

    in_parts(work, parts, cost, unit)


class _Read(torch.autograd.Function):
    """States of the first nodes of a table, and means over rows of it."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, h_CD: Tensor, row_N: Tensor | None, num_own: int, bags: Sequence[Bags]
    ) -> tuple[Tensor, ...]:
        ctx.row, ctx.bags, ctx.shape = numbers(row_N), bags, h_CD.shape
        own = h_CD[:num_own].clone() if row_N is None else h_CD[row_N[:num_own]]
        x, made = np.ascontiguousarray(numbers(h_CD)), [own]
        for one in bags:
            out = torch.empty(len(one.ends_T), h_CD.shape[1], dtype=h_CD.dtype)
            bag_means(x, ctx.row, np.empty(0), one, out.numpy(), False)
            made.append(out)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        # torch's memory: numpy asks for huge pages, which cost more than they save where memory is in pieces
        grad = torch.zeros(ctx.shape, dtype=gradients[0].dtype)
        own, *means = (g.contiguous().numpy() for g in gradients)

        def work(first: int, last: int) -> None:
            _spread_own(own, ctx.row, first, last, grad.numpy())

        in_parts(work, ctx.shape[1], own.size, COLUMNS)
        for g, bags in zip(means, ctx.bags, strict=True):
            add_gradient(g, ctx.row, bags, grad.numpy())
        return grad, None, None, None


class _AddMeans(torch.autograd.Function):
    """A sum of means over rows of several tables, in place."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, total_TD: Tensor, rows: Sequence[Tensor | None], bags: Sequence[Bags], *tables: Tensor
    ) -> Tensor:
        ctx.rows, ctx.bags, ctx.shapes = [numbers(row) for row in rows], bags, [h.shape for h in tables]
        for h_CD, row, one in zip(tables, ctx.rows, bags, strict=True):
            bag_means(np.ascontiguousarray(numbers(h_CD)), row, np.empty(0), one, total_TD.numpy(), True)
        ctx.mark_dirty(total_TD)
        return total_TD

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        g, made = gradients[0].contiguous().numpy(), []
        for shape, row, bags in zip(ctx.shapes, ctx.rows, ctx.bags, strict=True):
            made.append(torch.zeros(shape, dtype=gradients[0].dtype))
            add_gradient(g, row, bags, made[-1].numpy())
        return gradients[0], None, None, *made


def is_compiled(h: Tensor) -> bool:
    """Whether these loops take a tensor."""
    return h.device.type == "cpu" and h.dtype in (torch.float32, torch.float64)


def read(
    h_CD: Tensor, row_N: Tensor | None, num_own: int, bags: Sequence[Bags]
) -> tuple[Tensor, list[Tensor]]:
    """States of the first nodes, [own, D], and each bags' means, [T, D], with one gradient of them all."""
    own, *means = _Read.apply(h_CD, row_N, num_own, bags)
    return own, means


def add_means(
    total_TD: Tensor, tables: Sequence[Tensor], rows: Sequence[Tensor | None], bags: Sequence[Bags]
) -> Tensor:
    """`total` with the means over rows of several tables added to it, in place."""
    added: Tensor = _AddMeans.apply(total_TD, rows, bags, *tables)
    return added
