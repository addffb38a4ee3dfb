"""Attention over a pack, sample by sample.

Registered with transformers under one name. Each sample's tokens attend among themselves alone by
construction: no mask of the pack's size, no work between samples, and no dependence on how a model
reads position ids. On CUDA the same ranges go to a variable-length kernel where there is one.
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
    **_: Any,  # transformers passes more than any one implementation reads
) -> tuple[torch.Tensor, None]:
    """query [1, heads, L, d], key and value [1, kv_heads, L, d] → [1, L, heads, d].

    `pack_lengths`: tokens of each sample, in order, L in all. Causal inside each sample.
    """
    shared = key.shape[1] != query.shape[1]
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


def register() -> None:
    """Make the implementation known to transformers; no mask is made for it. Safe to call again."""
    AttentionInterface.register(NAME, packed_attention)
