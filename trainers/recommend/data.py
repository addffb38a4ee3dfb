"""What a recommender learns from and is measured on: a store's pairs by part, and what items have.

Legend: U users, I items, n pairs, F width of a modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from netgpt.graphstore import EdgeType, Graph, Store
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.pairs import Pairs

PARTS = ("train", "val", "test")


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
        if relation is None or not isinstance(graph, Store):
            where = getattr(graph, "path", "graph")
            raise TrainerError(
                f"{where}: found no pairs that are held out of the edges, expected a store of pairs of users "
                "and items (dataset: interactions)"
            )
        user, _, item = edge_type = relation.edge_type
        num_users, num_items = graph.num_nodes[user], graph.num_nodes[item]
        first, heads = graph.relation(edge_type).to_csr()
        items_of_train = np.repeat(np.arange(len(first) - 1), np.diff(first))
        none = np.empty(0, np.int64)
        val, test = (
            Pairs.of(np.asarray(users), np.asarray(items), num_users, num_items)
            for users, items in (
                graph.held(edge_type, part) if part in relation.held else (none, none) for part in PARTS[1:]
            )
        )
        train = Pairs.of(np.asarray(heads), items_of_train, num_users, num_items)
        return Interactions(edge_type, train, val, test, graph)

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
        x = self.features(modality).astype(np.float64)
        there = x[self.train.num_by_item > 0]
        spread = there.std(axis=0)
        return ((x - there.mean(axis=0)) / np.where(spread > 0, spread, np.inf)).astype(np.float32)

    @cached_property
    def history(self) -> tuple[np.ndarray, np.ndarray]:
        """Each user's items of train in the order of their times: indptr [U + 1] and items [n]. Ties, and
        pairs without times, are in the order of the items' numbers."""
        user, name, item = self.edge_type
        reverse: Any = (item, f"rev_{name}", user)
        relation = self.store.relation(reverse) if reverse in self.store.edge_types else None
        if relation is None or relation.time is None:
            return self.train.indptr, self.train.items
        indptr, items = relation.to_csr()
        return np.asarray(indptr), np.asarray(items, np.int64)
