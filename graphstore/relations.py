"""Relations: for each tail a row of heads, over one shared array.

`neighbors(v) = indices[begin[v]:end[v]]`, less v itself where `rank[v] < end[v] − begin[v]`. In the
`csr` layout rows are disjoint (begin, end are two views of indptr, and there is no rank); in the
`prefix` layout the rows of a group are prefixes of the group's list in (time, node number) order.

Legend: N nodes of the destination type, E edges, M members of groups, T tails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numba import njit

from netgpt.graphstore.arrays import ArrayWriter, write_array
from netgpt.graphstore.schema import EdgeType, Origin, edge_name

Layout = Literal["csr", "prefix"]
BLOCK_EDGES = 1 << 24
"""Edges that are held at once where rows are written out one after another."""


@njit(cache=True, nogil=True)
def _copy_rows(
    indices: np.ndarray, begin: np.ndarray, end: np.ndarray, rank: np.ndarray, out: np.ndarray
) -> None:
    """The rows one after another, less the own node of each: out [degrees of the rows, summed]."""
    # Number by number: an assignment between slices is made by way of a copy, as they may overlap
    place = 0
    for v in range(len(begin)):
        length = end[v] - begin[v]
        own = min(np.int64(rank[v]), length)
        row, to = indices[begin[v] : end[v]], out[place:]
        for i in range(own):
            to[i] = row[i]
        for i in range(own, length - 1):
            to[i] = row[i + 1]
        place += own + max(0, length - own - 1)


@dataclass(frozen=True)
class Relation:
    """One relation's arrays, mapped or in memory.

    indices [≥ 0] int32 or int64: numbers of head nodes. begin, end [N] int64: half-open ranges of
    `indices`. rank [N] int32 (prefix only): position of v relative to begin[v].
    """

    edge_type: EdgeType
    layout: Layout
    indices: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    rank: np.ndarray | None = None
    time: np.ndarray | None = None
    """[E] int64 seconds, beside `indices`, of edges with times of their own: rows are in its order."""
    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[E] float32 by name, alike. In a csr relation edge number e stands at e."""

    @property
    def num_dst(self) -> int:
        return len(self.begin)

    def degree(self, ids: np.ndarray | None = None) -> np.ndarray:
        """Number of heads of each tail: [n] node numbers (default all) → [n] int64."""
        where = slice(None) if ids is None else ids
        length = np.asarray(self.end[where]) - np.asarray(self.begin[where])
        return length if self.rank is None else length - (self.rank[where] < length)

    @property
    def num_edges(self) -> int:
        return int(self.degree().sum())

    def has_one_each(self) -> bool:
        """Whether every node has one head, and node v's is edge v of `indices`."""
        num = self.num_dst
        if self.rank is not None or len(self.indices) != num:
            return False
        if num and (self.begin[-1] != num - 1 or self.end[-1] != num):
            return False
        places = np.arange(num + 1)
        return bool((self.begin == places[:-1]).all() and (self.end == places[1:]).all())

    def part_of(self, v: int) -> tuple[Relation, int]:
        """The relation whose arrays have a tail's row, and the row's number there."""
        return self, v

    def neighbors(self, v: int) -> np.ndarray:
        """Heads of the edges that end in v, in row order: [degree] node numbers."""
        row = np.asarray(self.indices[self.begin[v] : self.end[v]])
        if self.rank is not None and self.rank[v] < len(row):
            row = np.delete(row, self.rank[v])
        return row

    @cached_property
    def first_edge(self) -> np.ndarray:
        """Number of each row's first edge: [N + 1] int64, the degrees summed up.

        Edge `first_edge[v] + i` has the head `neighbors(v)[i]` and the tail v, in both layouts.
        """
        first = np.zeros(self.num_dst + 1, np.int64)
        np.cumsum(self.degree(), out=first[1:])
        return first

    def heads_of(self, first: int, last: int) -> np.ndarray:
        """Heads of the rows first to last, one row behind the other: [their degrees, summed]."""
        begin, end = np.asarray(self.begin[first:last]), np.asarray(self.end[first:last])
        # In a csr row nothing is the own node's place: a rank behind the row says so
        rank = end - begin if self.rank is None else np.asarray(self.rank[first:last])
        heads = np.empty(int((end - begin - (rank < end - begin)).sum()), self.indices.dtype)
        _copy_rows(self.indices, begin, end, rank, heads)
        return heads

    def row_blocks(self, max_edges: int = BLOCK_EDGES) -> Iterator[np.ndarray]:
        """Heads of all edges by number, in pieces of whole rows: `max_edges` at most, or one longer row."""
        first, row = self.first_edge, 0
        while row < self.num_dst:
            last = int(np.searchsorted(first, first[row] + max_edges, side="right")) - 1
            last = max(last, row + 1)
            yield self.heads_of(row, last)
            row = last

    def to_csr(self, dtype: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """The same rows, disjoint: indptr [N + 1] int64 and indices [E], of a dtype (default: as here)."""
        indices, place = np.empty(self.first_edge[-1], dtype or self.indices.dtype), 0
        for heads in self.row_blocks():
            indices[place : place + len(heads)] = heads
            place += len(heads)
        return self.first_edge, indices


def write_relation(root: Path, relation: Relation, layout: Layout) -> Layout:
    """Write a relation's arrays; returns the layout that they have.

    A `prefix` relation is written as `csr` where that is asked for, row after row, and never held whole.
    A `csr` relation stays one.
    """
    folder = f"edges/{edge_name(relation.edge_type)}"
    for name, values in relation.numbers.items():
        write_array(root, f"{folder}/numbers/{name}", values)
    if layout == "prefix" and relation.rank is not None:
        for name, values in (
            ("indices", relation.indices),
            ("begin", relation.begin),
            ("end", relation.end),
            ("rank", relation.rank),
        ):
            write_array(root, f"{folder}/{name}", values)
        return "prefix"
    write_array(root, f"{folder}/indptr", relation.first_edge)
    with ArrayWriter(root, f"{folder}/indices", relation.indices.dtype) as indices:
        for heads in relation.row_blocks():
            indices.append(heads)
    return "csr"


def from_indptr(edge_type: EdgeType, indptr: np.ndarray, indices: np.ndarray) -> Relation:
    return Relation(edge_type, "csr", indices, indptr[:-1], indptr[1:])


def csr_from_pairs(heads: np.ndarray, tails: np.ndarray, num_dst: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows by tail from an edge list [E], [E]; a row keeps the list's order. → indptr, indices int32."""
    indptr = np.zeros(num_dst + 1, np.int64)
    np.cumsum(np.bincount(tails, minlength=num_dst), out=indptr[1:])
    order = np.argsort(tails, kind="stable")
    return indptr, heads[order].astype(np.int32)


@dataclass(frozen=True)
class PrefixRows:
    """Group lists and the rows of tails in them: `indices` [M], `begin`, `end`, `rank` [T]."""

    indices: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    rank: np.ndarray


def prefix_rows(key: np.ndarray, time: np.ndarray, *, strict: bool) -> PrefixRows:
    """Rows of "an earlier member of the same group" for all N nodes.

    key [N] int: group of each node, −1 for none. time [N] int64: sampling dates. The head's time is
    not after the tail's (`strict`: before it). Rows are in (time, node number) order.
    """
    num_nodes = len(key)
    member = np.flatnonzero(key >= 0)
    order = member[np.lexsort((member, time[member], key[member]))]
    begin = np.zeros(num_nodes, np.int64)
    end = np.zeros(num_nodes, np.int64)
    rank = np.zeros(num_nodes, np.int32)
    if len(order):
        position = np.arange(len(order))
        sorted_key, sorted_time = key[order], time[order]
        new_group = np.r_[True, sorted_key[1:] != sorted_key[:-1]]
        new_day = new_group | np.r_[True, sorted_time[1:] != sorted_time[:-1]]
        group_start = position[new_group][np.cumsum(new_group) - 1]
        day = np.cumsum(new_day) - 1
        day_start = position[new_day]
        day_end = np.r_[day_start[1:], len(order)]
        begin[order] = group_start
        end[order] = day_start[day] if strict else day_end[day]
        rank[order] = position - group_start
    return PrefixRows(order.astype(np.int32 if num_nodes <= 2**31 else np.int64), begin, end, rank)


def group_relation(edge_type: EdgeType, key: np.ndarray, time: np.ndarray, *, strict: bool) -> Relation:
    """The relation that `prefix_rows` makes of the nodes' keys and times, [N] each."""
    rows = prefix_rows(key, time, strict=strict)
    return Relation(edge_type, "prefix", rows.indices, rows.begin, rows.end, rows.rank)


def link_pairs(
    origin: Origin, parents: np.ndarray, first_child: int, values: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Nodes that come from others, and those that they come from: children [E] and parents [E].

    parents [n]: node numbers whose children are asked for. values: codes of the parents' category [n], −1
    for none, or of the rows of a child table, numbered from `first_child` on, the parents' numbers.
    """
    if values is None:
        assert origin == "each"
        return parents, parents
    if origin == "values":
        return values[values >= 0], parents[values >= 0]
    return first_child + np.arange(len(values)), values
