"""Attention over a pack, sample by sample.

Registered with transformers under one name. Each sample's tokens attend among themselves alone by
construction: no mask of the pack's size, no work between samples, and no dependence on how a model
reads position ids. On a GPU one variable-length kernel does all samples of the pack; on a CPU, which
has none, `blocks.py` does them one after the other. No sample is padded to another's length.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

from netgpt.trainers.language.model.blocks import Span, block_attention, seen

NAME = "netgpt_packed"


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    pack_lengths: list[int],
    pack_offsets: torch.Tensor | None = None,
    pack_prefix: torch.Tensor | None = None,
    pack_forks: list[tuple[int, int]] | None = None,
    **_: Any,  # transformers passes more than any one implementation reads
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] → [1, L, heads, d].

    `pack_lengths`: tokens of each sample, in order, L in all. Causal inside each sample.
    `pack_offsets` [n + 1] int32 on the device: where samples begin, and L; for the GPU's kernel.
    `pack_prefix` [layers, 2, kv_heads, P, d]: keys and values that every token sees before its sample's.
    `pack_forks`: of samples with two answers the lengths of the prompt, and of both prompt and first answer.
    """
    shared = key.shape[1] != query.shape[1]
    before = None
    if pack_prefix is not None:  # of this layer
        before = pack_prefix[module.layer_idx].to(key.dtype)  # type: ignore[index]
    # The kernel has half precision alone, and no dropout
    if query.is_cuda and query.dtype != torch.float32 and pack_offsets is not None and dropout == 0:
        spans = None if before is None and pack_forks is None else _spans(pack_lengths, pack_forks)
        out = _variable_length(query, key, value, pack_lengths, pack_offsets, scaling, shared, spans, before)
        return out, None
    if query.device.type == "cpu" and query.dtype == torch.float32 and dropout == 0:
        scale = query.shape[3] ** -0.5 if scaling is None else scaling
        spans = _spans(pack_lengths, pack_forks)
        return block_attention(query[0], key[0], value[0], before, spans, scale)[None], None
    parts = []
    for asked, ranges in _spans(pack_lengths, pack_forks):
        q = query[:, :, slice(*asked)]
        k, v = (
            seen(x[0], ranges, None if before is None else before[i])[None]
            for i, x in enumerate((key, value))
        )
        aligned = q.shape[2] == k.shape[2]
        parts.append(
            F.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if aligned else _lower_right(q.shape[2], k.shape[2], q.device),
                is_causal=aligned,
                scale=scaling,
                dropout_p=dropout,
                enable_gqa=shared,
            )
        )
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _spans(lengths: list[int], forks: list[tuple[int, int]] | None) -> list[Span]:
    """Each sample; of one with two answers the prompt with the first, and the second behind the prompt."""
    spans: list[Span] = []
    begin = 0
    for i, length in enumerate(lengths):
        end = begin + length
        if forks is None:
            spans.append(((begin, end), [(begin, end)]))
        else:
            prompt, second = begin + forks[i][0], begin + forks[i][1]
            spans.append(((begin, second), [(begin, second)]))
            spans.append(((second, end), [(begin, prompt), (second, end)]))
        begin = end
    return spans


def _lower_right(num: int, keys: int, device: torch.device) -> torch.Tensor:
    """Which keys each of the last tokens sees: [num, keys] bool."""
    return torch.ones(num, keys, dtype=torch.bool, device=device).tril(keys - num)


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    offsets: torch.Tensor,
    scaling: float | None,
    shared: bool,
    spans: list[Span] | None,
    before: torch.Tensor | None,
) -> torch.Tensor:
    """spans: None for samples of one answer each, without a prefix `before` [2, heads, P, d]."""
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [L, heads, d]
    longest = longest_k = max(lengths)
    offsets_k = offsets
    if spans is not None:
        parts = [[], []]  # type: list[list[torch.Tensor]]
        for _, ranges in spans:
            for i, x in enumerate((key, value)):
                parts[i].append(seen(x[0], ranges, None if before is None else before[i]).transpose(0, 1))
        k, v = (torch.cat(one) for one in parts)
        asked = [end - begin for (begin, end), _ in spans]
        offsets, offsets_k = (
            torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32, device=q.device)
            for sizes in (asked, [len(one) for one in parts[0]])
        )
        longest, longest_k = max(asked), max(len(one) for one in parts[0])
    out = varlen_attn(
        *(q, k, v, offsets, offsets_k, longest, longest_k),
        scale=scaling,
        window_size=(-1, 0),  # causal, the last token of both at one place
        enable_gqa=shared,
    )
    assert isinstance(out, torch.Tensor)
    return out[None]


def register() -> None:
    """Make the implementation known to transformers; no mask is made for it. Safe to call again."""
    AttentionInterface.register(NAME, packed_attention)
