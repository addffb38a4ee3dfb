"""Features as models read them: tables that stay on the device, or rows that travel with a batch.

Legend: N nodes, F feature width.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import EdgeType, Graph, JoinedGraph
from netgpt.graphstore.features import Features
from netgpt.graphstore.joined import JoinedFeatures
from netgpt.trainers.graph.shape import ModelShape


@dataclass(frozen=True)
class DistinctRows:
    """Features of some nodes by distinct content: node i has x[row[i]], or x[i] where row is None."""

    x: Tensor
    """[rows, F] float32 on the device; of types with a learnt table [rows, 1] int64, the nodes' numbers."""
    row: Tensor | None
    """[n] int64 on the device."""


class FeatureTables:
    """The features of a graph's nodes, float32 on one device when they are asked for.

    Tables stay on the device up to `max_bytes` in all, the smallest first; of the others the distinct
    rows of a batch are read from the store's map. `hidden_types` have the zero vector for every node.
    node_types: those whose tables are wanted, by default all. Types without features have their nodes'
    numbers in place of some, or, those in `degrees`, log(1 + heads) in each of the relations given there.
    """

    def __init__(
        self,
        graph: Graph,
        device: torch.device,
        *,
        max_bytes: int | None = None,
        node_types: Collection[str] | None = None,
        hidden_types: Collection[str] = (),
        degrees: Mapping[str, tuple[EdgeType, ...]] | None = None,
    ) -> None:
        self.graph, self.device, self.hidden_types = graph, device, frozenset(hidden_types)
        self._encoded = frozenset(graph.schema.encoded_types)
        self._degree_edges = degrees or {}
        self._degrees = {name: degree_features(graph, name, e) for name, e in self._degree_edges.items()}
        self.numbered = frozenset(graph.node_types) - self._encoded - frozenset(self._degrees)
        """Node types that have numbers in place of features."""
        wanted = set(graph.node_types if node_types is None else node_types)
        features = {name: self.features(name) for name in wanted - self.hidden_types - self.numbered}
        # A GPU turns float16 into float32 for nothing; a CPU does not
        own = device.type == "cuda"
        size = {n: f.num_rows * f.dim * (f.dtype.itemsize if own else 4) for n, f in features.items()}
        self._tables: dict[str, Tensor] = {}
        left = np.inf if max_bytes is None else max_bytes
        for name in sorted(features, key=lambda name: (size[name], name)):
            left -= size[name]
            if left < 0:
                break
            x = torch.from_numpy(np.array(features[name].x))
            self._tables[name] = x.to(device) if device.type == "cuda" else x.float()

    @staticmethod
    def of(
        graph: Graph, device: torch.device, shape: ModelShape, *, max_bytes: int | None = None
    ) -> FeatureTables:
        """The features that a model of a shape reads."""
        return FeatureTables(
            graph,
            device,
            max_bytes=max_bytes,
            node_types=shape.node_types,
            hidden_types=shape.hidden_types,
            degrees={name: shape.ending_in(name) for name in shape.degree_types},
        )

    def extended(self, graph: JoinedGraph) -> FeatureTables:
        """The same of a graph that extends this one, without tables on the device."""
        made = copy.copy(self)
        made.graph, made._tables, made._degrees = graph, {}, {}
        for name, old in self._degrees.items():
            first = self.graph.num_nodes[name]
            nodes = np.arange(first, graph.num_nodes[name])
            new = degree_features(graph, name, self._degree_edges[name], nodes)
            made._degrees[name] = JoinedFeatures(old, new)
        return made

    def features(self, node_type: str) -> Features:
        """Of a type that is not one of `numbered`."""
        degrees = self._degrees.get(node_type)
        return self.graph.features(node_type) if degrees is None else degrees

    @property
    def resident(self) -> frozenset[str]:
        """Node types whose table is on the device."""
        return frozenset(self._tables)

    def dim(self, node_type: str) -> int:
        return self.features(node_type).dim

    def rows(self, node_type: str, ids: np.ndarray) -> np.ndarray:
        """Rows of the store's table: [n] node numbers → [n] int64."""
        return np.asarray(self.features(node_type).rows(ids), np.int64)

    def gather(self, node_type: str, ids: np.ndarray) -> Tensor:
        """Features of nodes: [n] node numbers → [n, F]; of `numbered` types [n, 1] int64."""
        if node_type in self.numbered:
            return torch.from_numpy(np.asarray(ids, np.int64)).to(self.device)[:, None]
        if node_type in self.hidden_types:
            return torch.zeros(len(ids), self.dim(node_type), device=self.device)
        rows = self.rows(node_type, ids)
        if node_type in self._tables:
            return self._tables[node_type][torch.from_numpy(rows).to(self.device)].float()
        distinct, where = np.unique(rows, return_inverse=True)
        x = torch.from_numpy(np.asarray(self.features(node_type).take(distinct))).to(self.device)
        return x.float()[torch.from_numpy(where).to(self.device)]

    def contents(self, node_type: str, ids: np.ndarray) -> DistinctRows:
        """Features of nodes without a copy where that is possible: a table with the nodes' rows of it."""
        if node_type in self.hidden_types:
            x = torch.zeros(1, self.dim(node_type), device=self.device)
            return DistinctRows(x, torch.zeros(len(ids), dtype=torch.int64, device=self.device))
        table = self._tables.get(node_type)
        if table is not None and (table.dtype == torch.float32 or len(table) <= len(ids)):
            rows = torch.from_numpy(self.rows(node_type, ids)).to(self.device)
            return DistinctRows(table.float(), rows)
        return DistinctRows(self.gather(node_type, ids), None)


@dataclass(frozen=True)
class WholeContents:
    """The distinct contents of all nodes of a type, for those who need every node."""

    x: np.ndarray
    """[rows, F] of the store's dtype, mapped where the store has distinct rows; int64 of `numbered` types."""
    row: np.ndarray | None
    """[N] int: the row of each node; None: its number."""

    @staticmethod
    def of(tables: FeatureTables, node_type: str) -> WholeContents:
        num = tables.graph.num_nodes[node_type]
        if node_type in tables.numbered:
            return WholeContents(np.arange(num)[:, None], None)
        features = tables.features(node_type)
        if node_type in tables.hidden_types:
            return WholeContents(np.zeros((1, features.dim), np.float32), np.zeros(num, np.int32))
        if features.dim == 1 and features.x_row is None:
            # A number a node: few are distinct
            x, row = np.unique(np.asarray(features.x)[:, 0], return_inverse=True)
            return WholeContents(x[:, None], row.astype(np.int32))
        return WholeContents(features.x, None if features.x_row is None else np.asarray(features.x_row))


def degree_features(
    graph: Graph, node_type: str, edge_types: Collection[EdgeType], nodes: np.ndarray | None = None
) -> Features:
    """log(1 + heads) of every node, or of some [n], in each relation that ends in its type: [N, R] float32;
    one zero where there is no such relation."""
    num = graph.num_nodes[node_type] if nodes is None else len(nodes)
    counts = [graph.relation(e).degree(nodes) for e in edge_types] or [np.zeros(num)]
    x_NR = np.log1p(np.stack(counts, 1).astype(np.float64)).astype(np.float32)
    return Features(len(x_NR), x_NR, None)
