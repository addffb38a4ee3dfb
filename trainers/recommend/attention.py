"""Gated attention of some nodes over all their neighbours, with its gradient; nothing of O(pairs) is kept.

For a head h and its neighbours t, with s = q_h·k_t and γ = σ(a_h·b_t),

    out_h = Σ_t softmax_t(ℓ_t) μ_t v_t

    outside   ℓ = s       μ = γ       the gate beside the softmax
    inside    ℓ = γ s     μ = 1       the gate in it
    none      ℓ = s       μ = 1

and without attention ℓ = 0 (of `inside` then nothing is left of the gate). A head without a neighbour has
zeros. On CPUs a row's numbers are made again in the backward pass, as the heads see them and as the
neighbours do, each by one thread; on GPUs torch does it with an array a pair, and adds in no fixed order.

Legend: H heads, T neighbours' nodes, E pairs, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

OUTSIDE, INSIDE, NONE = 0, 1, 2
GATES = {"outside": OUTSIDE, "inside": INSIDE, "none": NONE}
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Sides:
    """Rows of both sides: neighbours of each head, and heads of each neighbour."""

    of_heads: Rows
    """indptr [H + 1] and nodes [E]."""
    of_neighbors: Rows
    _pairs: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def pairs(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Head and neighbour of each pair: [E] int64 each, made once a device."""
        if device not in self._pairs:
            indptr, nodes = self.of_heads
            heads = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
            both = torch.from_numpy(heads), torch.from_numpy(nodes.astype(np.int64))
            self._pairs[device] = both[0].to(device), both[1].to(device)
        return self._pairs[device]


def gated_attention(
    q_HD: Tensor,
    k_TD: Tensor,
    a_HD: Tensor,
    b_TD: Tensor,
    v_TD: Tensor,
    sides: Sides,
    wanted: Tensor | None = None,
    *,
    gate: str = "outside",
    attends: bool = True,
) -> Tensor:
    """[H, D]: see above. wanted: heads [n] int64, each once; the others' rows are zeros. By default all."""
    if q_HD.device.type != "cpu":
        return by_pairs(q_HD, k_TD, a_HD, b_TD, v_TD, sides, wanted, gate=gate, attends=attends)
    num = len(sides.of_heads[0]) - 1
    is_wanted = np.ones(num, np.bool_) if wanted is None else np.zeros(num, np.bool_)
    if wanted is not None:
        is_wanted[wanted.numpy()] = True
    how = (sides, is_wanted, GATES[gate], attends)
    made: Tensor = _Attention.apply(q_HD, k_TD, a_HD, b_TD, v_TD, how)
    return made


def by_pairs(
    q_HD: Tensor,
    k_TD: Tensor,
    a_HD: Tensor,
    b_TD: Tensor,
    v_TD: Tensor,
    sides: Sides,
    wanted: Tensor | None = None,
    *,
    gate: str = "outside",
    attends: bool = True,
) -> Tensor:
    """The same with torch's own operations, whose gradients it knows: memory of E · D."""
    num = len(q_HD)
    heads, tails = sides.pairs(q_HD.device)
    if wanted is not None:
        is_wanted = torch.zeros(num, dtype=torch.bool, device=q_HD.device)
        is_wanted[wanted] = True
        heads, tails = heads[is_wanted[heads]], tails[is_wanted[heads]]
    score = (q_HD[heads] * k_TD[tails]).sum(1) if attends else torch.zeros_like(heads, dtype=q_HD.dtype)
    gates = torch.sigmoid((a_HD[heads] * b_TD[tails]).sum(1))
    logit = score * gates if gate == "inside" else score
    weight = row_softmax(logit, heads, num)
    if gate == "outside":
        weight = weight * gates
    out = torch.zeros(num, v_TD.shape[1], dtype=v_TD.dtype, device=v_TD.device)
    return out.index_add(0, heads, weight[:, None] * v_TD[tails])


def row_softmax(logit_E: Tensor, row_E: Tensor, num_rows: int) -> Tensor:
    """The softmax over each row's pairs; row: of which each is. [E]."""
    most = torch.full((num_rows,), -torch.inf, dtype=logit_E.dtype, device=logit_E.device)
    most = most.scatter_reduce(0, row_E, logit_E.detach(), "amax")
    share = torch.exp(logit_E - most[row_E])
    total = torch.zeros_like(most).index_add(0, row_E, share)
    return share / total[row_E]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, q: Tensor, k: Tensor, a: Tensor, b: Tensor, v: Tensor, how: Any) -> Tensor:
        sides, is_wanted, gate, attends = how
        q, k, a, b, v = (one.detach().contiguous() for one in (q, k, a, b, v))
        out = torch.zeros(len(q), v.shape[1], dtype=v.dtype)
        scale = torch.zeros(len(q), 2, dtype=v.dtype).numpy()  # greatest logit, and sum of shares
        q_, k_, a_, b_, v_ = (one.numpy() for one in (q, k, a, b, v))
        indptr, nodes = sides.of_heads
        _forward(q_, k_, a_, b_, v_, indptr, nodes, is_wanted, gate, attends, out.numpy(), scale)
        context.save_for_backward(q, k, a, b, v, out)
        context.how, context.scale = how, scale
        return out

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        *tensors, out = context.saved_tensors
        sides, wanted, gate, attends = context.how
        q, k, a, b, v = (one.numpy() for one in tensors)
        g, dot, scale = gradient.contiguous().numpy(), (gradient * out).sum(1).numpy(), context.scale
        grads = [torch.zeros_like(one) for one in tensors]
        dq, dk, da, db, dv = (one.numpy() for one in grads)
        indptr, nodes = sides.of_heads
        _of_heads(q, k, a, b, v, indptr, nodes, wanted, gate, attends, g, dot, scale, dq, da)
        indptr, nodes = sides.of_neighbors
        _of_neighbors(q, k, a, b, v, indptr, nodes, wanted, gate, attends, g, dot, scale, dk, db, dv)
        return (*grads, None)


