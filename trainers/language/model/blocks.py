"""Attention of packs on CPUs: each sample's queries in blocks, as batched products that stay in a cache.

A block's scores are made, turned into weights and used, forward and backward; nothing of the square of a
sample's length is kept. Causal: a block sees the keys up to its own last one, so no more than half a block
of its scores is masked. Samples do not see each other: their numbers do not depend on the pack's others.

Legend: H heads, K heads of keys, L tokens of a pack, n queries of a block, S keys, d width of a head.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_NUMBERS = 1 << 18
"""Scores of a block: a megabyte of float32."""
MIN_QUERIES, MAX_QUERIES = 32, 128
UNIT = 32
"""Samples are filled up to a multiple of so many tokens with zeros behind them, which none of theirs sees:
products are of few sizes then, and oneDNN compiles code for each size."""

Span = tuple[tuple[int, int], list[tuple[int, int]]]
"""Tokens that ask, half open, and those that they see, the last of which are themselves."""


def seen(x_KLd: Tensor, ranges: list[tuple[int, int]], before_KPd: Tensor | None, fill: int = 0) -> Tensor:
    """Keys or values of some tokens, behind a prefix and before so many zeros: [K, S, d]."""
    parts = [x_KLd[:, slice(*one)] for one in ranges]
    parts = parts if before_KPd is None else [before_KPd, *parts]
    if fill:
        parts.append(x_KLd.new_zeros(len(x_KLd), fill, x_KLd.shape[2]))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _seen_of(
    asked: tuple[int, int],
    ranges: list[tuple[int, int]],
    k_KLd: Tensor,
    v_KLd: Tensor,
    before: Tensor | None,
) -> list[Tensor]:
    """Keys and values of a span that is filled up: [K, S, d] each."""
    prefixes = (None, None) if before is None else before
    return [seen(x, ranges, one, _fill(asked)) for x, one in zip((k_KLd, v_KLd), prefixes, strict=True)]


def _filled(x_HLd: Tensor, first: int, last: int, end: int) -> Tensor:
    """Tokens first to last, those from `end` on zero: [H, n, d]."""
    part = x_HLd[:, first : min(last, end)]
    return part if last <= end else F.pad(part, (0, 0, 0, last - end))


def _fill(asked: tuple[int, int]) -> int:
    return (asked[0] - asked[1]) % UNIT


def _blocks(asked: tuple[int, int], num_heads: int, num_keys: int) -> Iterator[tuple[int, int, int]]:
    """First and last query of each block, half open, and how many keys its last one sees; all of them are of
    the sample that is filled up."""
    begin, end = asked[0], asked[1] + _fill(asked)
    size = min(MAX_QUERIES, max(MIN_QUERIES, BLOCK_NUMBERS // (num_heads * num_keys) // UNIT * UNIT))
    for first in range(begin, end, size):
        last = min(first + size, end)
        yield first, last, num_keys - (end - last)


def _by_keys(x_HnD: Tensor, num_keys_heads: int) -> Tensor:
    """[H, n, d] → [K, H / K · n, d]: the heads that share keys are rows of one product."""
    return x_HnD.reshape(num_keys_heads, -1, x_HnD.shape[2])


def _weights(asking: Tensor, k_KSd: Tensor, num: int, masks: dict[int, Tensor]) -> Tensor:
    """Softmax over what each query sees: [K, H / K · n, S]."""
    scores = torch.bmm(asking, k_KSd.transpose(1, 2))
    if num not in masks:
        masks[num] = scores.new_full((num, num), -torch.inf).triu_(1)
    scores.view(len(scores), -1, num, scores.shape[2])[..., scores.shape[2] - num :] += masks[num]
    return torch.softmax(scores, 2)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        q_HLd: Tensor,
        k_KLd: Tensor,
        v_KLd: Tensor,
        before: Tensor | None,
        spans: list[Span],
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(q_HLd, k_KLd, v_KLd, before)
        ctx.spans, ctx.scale = spans, scale
        (num_heads, num, width), num_keys_heads = q_HLd.shape, len(k_KLd)
        scaled_HLd = q_HLd * scale
        out_LHd, masks = q_HLd.new_zeros(num, num_heads, width), {}  # type: tuple[Tensor, dict[int, Tensor]]
        for asked, ranges in spans:
            k, v = _seen_of(asked, ranges, k_KLd, v_KLd, before)
            for first, last, visible in _blocks(asked, num_heads, k.shape[1]):
                asking = _by_keys(_filled(scaled_HLd, first, last, asked[1]), num_keys_heads)
                weights = _weights(asking, k[:, :visible], last - first, masks)
                found = torch.bmm(weights, v[:, :visible]).view(num_heads, last - first, width)
                end = min(last, asked[1])
                out_LHd[first:end] = found[:, : end - first].transpose(0, 1)
        return out_LHd

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q_HLd, k_KLd, v_KLd, before = ctx.saved_tensors
        g_HLd, num_keys_heads = gradients[0].transpose(0, 1), len(k_KLd)
        dq_HLd, dk_KLd, dv_KLd = (torch.zeros(x.shape, dtype=x.dtype) for x in (q_HLd, k_KLd, v_KLd))
        d_before = None if before is None else torch.zeros_like(before)
        scaled_HLd, masks = q_HLd * ctx.scale, {}  # type: tuple[Tensor, dict[int, Tensor]]
        for asked, ranges in ctx.spans:
            k, v = _seen_of(asked, ranges, k_KLd, v_KLd, before)
            dk, dv = torch.zeros(k.shape, dtype=k.dtype), torch.zeros(v.shape, dtype=v.dtype)
            for first, last, visible in _blocks(asked, len(q_HLd), k.shape[1]):
                asking = _by_keys(_filled(scaled_HLd, first, last, asked[1]), num_keys_heads)
                weights = _weights(asking, k[:, :visible], last - first, masks)
                g = _by_keys(_filled(g_HLd, first, last, asked[1]), num_keys_heads)
                dv[:, :visible].baddbmm_(weights.transpose(1, 2), g)
                d_weights = torch.bmm(g, v[:, :visible].transpose(1, 2))
                d_scores = torch._softmax_backward_data(d_weights, weights, 2, weights.dtype)  # type: ignore[attr-defined]
                dk[:, :visible].baddbmm_(d_scores.transpose(1, 2), asking)
                dq = torch.bmm(d_scores, k[:, :visible]).view(len(q_HLd), last - first, -1)
                end = min(last, asked[1])
                dq_HLd[:, first:end] = dq[:, : end - first]
            at = 0
            if before is not None and d_before is not None:
                at = before.shape[2]
                d_before += torch.stack([dk[:, :at], dv[:, :at]])
            for begin, end in ranges:
                dk_KLd[:, begin:end] += dk[:, at : at + end - begin]
                dv_KLd[:, begin:end] += dv[:, at : at + end - begin]
                at += end - begin
        return dq_HLd.mul_(ctx.scale), dk_KLd, dv_KLd, d_before, None, None


def block_attention(
    q_HLd: Tensor, k_KLd: Tensor, v_KLd: Tensor, before: Tensor | None, spans: list[Span], scale: float
) -> Tensor:
    """Causal attention of each span's queries over what it sees: [L, H, d].

    before: [2, K, P, d], keys and values that every token sees first.
    """
    out: Tensor = _Attention.apply(q_HLd, k_KLd, v_KLd, before, spans, scale)
    return out
