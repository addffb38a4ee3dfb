"""Negatives of pairs: nodes that a tail has no edge to, as functions of a key and a pair's number.

Legend: B pairs, K negatives of each, p positives.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from netgpt.graphstore import EdgeType
from netgpt.sampler.kernels.generator import row_key
from netgpt.sampler.kernels.links import alias_table, draw_negatives

NEGATIVES = "links-1"
"""Name and version of the rule by which negatives are drawn."""
DEGREE_POWER = 0.75
Draw = Literal["uniform", "degree", "earlier"]
"""All nodes alike; by degree to the power 0.75; those alike that have an edge before a pair's own time."""
Candidates = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Nodes in the order in which they are drawn from ([0]: that of their numbers), shares and aliases of
weighted ones ([0]: all alike), and first times of those in the order of them ([0]: no matter)."""


def negatives_key(seed: int, epoch: int, edge_type: EdgeType) -> np.uint64:
    """Key of the draws of negatives of a relation's edges in an epoch."""
    src, name, dst = edge_type
    return row_key(seed, epoch, (src, f"{NEGATIVES}|{name}", dst))


def candidates(draw: Draw, heads: np.ndarray, num_heads: int, times: np.ndarray | None = None) -> Candidates:
    """What negatives are drawn from. heads [p]: of the positives, with their times [p] for `earlier`."""
    none = np.empty(0, np.int64)
    if draw == "uniform":
        return none, none, none, none
    if draw == "degree":
        return *by_degree(np.bincount(heads, minlength=num_heads)), none
    assert times is not None
    first = np.full(num_heads, np.iinfo(np.int64).max)
    np.minimum.at(first, heads, times)
    order = np.argsort(first, kind="stable")
    order = order[: int((first < np.iinfo(np.int64).max).sum())]
    return order, none, none, first[order]


def drawn_negatives(
    key: np.uint64,
    numbers: np.ndarray,
    tails: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    among: Candidates,
    num_heads: int,
    num: int,
    *,
    times: np.ndarray | None = None,
    is_one_type: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Negatives of pairs: [B, num] int64, and for which there are any, [B] bool.

    numbers [B]: what a pair's draws depend on, besides the key; rows: heads of each tail, ascending: indptr
    and heads; times [B]: of the pairs, where candidates are those of before.
    """
    order, share, alias, first = among
    if times is not None:
        bounds = np.searchsorted(first, times, side="left").astype(np.int64)
    else:
        bounds = np.full(len(numbers), len(order) if len(order) else num_heads)
    out = np.full((len(numbers), num), -1, np.int64)
    found = draw_negatives(key, numbers, tails, bounds, *rows, order, share, alias, is_one_type, out)
    return out, found


def by_degree(degree: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Candidates of a draw that is weighted by degree [n] to the power 0.75: the nodes that have one, and
    their shares and aliases."""
    order = np.flatnonzero(degree)
    return order, *alias_table(degree[order].astype(np.float64) ** DEGREE_POWER)


def uniform_negatives(
    key: np.uint64,
    numbers: np.ndarray,
    tails: np.ndarray,
    rows: tuple[np.ndarray, np.ndarray],
    num_heads: int,
    num: int,
    *,
    is_one_type: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """`drawn_negatives` of all nodes of the heads' type alike."""
    among = candidates("uniform", rows[1], num_heads)
    return drawn_negatives(key, numbers, tails, rows, among, num_heads, num, is_one_type=is_one_type)
