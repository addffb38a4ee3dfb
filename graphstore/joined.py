"""What a store has, followed by what new rows have, as one: nothing of the store's is copied before all of it
is asked for at once.

Legend: N nodes of a type in the store, M new ones, n of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import overload

import numpy as np

from netgpt.graphstore.features import Features
from netgpt.graphstore.relations import Relation

_BEHIND = np.iinfo(np.int32).max
"""A rank behind every row's end: there is no own node in the row."""


class JoinedStrings(Sequence[str]):
    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self._first)
        return self._first[index] if index < n else self._second[index - n]

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


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
