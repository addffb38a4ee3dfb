"""The rows of a relation that retrieval makes, of a graph's features and columns.

Legend: N nodes of the type, Q tails, n distinct vectors, D width, k heads.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.features import Features
from netgpt.graphstore.nearest.kernels import unit
from netgpt.graphstore.nearest.search import Bank, Rows, Search
from netgpt.graphstore.relation_types import SCORE, Nearest, Part, RelationType, edge_name
from netgpt.graphstore.relations import Relation
from netgpt.graphstore.store import Graph

VECTORS_AT_ONCE = 4096
NEVER = np.iinfo(np.int64).max


def part_of(graph: Graph, node_type: str, part: Part | None) -> np.ndarray:
    """Which nodes of a type are of a part: [N] bool. StoreError for a value that the category has not."""
    num = graph.num_nodes[node_type]
    if part is None:
        return np.ones(num, bool)
    if part.until is not None:
        return np.asarray(graph.column(node_type, part.column)) < part.until
    codes, values = graph.category(node_type, part.column)
    known = {value: code for code, value in enumerate(values)}
    if part.value not in known:
        there = ", ".join(repr(value) for value in list(known)[:5]) or "none"
        raise StoreError(
            f"bank: found no {part.column} {part.value!r} among the nodes of {node_type}, expected one of "
            f"{there}"
        )
    return np.asarray(codes) == known[part.value]


@dataclass(frozen=True)
class _Contents:
    """What nodes are compared by, each distinct content once."""

    features: Sequence[Features]
    code: np.ndarray
    """[N] int64: the number of each node's content."""
    example: np.ndarray
    """[n] int64: a node that has it."""

    @staticmethod
    def of(graph: Graph, nearest: Nearest, num: int) -> _Contents:
        features, nodes = [graph.features(name) for name in nearest.by], np.arange(num)
        code = np.zeros(num, np.int64)
        for one in features:
            rows = _distinct(one) if one.x_row is None else np.asarray(one.x_row, np.int64)
            code = np.unique(code * one.num_rows + rows, return_inverse=True)[1]
        example = np.zeros(int(code.max(initial=-1)) + 1, np.int64)
        example[code[::-1]] = nodes[::-1]
        return _Contents(features, code, example)

    @property
    def dim(self) -> int:
        return sum(one.dim for one in self.features)

    def write(self, relation: RelationType, order: np.ndarray, out: np.ndarray) -> np.ndarray:
        """The vectors of contents in an order [n] into out [n, D] float32; which are not zero: [n] bool.

        StoreError for one with a number that is not finite.
        """
        assert relation.nearest is not None
        is_some = np.zeros(len(order), bool)
        for first in range(0, len(order), VECTORS_AT_ONCE):
            nodes = self.example[order[first : first + VECTORS_AT_ONCE]]
            rows, column = np.empty((len(nodes), self.dim), np.float32), 0
            for name, one in zip(relation.nearest.by, self.features, strict=True):
                own = np.empty((len(nodes), one.dim), np.float32)
                wrong = unit(
                    np.ascontiguousarray(one.gather(nodes), np.float32), len(self.features) ** -0.5, own
                )
                if wrong >= 0:
                    raise StoreError(
                        f"{edge_name(relation.edge_type)}: node {nodes[wrong]}: features of {name}: found a "
                        "number that is not finite, expected vectors to compare"
                    )
                rows[:, column : column + one.dim] = own
                column += one.dim
            is_some[first : first + len(nodes)] = rows.any(axis=1)
            out[first : first + len(nodes)] = rows
        return is_some


def _distinct(features: Features) -> np.ndarray:
    """The first row with the same bytes as each: [N] int64."""
    seen: dict[bytes, int] = {}
    first = np.empty(len(features.x), np.int64)
    for begin in range(0, len(first), VECTORS_AT_ONCE):
        for i, row in enumerate(np.ascontiguousarray(features.x[begin : begin + VECTORS_AT_ONCE]), begin):
            first[i] = seen.setdefault(hashlib.blake2b(row.data, digest_size=16).digest(), i)
    return first


def _firsts(code: np.ndarray, time: np.ndarray, members: np.ndarray, num: int) -> np.ndarray:
    """The earliest time of the bank's nodes with each content: [n] int64, NEVER where there is none."""
    first = np.full(num, NEVER, np.int64)
    np.minimum.at(first, code[members], time[members])
    return first


