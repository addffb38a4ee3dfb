"""Learning rate and randomness as functions of the step, so that nothing but the step is resumed."""

from __future__ import annotations

import hashlib
import math

import torch

WARMUP_SHARE = 0.05


def learning_rate(peak: float, step: int, num_steps: int) -> float:
    """Linear warm-up over the first 5% of steps, then half a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * num_steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any parts."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def seed_torch(*parts: int | str) -> None:
    """Seed torch's generators (dropout, initial weights) from any parts."""
    torch.manual_seed(seed_of(*parts))
