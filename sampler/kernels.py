"""Numba kernels: sample rows without replacement, and relabel node numbers to positions.

Randomness is counter-based: draw i of a row is a hash of (key, node, i), where the key holds the
seed, the epoch and the relation's name. Nothing else enters, so a row's sample is the same in every
batch, thread, process, layout and machine.

Legend: T tails (rows to sample), E sampled edges, K fanout.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numba import njit

from graphstore.schema import EdgeType, edge_name

GENERATOR = "splitmix64-floyd-1"
"""Name and version of the generator: kept with a run, since another would draw other samples."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S27, _S30, _S31, _S32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)
_ONE = np.uint64(1)


@njit(cache=True, nogil=True, inline="always")
def _mix(x):  # type: ignore[no-untyped-def]
    """Finaliser of SplitMix64 (Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators")."""
    x = (x ^ (x >> _S30)) * _MIX_1
    x = (x ^ (x >> _S27)) * _MIX_2
    return x ^ (x >> _S31)


def row_key(seed: int, epoch: int, edge_type: EdgeType) -> np.uint64:
    """Key of all rows of a relation in an epoch; the relation enters by its names, not its index."""
    text = f"{GENERATOR}|{seed}|{epoch}|{edge_name(edge_type)}"
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))


@njit(cache=True, nogil=True)
def sample_rows(indices, begin, end, rank, tails, key, fanout):  # type: ignore[no-untyped-def]
    """Sample up to `fanout` heads of each tail, uniformly and without replacement.

    indices, begin, end, rank: a relation's arrays (rank of length 0 for csr). tails [T] int64 node
    numbers. Returns heads [E] int64 node numbers, row by row, and counts [T]. Rows of at most `fanout`
    heads come whole and in row order; others by Floyd's algorithm (Bentley and Floyd, "A Sample of
    Brilliance"), in the order of its draws.
    """
    num = len(tails)
    counts = np.empty(num, np.int64)
    total = 0
    for i in range(num):
        v = tails[i]
        degree = end[v] - begin[v]
        if len(rank) and rank[v] < degree:
            degree -= 1
        counts[i] = min(degree, fanout)
        total += counts[i]
    heads = np.empty(total, np.int64)
    chosen = np.empty(fanout, np.int64)
    at = 0
    for i in range(num):
        v = tails[i]
        start = begin[v]
        degree = end[v] - start
        own = degree  # position of v itself in its row; behind the row where it is not in it
        if len(rank) and rank[v] < degree:
            own = np.int64(rank[v])
            degree -= 1
        k = counts[i]
        if degree <= fanout:
            for p in range(k):
                heads[at + p] = indices[start + p + (p >= own)]
        else:
            state = _mix(key ^ _mix(np.uint64(v) * _GOLDEN + _ONE))
            for n in range(k):
                j = degree - k + n
                state_n = _mix(state + np.uint64(n + 1) * _GOLDEN)
                # 32 random bits times the bound: the bias is below degree / 2**32
                p = np.int64(((state_n >> _S32) * np.uint64(j + 1)) >> _S32)
                for m in range(n):
                    if chosen[m] == p:
                        p = j
                        break
                chosen[n] = p
                heads[at + n] = indices[start + p + (p >= own)]
        at += k
    return heads, counts


@njit(cache=True, nogil=True)
def relabel(ids, position, nodes, num_nodes):  # type: ignore[no-untyped-def]
    """Positions of node numbers in `nodes`, adding those that are new at its end.

    ids [E] int64; position: a table over all nodes of the type, −1 where absent; nodes: a buffer with
    room for len(ids) more. Returns positions [E] int64 and the new number of nodes.
    """
    out = np.empty(len(ids), np.int64)
    for i in range(len(ids)):
        v = ids[i]
        p = position[v]
        if p < 0:
            p = num_nodes
            position[v] = p
            nodes[num_nodes] = v
            num_nodes += 1
        out[i] = p
    return out, num_nodes