def search_of(
    graph: Graph, relation: RelationType, tails: np.ndarray | None = None, scratch: Path | None = None
) -> tuple[Search, np.ndarray]:
    """The search for the rows of some tails (default: all nodes), and those of them that have vectors: [Q].

    scratch: a file for the vectors, [n, D] float32, which has no name any more once it is mapped; else they
    are in memory. StoreError for vectors with numbers that are not finite, and for a bank that there is none
    of.
    """
    nearest, node_type = relation.nearest, relation.edge_type[2]
    assert nearest is not None
    num = graph.num_nodes[node_type]
    is_timed = bool(nearest.time)
    time = (
        np.asarray(graph.column(node_type, nearest.time), np.int64) if is_timed else np.zeros(num, np.int64)
    )
    apart = np.full(num, -1, np.int64)
    if nearest.apart:
        apart = np.asarray(graph.category(node_type, nearest.apart)[0], np.int64)
    contents = _Contents.of(graph, nearest, num)
    members = np.flatnonzero(part_of(graph, node_type, nearest.bank))
    first = _firsts(contents.code, time, members, len(contents.example))
    order = np.lexsort((contents.example, first))
    shape = (len(order), contents.dim)
    vectors = _mapped(scratch, shape) if scratch and 0 not in shape else np.empty(shape, np.float32)
    is_some = contents.write(relation, order, vectors)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    rows = place[contents.code]
    members = members[is_some[rows[members]]]
    # A vector that is zero keeps its place in the bank, without nodes
    num_bank = int(np.searchsorted(first[order], NEVER))
    members = members[np.lexsort((members, -time[members], rows[members]))]
    begin = np.searchsorted(rows[members], np.arange(num_bank + 1))
    bank = Bank(vectors, first[order][:num_bank], begin, members, time, is_timed, apart)
    asked = np.arange(num) if tails is None else tails
    asked = asked[is_some[rows[asked]]]
    return Search(bank, asked, rows[asked], nearest.k), asked


def _mapped(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A mapped float32 array over a file that has its space and, from here on, no name: the space is free
    once nobody maps it, also where this process is killed. StoreError where the disk has no room."""
    num_bytes = 4 * shape[0] * shape[1]
    with path.open("w+b") as file:
        path.unlink()
        try:
            # A mapped page without space would end the process
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        except OSError as error:
            free = shutil.disk_usage(path.parent).free
            raise StoreError(
                f"{path.parent}: found {free:,} bytes of free space, expected {num_bytes:,} for vectors "
                f"({error})"
            ) from None
        return np.memmap(file, np.float32, "r+", shape=shape)


def as_relation(
    graph: Graph, relation: RelationType, found: Rows, asked: np.ndarray, tails: np.ndarray | None = None
) -> Relation:
    """The relation of what was found of the tails that were asked for [Q]: of all tails, or of some, rising
    [T], whose rows are then 0 to T − 1."""
    num = graph.num_nodes[relation.edge_type[0]]
    tails = np.arange(num) if tails is None else tails
    degree = np.zeros(len(tails), np.int64)
    degree[np.searchsorted(tails, asked)] = found.num
    indptr = np.zeros(len(tails) + 1, np.int64)
    np.cumsum(degree, out=indptr[1:])
    counts = np.arange(found.heads.shape[1]) < found.num[:, None]
    heads = found.heads[counts].astype(np.int32 if num <= 2**31 else np.int64)
    numbers = {SCORE: found.scores[counts].astype(np.float32)}
    return Relation(relation.edge_type, "csr", heads, indptr[:-1], indptr[1:], numbers=numbers)


def nearest_rows(
    graph: Graph,
    relation: RelationType,
    tails: np.ndarray | None = None,
    *,
    threads: int | None = None,
    scratch: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Relation:
    """The relation of what is nearest, of all tails or of some, rising [T], whose rows are then 0 to T − 1.

    Rows do not depend on threads (by default as many as there are cores). See `search_of` for the rest.
    """
    search, asked = search_of(graph, relation, tails, scratch)
    return as_relation(graph, relation, search.all(threads or os.cpu_count() or 1, progress), asked, tails)
