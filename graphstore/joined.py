"""What a store has, followed by what new rows have, as one: nothing of the store's is copied before all of it
is asked for at once.

Legend: N nodes of a type in the store, M new ones, n of either.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Self

import numpy as np

from netgpt.graphstore.arrays import Texts
from netgpt.graphstore.dataset import Dataset
from netgpt.graphstore.features import Features
from netgpt.graphstore.relations import Relation, from_indptr
from netgpt.graphstore.schema import EdgeType
from netgpt.graphstore.store import Graph, unknown_relation

_BEHIND = np.iinfo(np.int32).max
"""A rank behind every row's end: there is no own node in the row."""


class JoinedStrings(Texts):
    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    def at(self, index: int) -> str:
        n = len(self._first)
        return self._first[index] if index < n else self._second[index - n]

    def __iter__(self) -> Iterator[str]:
        return (self.at(i) for i in range(len(self)))


class JoinedFeatures(Features):
    """Features of N + M nodes. Rows of new contents follow the old."""

    def __init__(self, old: Features, new: Features) -> None:
        self.old, self.new = old, new
        self.num_nodes = old.num_nodes + new.num_nodes

    @property
    def dim(self) -> int:
        return self.old.dim

    @property
    def dtype(self) -> np.dtype[np.generic]:
        return self.old.dtype

    @property
    def num_rows(self) -> int:
        return self.old.num_rows + self.new.num_rows

    @cached_property
    def x(self) -> np.ndarray:  # type: ignore[override]
        return np.concatenate([self.old.x, self.new.x])

    @cached_property
    def x_row(self) -> np.ndarray | None:  # type: ignore[override]
        if self.old.x_row is None and self.new.x_row is None:
            return None
        return self.rows(np.arange(self.num_nodes))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        rows, is_new = np.empty(len(ids), np.int64), ids >= self.old.num_nodes
        rows[~is_new] = self.old.rows(ids[~is_new])
        rows[is_new] = self.old.num_rows + self.new.rows(ids[is_new] - self.old.num_nodes)
        return rows

    def take(self, rows: np.ndarray) -> np.ndarray:
        x, is_new = np.empty((len(rows), self.dim), self.dtype), rows >= self.old.num_rows
        x[~is_new] = self.old.take(rows[~is_new])
        x[is_new] = self.new.take(rows[is_new] - self.old.num_rows)
        return x


class JoinedRelation(Relation):
    """The store's rows over its own `indices`, then those of M new tails over a second part of it."""

    def __init__(self, old: Relation, new: Relation) -> None:
        """new: its tails are 0 to M − 1; its heads have the numbers of the joined graph."""
        for name, value in (("edge_type", old.edge_type), ("old", old), ("new", new)):
            object.__setattr__(self, name, value)
        layout = "csr" if old.rank is None and new.rank is None else "prefix"
        object.__setattr__(self, "layout", layout)
        # Of edges with times or numbers that are rows of a table of their own none is new
        object.__setattr__(self, "time", old.time)

    old: Relation
    new: Relation

    @cached_property
    def indices(self) -> np.ndarray:  # type: ignore[override]
        return np.concatenate([self.old.indices, self.new.indices.astype(self.old.indices.dtype)])

    @cached_property
    def begin(self) -> np.ndarray:  # type: ignore[override]
        return np.concatenate([self.old.begin, self.new.begin + len(self.old.indices)])

    @cached_property
    def end(self) -> np.ndarray:  # type: ignore[override]
        return np.concatenate([self.old.end, self.new.end + len(self.old.indices)])

    @cached_property
    def rank(self) -> np.ndarray | None:  # type: ignore[override]
        if self.old.rank is None and self.new.rank is None:
            return None
        both = (self.old, self.new)
        ranks = [np.full(r.num_dst, _BEHIND, np.int32) if r.rank is None else r.rank for r in both]
        return np.concatenate(ranks)

    @cached_property
    def numbers(self) -> dict[str, np.ndarray]:  # type: ignore[override]
        """Edge numbers of a store's part stay; the new part's follow."""
        if not self.new.numbers:
            return dict(self.old.numbers)
        return {name: np.concatenate([self.old.numbers[name], new]) for name, new in self.new.numbers.items()}

    @property
    def num_dst(self) -> int:
        return self.old.num_dst + self.new.num_dst

    def part_of(self, v: int) -> tuple[Relation, int]:
        return (self.old, v) if v < self.old.num_dst else (self.new, v - self.old.num_dst)

    def neighbors(self, v: int) -> np.ndarray:
        part, row = self.part_of(v)
        return part.neighbors(row)

    def degree(self, ids: np.ndarray | None = None) -> np.ndarray:
        if ids is None:
            return np.concatenate([self.old.degree(), self.new.degree()])
        counts, is_new = np.empty(len(ids), np.int64), ids >= self.old.num_dst
        counts[~is_new] = self.old.degree(ids[~is_new])
        counts[is_new] = self.new.degree(ids[is_new] - self.old.num_dst)
        return counts

    def heads_of(self, first: int, last: int) -> np.ndarray:
        num = self.old.num_dst
        parts = [
            part.heads_of(*span)
            for part, span in (
                (self.old, (min(first, num), min(last, num))),
                (self.new, (max(first, num) - num, max(last, num) - num)),
            )
            if span[0] < span[1]
        ]
        if not parts:
            return np.empty(0, self.old.indices.dtype)
        return np.concatenate([part.astype(self.old.indices.dtype, copy=False) for part in parts])


