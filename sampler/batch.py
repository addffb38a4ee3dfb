"""A sampled mini-batch: typed arrays with PyG's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import njit

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.schema import Schema
from netgpt.sampler.features import BatchFeatures

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


@njit(cache=True, nogil=True)
def _fill_edge_index(heads, degrees, index):  # type: ignore[no-untyped-def]
    at = 0
    for tail in range(len(degrees)):
        for _ in range(degrees[tail]):
            index[0, at] = heads[at]
            index[1, at] = tail
            at += 1


@dataclass(frozen=True)
class MiniBatch:
    """One sampled subgraph.

    A relation's edges are rows, as in the store: the rows of `nodes[dst]`'s first nodes, in their
    order, one behind the other. So `heads` and `degrees` say it all, in a quarter of the bytes of
    `edges`, which is made of them when it is asked for.
    """

    nodes: dict[str, np.ndarray]
    """By type [n] int64: node numbers, seeds first, then in order of discovery."""
    heads: dict[EdgeType, np.ndarray]
    """By relation [E] int32: positions in nodes[src], row after row."""
    degrees: dict[EdgeType, np.ndarray]
    """By relation [tails] int32: length of the row of each of the first nodes of nodes[dst]; all nodes
    but those of the last hop have one."""
    num_sampled_nodes: dict[str, list[int]]
    """By type hops + 1 numbers: the seeds, then each hop's new nodes."""
    num_sampled_edges: dict[EdgeType, list[int]]
    """By relation one number a hop."""
    target: str
    epoch: int
    trees: dict[str, np.ndarray] | None = None
    """By type [n] int32, for disjoint batches: which seed's subgraph a node is in."""
    edge_ids: dict[EdgeType, np.ndarray] | None = None
    """By relation [E] int64, where asked for: the edges' numbers in the store."""
    features: dict[str, BatchFeatures] | None = None
    """By type, where a loader gathers them."""

    @property
    def num_seeds(self) -> int:
        """Seeds, of whatever type: where they are of one, the first nodes of it."""
        return sum(counts[0] for counts in self.num_sampled_nodes.values())

    @property
    def num_edges(self) -> int:
        return sum(len(heads) for heads in self.heads.values())

    @cached_property
    def edges(self) -> dict[EdgeType, np.ndarray]:
        """By relation [2, E] int64: positions in `nodes`, row 0 heads, row 1 tails."""
        return {edge_type: self.edge_index(edge_type) for edge_type in self.heads}

    def edge_index(self, edge_type: EdgeType) -> np.ndarray:
        """One relation's [2, E] int64: edges of one tail are together, tails in order."""
        heads, degrees = self.heads[edge_type], self.degrees[edge_type]
        index = np.empty((2, len(heads)), np.int64)
        _fill_edge_index(heads, degrees, index)
        return index

    def to_hetero_data(self, graph: Graph) -> HeteroData:
        """A torch_geometric HeteroData with x (float32), n_id, edge_index, and the per-hop counts.

        Nodes have x where their type has features, `batch` where the batch is disjoint, and edges
        have e_id where their numbers were asked for. The types that seeds are of have `batch_size`, the
        target type in a batch without any.
        """
        import torch
        from torch_geometric.data import HeteroData

        graph.check_unchanged()  # reading a file that was cut off would end the process
        data = HeteroData()
        for name, ids in self.nodes.items():
            data[name].n_id = torch.from_numpy(ids)
            data[name].num_nodes = len(ids)
            if self.features is not None and name in self.features:
                data[name].x = self.features[name].by_node()
            elif name in graph.schema.encoded_types:
                data[name].x = torch.from_numpy(graph.features(name).gather(ids).astype(np.float32))
            data[name].num_sampled_nodes = self.num_sampled_nodes[name]
            if self.num_sampled_nodes[name][0] or (name == self.target and not self.num_seeds):
                data[name].batch_size = self.num_sampled_nodes[name][0]
            if self.trees is not None:
                data[name].batch = torch.from_numpy(self.trees[name]).long()
        for edge_type in self.heads:
            data[edge_type].edge_index = torch.from_numpy(self.edge_index(edge_type))
            data[edge_type].num_sampled_edges = self.num_sampled_edges[edge_type]
            if self.edge_ids is not None:
                data[edge_type].e_id = torch.from_numpy(self.edge_ids[edge_type])
        return data


@dataclass(frozen=True)
class FlatBatch:
    """A batch as few arrays, for those who move it: the rest follows from the schema.

    Legend: T node types, R relations in the schema's order, H hops.
    """

    epoch: int
    num_nodes_TH: np.ndarray
    """[T, H + 1] int64: the seeds, then each hop's new nodes."""
    num_edges_HR: np.ndarray
    """[H, R] int64."""
    nodes: np.ndarray
    """int64, by type."""
    degrees: np.ndarray
    """int32, by relation and tail."""
    heads: np.ndarray
    """int32, by relation, tail and draw."""
    trees: np.ndarray | None = None
    """int32, as nodes."""
    edge_ids: np.ndarray | None = None
    """int64, as heads."""

    def batch(self, schema: Schema) -> MiniBatch:
        """The same as views by name."""
        types, edge_types = tuple(n.name for n in schema.node_types), schema.edge_types
        num_nodes, num_edges = self.num_nodes_TH.sum(1), self.num_edges_HR.sum(0)
        tails = dict(zip(types, self.num_nodes_TH[:, :-1].sum(1).tolist(), strict=True))
        return MiniBatch(
            nodes=_parts(types, self.nodes, num_nodes.tolist()),
            heads=_parts(edge_types, self.heads, num_edges.tolist()),
            degrees=_parts(edge_types, self.degrees, [tails[e[2]] for e in edge_types]),
            num_sampled_nodes=dict(zip(types, self.num_nodes_TH.tolist(), strict=True)),
            num_sampled_edges=dict(zip(edge_types, self.num_edges_HR.T.tolist(), strict=True)),
            target=schema.target,
            epoch=self.epoch,
            trees=None if self.trees is None else _parts(types, self.trees, num_nodes.tolist()),
            edge_ids=None if self.edge_ids is None else _parts(edge_types, self.edge_ids, num_edges.tolist()),
        )


def _parts(names: tuple[Any, ...], flat: np.ndarray, lengths: list[int]) -> dict[Any, np.ndarray]:
    """Pieces of a flat array by name, in order: views."""
    parts, first = {}, 0
    for name, num in zip(names, lengths, strict=True):
        parts[name] = flat[first : first + num]
        first += num
    return parts
