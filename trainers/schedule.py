"""Learning rate and randomness as functions of the step, so that nothing but the step is resumed."""

from __future__ import annotations

import math

import torch

from netgpt.graphstore.mixing import seed_of

WARMUP_SHARE = 0.05


def learning_rate(
    peak: float, step: int, num_steps: int, *, warmup_share: float = WARMUP_SHARE, decays: bool = True
) -> float:
    """Linear warm-up over the first share of steps, then half a cosine to zero, or no change."""
    warmup = max(1, round(warmup_share * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    if not decays:
        return peak
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def seed_torch(*parts: int | str) -> None:
    """Seed torch's generators (dropout, initial weights) from any parts."""
    torch.manual_seed(seed_of(*parts))