@njit(inline="always")
def _dot(x, y):  # type: ignore[no-untyped-def]
    total = x[0] * y[0]
    for d in range(1, len(x)):
        total += x[d] * y[d]
    return total


@njit(inline="always")
def _numbers(q, k, a, b, gate, attends):  # type: ignore[no-untyped-def]
    """Score, gate and logit of a pair."""
    zero = q[0] * 0
    score = _dot(q, k) if attends else zero
    opened = zero + 1
    if gate != NONE:
        opened = 1 / (1 + np.exp(-_dot(a, b)))
    return score, opened, score * opened if gate == INSIDE else score


@njit(cache=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _forward(q, k, a, b, v, indptr, nodes, is_wanted, gate, attends, out, scale):  # type: ignore[no-untyped-def]
    for h in prange(len(out)):
        first, last = indptr[h], indptr[h + 1]
        if not is_wanted[h] or first == last:
            continue
        logits, opened = np.empty(last - first, out.dtype), np.empty(last - first, out.dtype)
        for i in range(last - first):
            t = nodes[first + i]
            _, opened[i], logits[i] = _numbers(q[h], k[t], a[h], b[t], gate, attends)
        most = logits.max()
        total = out[h, 0] * 0
        row = out[h]
        for i in range(last - first):
            share = np.exp(logits[i] - most)
            total += share
            weight = share * opened[i] if gate == OUTSIDE else share
            own = v[nodes[first + i]]
            for d in range(len(row)):
                row[d] += weight * own[d]
        for d in range(len(row)):
            row[d] /= total
        scale[h, 0], scale[h, 1] = most, total


@njit(inline="always")
def _changes(q, k, a, b, v, gate, attends, g, dot, most, total):  # type: ignore[no-untyped-def]
    """How the loss changes with a pair's score and with its gate's logit, and its weight of v."""
    score, opened, logit = _numbers(q, k, a, b, gate, attends)
    share = np.exp(logit - most) / total
    seen = _dot(g, v)
    if gate == OUTSIDE:
        of_logit = share * (opened * seen - dot)
        return of_logit, share * seen * opened * (1 - opened), share * opened
    of_logit = share * (seen - dot)
    if gate == INSIDE:
        return of_logit * opened, of_logit * score * opened * (1 - opened), share
    return of_logit, of_logit * 0, share


@njit(cache=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _of_heads(q, k, a, b, v, indptr, nodes, is_wanted, gate, attends, g, dot, scale, dq, da):  # type: ignore[no-untyped-def]
    for h in prange(len(q)):
        if not is_wanted[h]:
            continue
        for i in range(indptr[h], indptr[h + 1]):
            t = nodes[i]
            ds, dz, _ = _changes(
                q[h], k[t], a[h], b[t], v[t], gate, attends, g[h], dot[h], scale[h, 0], scale[h, 1]
            )
            if attends:
                for d in range(dq.shape[1]):
                    dq[h, d] += ds * k[t, d]
            if gate != NONE:
                for d in range(da.shape[1]):
                    da[h, d] += dz * b[t, d]


@njit(cache=True, parallel=True, fastmath={"reassoc", "contract", "nsz"})
def _of_neighbors(q, k, a, b, v, indptr, nodes, is_wanted, gate, attends, g, dot, scale, dk, db, dv):  # type: ignore[no-untyped-def]
    for t in prange(len(k)):
        for i in range(indptr[t], indptr[t + 1]):
            h = nodes[i]
            if not is_wanted[h]:
                continue
            ds, dz, weight = _changes(
                q[h], k[t], a[h], b[t], v[t], gate, attends, g[h], dot[h], scale[h, 0], scale[h, 1]
            )
            for d in range(dv.shape[1]):
                dv[t, d] += weight * g[h, d]
            if attends:
                for d in range(dk.shape[1]):
                    dk[t, d] += ds * q[h, d]
            if gate != NONE:
                for d in range(db.shape[1]):
                    db[t, d] += dz * a[h, d]
