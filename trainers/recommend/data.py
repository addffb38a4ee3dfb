"""What a recommender learns from and is measured on: a store's pairs by part, and what items have.

Legend: U users, I items, n pairs, F width of a modality.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from netgpt.graphstore import EdgeType, Graph, Store
from netgpt.graphstore.mixing import seed_of
from netgpt.sampler.kernels.links import sort_rows
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.pairs import Pairs, pair_hashes

_ROWS = 1 << 16
"""Of features, held as float64 at once."""


@dataclass(frozen=True)
class Interactions:
    """Pairs of a store, each part read when it is first asked for. Models are given `train` and what items
    have; the rest is for measuring."""

    edge_type: EdgeType
    """From users to items."""
    store: Store

    @staticmethod
    def of(graph: Graph) -> Interactions:
        """TrainerError where a graph has no pairs that are held out."""
        for relation in graph.schema.relations:
            found = Interactions(relation.edge_type, graph) if isinstance(graph, Store) else None
            if found is not None and "test" in relation.held and found.reverse in graph.edge_types:
                return found
        where = getattr(graph, "path", "graph")
        raise TrainerError(
            f"{where}: found no pairs that are held out of the edges, expected a store of pairs of users "
            "and items (dataset: interactions)"
        )

    @property
    def reverse(self) -> EdgeType:
        """From items to users: its rows are each user's items."""
        user, name, item = self.edge_type
        return item, f"rev_{name}", user

    @property
    def num_users(self) -> int:
        return self.store.num_nodes[self.user_type]

    @property
    def num_items(self) -> int:
        return self.store.num_nodes[self.item_type]

    @cached_property
    def train(self) -> Pairs:
        indptr, items = self.store.relation(self.reverse).to_csr(np.int64)
        sort_rows(indptr, items)  # a copy, ours: in the store they are in the order of their times
        return Pairs(indptr, items, self.num_items)

    @cached_property
    def times(self) -> np.ndarray | None:
        """[n] int64 seconds beside `train`; None of pairs without times."""
        relation = self.store.relation(self.reverse)
        if relation.time is None:
            return None
        indptr, items = relation.to_csr(np.int64)
        order = np.lexsort((items, np.repeat(np.arange(self.num_users), np.diff(indptr))))
        return np.asarray(relation.time)[order]

    @cached_property
    def val(self) -> Pairs:
        return self._held("val")

    @cached_property
    def test(self) -> Pairs:
        return self._held("test")

    def _held(self, part: str) -> Pairs:
        users = items = np.empty(0, np.int64)
        if part in self.store.schema.relation_type(self.edge_type).held:
            users, items = map(np.asarray, self.store.held(self.edge_type, part))
        return Pairs.of(users, items, self.num_users, self.num_items)

    @property
    def user_type(self) -> str:
        return self.edge_type[0]

    @property
    def item_type(self) -> str:
        return self.edge_type[2]

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
        """Each user's items of train in the order of their times: indptr [U + 1] and items [n]. Ties are in
        the order of the items' numbers.

        Pairs without times are in an order by a hash of user and item. Not in that of numbers: a file often
        numbers items as they came, and then whatever was held out comes last.
        """
        relation = self.store.relation(self.reverse)
        if relation.time is None:
            train = self.train
            keys = pair_hashes(train.users, train.items, seed_of("history"))
            return train.indptr, train.items[np.lexsort((keys, train.users))]
        indptr, items = relation.to_csr()
        return np.asarray(indptr), np.asarray(items, np.int64)