class JoinedGraph(Graph):
    """A store, or another graph, with new nodes in memory, numbered from N on, which none of its nodes hears.

    What makes one sets `store`, `schema`, `num_nodes`, `_relations` and `_features`.
    """

    store: Graph
    _relations: Mapping[EdgeType, Relation]
    _features: Mapping[str, Features]
    """Of types with features; those that are not there are the store's."""

    @property
    def num_old(self) -> int:
        """Nodes of the target type in the store."""
        return self.store.num_nodes[self.schema.target]

    @property
    def num_new(self) -> int:
        return self.num_nodes[self.schema.target] - self.num_old

    @property
    def new(self) -> np.ndarray:
        """Node numbers of the new nodes of the target type: [M]."""
        return np.arange(self.num_old, self.num_old + self.num_new)

    @property
    def dataset(self) -> Dataset:
        return self.store.dataset

    def check_unchanged(self) -> None:
        self.store.check_unchanged()

    def relation(self, edge_type: EdgeType) -> Relation:
        if edge_type not in self._relations:
            raise unknown_relation(self, edge_type)
        return self._relations[edge_type]

    def features(self, node_type: str) -> Features:
        return self._features[node_type] if node_type in self._features else self.store.features(node_type)

    def without_heads(self, edge_type: EdgeType, heads: Collection[int] | None = None) -> Self:
        """The same, but new nodes do not hear some heads of a relation: by default none of them."""
        joined = self.relation(edge_type)
        if not isinstance(joined, JoinedRelation):
            return self
        new = joined.new
        gone = None if heads is None else np.fromiter(heads, np.int64)
        kept = []
        for row in range(new.num_dst):
            places = np.arange(new.begin[row], new.end[row])
            if new.rank is not None:
                places = places[places != new.begin[row] + int(new.rank[row])]
            kept.append(places[:0] if gone is None else places[~np.isin(new.indices[places], gone)])
        chosen, ends = np.concatenate(kept), np.cumsum([len(places) for places in kept])
        numbers = {name: x[chosen] for name, x in new.numbers.items()}
        rows = from_indptr(edge_type, np.r_[0, ends].astype(np.int64), new.indices[chosen])
        made = copy.copy(self)
        left = JoinedRelation(joined.old, replace(rows, numbers=numbers))
        made._relations = {**self._relations, edge_type: left}
        return made

    def without_features(self) -> Self:
        """The same, but new nodes of the target have the zero vector."""
        target = self.schema.target
        joined = self.features(target)
        if not isinstance(joined, JoinedFeatures):
            return self
        x, row = np.zeros((1, joined.dim), joined.dtype), np.zeros(self.num_new, np.int64)
        made = copy.copy(self)
        zeros = JoinedFeatures(joined.old, Features(self.num_new, x, row))
        made._features = {**self._features, target: zeros}
        return made


class NodeCopies(JoinedGraph):
    """Some nodes of a graph's target type again, as new ones: they hear what those hear, and nobody hears
    them. So their embeddings are those nodes', and would be others without a head of theirs."""

    def __init__(self, store: Graph, nodes: np.ndarray) -> None:
        """nodes: [M] of the target type."""
        self.store, self.schema, target = store, store.schema, store.schema.target
        self.of = nodes
        self.num_nodes = {**store.num_nodes, target: store.num_nodes[target] + len(nodes)}
        self._relations = {e: self._again(store.relation(e)) for e in store.edge_types}
        self._features = {}
        if target in store.schema.encoded_types:
            old = store.features(target)
            self._features[target] = JoinedFeatures(old, Features(len(nodes), old.gather(nodes), None))

    def _again(self, old: Relation) -> Relation:
        if old.edge_type[2] != self.schema.target:
            return old
        rows = [old.neighbors(v) for v in self.of.tolist()]
        indptr = np.cumsum([0, *map(len, rows)])
        return JoinedRelation(
            old, from_indptr(old.edge_type, indptr, np.concatenate([old.indices[:0], *rows]))
        )
