"""Counter-based randomness: draw i of a row is a hash of (key, node, i).

The key holds the seed, the epoch and the relation's name. Nothing else enters, so a row's sample is
the same in every batch, thread, process, layout and machine.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit

from netgpt.graphstore import mixing
from netgpt.graphstore.mixing import GOLDEN
from netgpt.graphstore.schema import EdgeType, edge_name

GENERATOR = "splitmix64-floyd-1"
"""Name and version of the generator: kept with a run, since another would draw other samples."""

MAX_DEGREE = 1 << 32
"""Rows are shorter than this: a draw has 32 bits."""

_S32, _ONE = np.uint64(32), np.uint64(1)
mix = njit(inline="always")(mixing.mix)
"""One uint64 from another: see there."""


def row_key(seed: int, epoch: int, edge_type: EdgeType) -> np.uint64:
    """Key of all rows of a relation in an epoch; the relation enters by its names, not its index."""
    text = f"{GENERATOR}|{seed}|{epoch}|{edge_name(edge_type)}"
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


@njit(inline="always")
def row_state(key, v):  # type: ignore[no-untyped-def]
    """Where the draws of node v's row start, from the relation's key (uint64)."""
    return mix(key ^ mix(np.uint64(v) * GOLDEN + _ONE))


@njit(inline="always")
def draw(state, i, bound):  # type: ignore[no-untyped-def]
    """Draw i of a row: an int64 from 0 to bound − 1, bound ≤ 2**32.

    32 random bits times the bound: the bias is below bound / 2**32.
    """
    return np.int64(((mix(state + np.uint64(i + 1) * GOLDEN) >> _S32) * np.uint64(bound)) >> _S32)
