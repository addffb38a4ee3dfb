"""The sampler as one of PyG's: `NodeLoader(store.as_pyg(), ..., node_sampler=Sampler(store))`."""

from __future__ import annotations

from typing import Any

import torch
from torch_geometric.sampler import BaseSampler, HeteroSamplerOutput, NodeSamplerInput

from netgpt.graphstore import Graph
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.neighbor import NeighborSampler


class Sampler(BaseSampler):
    """A `torch_geometric.sampler.BaseSampler` over a store, for heterogeneous node loaders.

    `options` are the fields of `SamplingOptions`. PyG knows no epochs: `set_epoch` changes the samples,
    before the loader makes its workers. The nodes' own times serve temporal sampling where the loader
    is given no `input_time`.
    """

    def __init__(self, graph: Graph, **options: Any) -> None:
        self.sampler = NeighborSampler(graph, **options)
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def sample_from_nodes(self, index: NodeSamplerInput, **_: Any) -> HeteroSamplerOutput:
        """A subgraph around the input nodes, of type `index.input_type` (default: the target type)."""
        input_type = index.input_type or self.sampler.graph.schema.target
        times = None if index.time is None else index.time.numpy()  # refused without temporal sampling
        batch = self.sampler.sample({input_type: index.node.numpy()}, self.epoch, times=times)
        trees, edge_ids = batch.trees, batch.edge_ids
        edges = {e: torch.from_numpy(batch.edge_index(e)) for e in batch.heads}
        return HeteroSamplerOutput(
            node={name: torch.from_numpy(ids) for name, ids in batch.nodes.items()},
            row={e: index[0] for e, index in edges.items()},
            col={e: index[1] for e, index in edges.items()},
            edge=None if edge_ids is None else {e: torch.from_numpy(i) for e, i in edge_ids.items()},
            batch=None if trees is None else {t: torch.from_numpy(s).long() for t, s in trees.items()},
            num_sampled_nodes=batch.num_sampled_nodes,
            num_sampled_edges=batch.num_sampled_edges,
            metadata=(index.input_id, index.time),
        )

    def sample_from_edges(self, *_: Any, **__: Any) -> HeteroSamplerOutput:
        raise SamplerError("sampling around edges: not there, expected nodes; use a NodeLoader")

    @property
    def edge_permutation(self) -> None:
        """Edge numbers are the store's own."""
        return None
