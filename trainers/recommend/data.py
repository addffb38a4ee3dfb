"""What a recommender learns from and is measured on: a store's pairs by part, and what items have.

Legend: U users, I items, n pairs, F width of a modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netgpt.graphstore import EdgeType, Graph, Store
from netgpt.sampler.kernels.links import sort_rows
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.pairs import Pairs

PARTS = ("train", "val", "test")
_ROWS = 1 << 16
"""Of features, held as float64 at once."""


@dataclass(frozen=True)
class Interactions:
    """Pairs of a store. Models are given `train` and what items have; the rest is for measuring."""

    edge_type: EdgeType
    """From users to items."""
    train: Pairs
    val: Pairs
    test: Pairs
    store: Store

    @staticmethod
    def of(graph: Graph) -> Interactions:
        """TrainerError where a graph has no pairs that are held out."""
        relation = next((r for r in graph.schema.relations if "test" in r.held), None)
        if relation is not None:
            user, name, item = relation.edge_type
            relation = relation if (item, f"rev_{name}", user) in graph.edge_types else None
        if relation is None or not isinstance(graph, Store):
            where = getattr(graph, "path", "graph")
            raise TrainerError(
                f"{where}: found no pairs that are held out of the edges, expected a store of pairs of users "
                "and items (dataset: interactions)"
            )
        user, name, item = edge_type = relation.edge_type
        num_users, num_items = graph.num_nodes[user], graph.num_nodes[item]
        # The rows of users, from the reverse: each user's items in the order of their times
        indptr, items = graph.relation((item, f"rev_{name}", user)).to_csr(np.int64)
        sort_rows(indptr, items)  # a copy, ours
        none = np.empty(0, np.int64)
        val, test = (
            Pairs.of(np.asarray(users), np.asarray(items), num_users, num_items)
            for users, items in (
                graph.held(edge_type, part) if part in relation.held else (none, none) for part in PARTS[1:]
            )
        )
        return Interactions(edge_type, Pairs(indptr, items, num_items), val, test, graph)

    @property
    def user_type(self) -> str:
        return self.edge_type[0]

    @property
    def item_type(self) -> str:
        return self.edge_type[2]

    def part(self, name: str) -> Pairs:
        """Of train, val or test."""
        pairs: Pairs = {"train": self.train, "val": self.val, "test": self.test}[name]
        return pairs

    @cached_property
    def modalities(self) -> tuple[str, ...]:
        """Node types with features of which there is one for each item: text, image, …"""
        return tuple(
            node.name
            for node in self.store.schema.node_types
            if node.origin == "each" and node.of == self.item_type and node.encoding != "none"
        )

    def features(self, modality: str) -> np.ndarray:
        """[I, F] float32 as the store has them."""
        x = self.store.features(modality)
        return np.asarray(x.gather(np.arange(x.num_nodes)), np.float32)

    def standardized(self, modality: str) -> np.ndarray:
        """[I, F] float32: of each dimension the mean and the spread of the items that occur in train are 0
        and 1; one that does not change is 0."""
        x, there = self.features(modality), np.flatnonzero(self.train.num_by_item)
        blocks = [there[first : first + _ROWS] for first in range(0, len(there), _ROWS)]
        num = max(1, len(there))
        mean = sum((x[block].sum(axis=0, dtype=np.float64) for block in blocks), np.zeros(x.shape[1])) / num
        squares = (((x[block] - mean) ** 2).sum(axis=0) for block in blocks)
        spread = np.sqrt(sum(squares, np.zeros(x.shape[1])) / num)
        x -= mean.astype(np.float32)
        x /= np.where(spread > 0, spread, np.inf).astype(np.float32)
        return x

    @cached_property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Each user's items of train in the order of their times: indptr [U + 1] and items [n]. Ties, and
        pairs without times, are in the order of the items' numbers."""
        user, name, item = self.edge_type
        relation = self.store.relation((item, f"rev_{name}", user))
        if relation.time is None:
            return self.train.indptr, self.train.items
        indptr, items = relation.to_csr()
        return np.asarray(indptr), np.asarray(items, np.int64)
