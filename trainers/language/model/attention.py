"""Attention over a pack, sample by sample.

Registered with transformers under one name. Each sample's tokens attend among themselves alone by
construction: no mask of the pack's size, no work between samples, and no dependence on how a model
reads position ids. On a GPU one variable-length kernel does all samples of the pack; on a CPU, which
has none, each sample is a call of its own, and no token is padding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

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
    **_: Any,  # transformers passes more than any one implementation reads
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] → [1, L, heads, d].

    `pack_lengths`: tokens of each sample, in order, L in all. Causal inside each sample.
    `pack_offsets` [n + 1] int32 on the device: where samples begin, and L; for the GPU's kernel.
    """
    shared = key.shape[1] != query.shape[1]
    # The kernel has half precision alone, and no dropout
    if query.is_cuda and query.dtype != torch.float32 and pack_offsets is not None and dropout == 0:
        return _variable_length(query, key, value, pack_lengths, pack_offsets, scaling, shared), None
    parts = [
        F.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=scaling, dropout_p=dropout, enable_gqa=shared
        )
        for q, k, v in zip(
            query.split(pack_lengths, dim=2),
            key.split(pack_lengths, dim=2),
            value.split(pack_lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(parts, dim=2).transpose(1, 2), None


def _variable_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    offsets: torch.Tensor,
    scaling: float | None,
    shared: bool,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))  # [L, heads, d]
    longest = max(lengths)
    out = varlen_attn(
        *(q, k, v, offsets, offsets, longest, longest),
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=shared,
    )
    assert isinstance(out, torch.Tensor)
    return out[None]


def register() -> None:
    """Make the implementation known to transformers; no mask is made for it. Safe to call again."""
    AttentionInterface.register(NAME, packed_attention)
