"""A sampled mini-batch: typed arrays with PyG's conventions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from graphstore import EdgeType, Graph

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


@dataclass(frozen=True)
class MiniBatch:
    """One sampled subgraph.

    nodes[type] [n] int64: node numbers, seeds first, then in order of discovery. edges[edge_type]
    [2, E] int64: positions in `nodes`, row 0 heads, row 1 tails; edges of one tail are together, tails
    in order. num_sampled_nodes[type] has hops + 1 entries (the seeds, then each hop's new nodes),
    num_sampled_edges[edge_type] has one a hop.
    """

    nodes: dict[str, np.ndarray]
    edges: dict[EdgeType, np.ndarray]
    num_sampled_nodes: dict[str, list[int]]
    num_sampled_edges: dict[EdgeType, list[int]]
    num_seeds: int
    epoch: int

    @property
    def num_edges(self) -> int:
        return sum(e.shape[1] for e in self.edges.values())

    def to_hetero_data(self, graph: Graph) -> HeteroData:
        """A torch_geometric HeteroData with x, n_id, edge_index, and the per-hop counts."""
        import torch
        from torch_geometric.data import HeteroData

        data = HeteroData()
        for name, ids in self.nodes.items():
            data[name].n_id = torch.from_numpy(ids)
            data[name].x = torch.from_numpy(graph.features(name).gather(ids).astype(np.float32))
            data[name].num_sampled_nodes = self.num_sampled_nodes[name]
        for edge_type, index in self.edges.items():
            data[edge_type].edge_index = torch.from_numpy(index)
            data[edge_type].num_sampled_edges = self.num_sampled_edges[edge_type]
        data[graph.schema.target].batch_size = self.num_seeds
        return data
