"""Attention in blocks against dense attention in float64: samples, prefixes, forks, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from netgpt.trainers.language.model import blocks
from netgpt.trainers.language.model.attention import _spans, packed_attention
from netgpt.trainers.language.model.blocks import Span, block_attention


def dense(q: Tensor, k: Tensor, v: Tensor, before: Tensor | None, spans: list[Span], scale: float) -> Tensor:
    """[L, H, d], query by query."""
    share = len(q) // len(k)
    out = torch.zeros(q.shape[1], len(q), q.shape[2], dtype=q.dtype)
    for (begin, end), ranges in spans:
        places = [i for a, b in ranges for i in range(a, b)]
        for i in range(begin, end):
            sees = [j for j in places if j <= i]
            keys, values = k[:, sees], v[:, sees]
            if before is not None:
                keys, values = torch.cat([before[0], keys], 1), torch.cat([before[1], values], 1)
            for head in range(len(q)):
                weights = torch.softmax(keys[head // share] @ q[head, i] * scale, 0)
                out[i, head] = weights @ values[head // share]
    return out


def inputs(num: int, heads: int, kv_heads: int, prefix: int) -> list[Tensor]:
    """As a model gives them: of a transposed projection."""
    generator = torch.Generator().manual_seed(num)
    made = [
        torch.randn(num, h, 4, dtype=torch.float64, generator=generator).transpose(0, 1)
        for h in (heads, kv_heads, kv_heads)
    ]
    if prefix:
        made.append(torch.randn(2, kv_heads, prefix, 4, dtype=torch.float64, generator=generator))
    return [x.requires_grad_() for x in made]


@pytest.mark.parametrize("queries", [(32, 128), (1, 3), (5, 5)])
@pytest.mark.parametrize("prefix", [0, 2])
@pytest.mark.parametrize("forks", [None, [(3, 5), (1, 2), (6, 9)]])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2), (3, 3), (2, 1)])
def test_blocks_are_dense_attention(
    heads: int,
    kv_heads: int,
    forks: list[tuple[int, int]] | None,
    prefix: int,
    queries: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blocks, "UNIT", 1 if queries[0] < 32 else 4)
    monkeypatch.setattr(blocks, "MIN_QUERIES", queries[0])
    monkeypatch.setattr(blocks, "MAX_QUERIES", queries[1])
    lengths = [7, 4, 11]
    spans = _spans(lengths, forks)
    leaves = inputs(sum(lengths), heads, kv_heads, prefix)
    q, k, v, *rest = leaves
    before = rest[0] if rest else None
    found, expected = (f(q, k, v, before, spans, 0.3) for f in (block_attention, dense))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(expected.shape, dtype=torch.float64)
    grads = [torch.autograd.grad((x * weight).sum(), leaves) for x in (found, expected)]
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def test_a_sample_has_the_same_bits_in_every_pack() -> None:
    q, k, v = (x.detach().float()[None] for x in inputs(60, 4, 2, 0))
    module: Any = None
    whole = packed_attention(module, q, k, v, None, pack_lengths=[20, 25, 15])[0]
    for begin, end in ((0, 20), (20, 45), (45, 60)):
        part = (x[:, :, begin:end] for x in (q, k, v))
        alone = packed_attention(module, *part, None, pack_lengths=[end - begin])[0]
        assert torch.equal(alone, whole[:, begin:end])


def test_float32_is_near_torchs_own_attention() -> None:
    lengths = [300, 41, 129]
    q, k, v = (x.detach().float()[None].requires_grad_() for x in inputs(sum(lengths), 4, 2, 0))
    module: Any = None
    found = packed_attention(module, q, k, v, None, pack_lengths=lengths)[0]
    parts = [x.split(lengths, 2) for x in (q, k, v)]
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
            for one in zip(*parts, strict=True)
        ],
        2,
    ).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(found.shape)
    for a, b in zip(
        *(torch.autograd.grad((x * weight).sum(), [q, k, v]) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
