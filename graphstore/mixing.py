"""Numbers from numbers, by hashes that are the same on every machine: what splits, samples and seeds are
functions of."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

SOURCE = Path(__file__).read_bytes()
"""What is compiled into others' functions: a part of the key of their caches."""
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31 = np.uint64(27), np.uint64(30), np.uint64(31)


def mix(x: Any) -> Any:
    """Finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators"), of one
    uint64 or of an array of them."""
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from any parts."""
    text = "|".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1
