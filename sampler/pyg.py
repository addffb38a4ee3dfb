"""The sampler as one of PyG's: `NodeLoader(store.as_pyg(), …, node_sampler=Sampler(store))`, `LinkLoader`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.sampler import (
    BaseSampler,
    EdgeSamplerInput,
    HeteroSamplerOutput,
    NegativeSampling,
    NodeSamplerInput,
)

from netgpt.graphstore import EdgeType, Graph
from netgpt.sampler.batch import MiniBatch
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.links import around, excluded_relations, without_targets
from netgpt.sampler.negatives import negatives_key, uniform_negatives
from netgpt.sampler.neighbor import NeighborSampler
from netgpt.sampler.options import named_relation
from netgpt.sampler.requests import node_ids


class Sampler(BaseSampler):
    """A `torch_geometric.sampler.BaseSampler` over a store, for heterogeneous node and link loaders.

    `options` are the fields of `SamplingOptions`. PyG knows no epochs: call `set_epoch` before each pass
    over the loader, or every epoch has the same samples. Workers see it too, also those that live on from
    epoch to epoch. The nodes' own times serve temporal sampling where the loader is given no
    `input_time`. exclude_targets: no sampled edge is between the ends of an edge that is asked about, in
    its relation and the reverse (see `links.excluded_relations`).
    """

    def __init__(
        self,
        graph: Graph,
        *,
        exclude_targets: bool = True,
        reverse: EdgeType | str | None = "auto",
        **options: Any,
    ) -> None:
        self.sampler = NeighborSampler(graph, **options)
        self.exclude_targets, self.reverse = exclude_targets, reverse
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # one for all processes
        self._rows: dict[EdgeType, tuple[np.ndarray, np.ndarray]] = {}

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """From the next batch on samples are those of an epoch, in this process and in a loader's workers."""
        self._epoch.fill_(epoch)

    def sample_from_nodes(self, index: NodeSamplerInput, **_: Any) -> HeteroSamplerOutput:
        """A subgraph around the input nodes, of type `index.input_type` (default: the target type)."""
        input_type = index.input_type or self.sampler.graph.schema.target
        times = None if index.time is None else index.time.numpy()  # refused without temporal sampling
        batch = self.sampler.sample({input_type: index.node.numpy()}, self.epoch, times=times)
        return _output(batch, (index.input_id, index.time))

    def sample_from_edges(
        self, index: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> HeteroSamplerOutput:
        """A subgraph around edges of the type `index.input_type`, alone, or as triplets with nodes that have
        no edge from the source in the store.

        Negatives of an edge are a function of (seed, epoch, relation, its two ends, k). A source that has
        edges to all nodes is refused.
        """
        if index.input_type is None:
            raise SamplerError("sampling around edges: found no edge type, expected one")
        if neg_sampling is not None and not neg_sampling.is_triplet():
            raise SamplerError("neg_sampling: found 'binary', expected 'triplet' or None")
        if neg_sampling is not None and neg_sampling.dst_weight is not None:
            raise SamplerError("neg_sampling: found weights, expected none")
        graph, relation = self.sampler.graph, named_relation(self.sampler.graph, tuple(index.input_type))
        src = node_ids(graph, relation[0], index.row.numpy())
        dst = node_ids(graph, relation[2], index.col.numpy())
        num, amount = len(src), 0 if neg_sampling is None else int(neg_sampling.amount)
        negative = self._negatives(relation, src, dst, amount)
        ends = [(relation[0], src), (relation[2], dst), (relation[2], negative.T.ravel())]
        times = None
        if index.time is not None:
            at = index.time.numpy()
            times = [at, at, np.tile(at, amount)]
        is_disjoint = self.sampler.options.is_disjoint
        request, places = around(graph, ends, times, self.epoch, is_disjoint)
        batch = self.sampler.answer(request)
        if self.exclude_targets:
            for edge_type, is_reverse in excluded_relations(graph, relation, self.reverse):
                batch = without_targets(batch, edge_type, *((src, dst) if is_reverse else (dst, src)))
        source, positive, others = (torch.from_numpy(np.asarray(place, np.int64)) for place in places)
        if neg_sampling is None:
            metadata: tuple[Any, ...] = (
                index.input_id,
                torch.stack([source, positive]),
                index.label,
                index.time,
            )
        else:
            of_edges = others.view(amount, num).t()
            metadata = (index.input_id, source, positive, of_edges.squeeze(-1), index.time)
        return _output(batch, metadata, num)

    def _negatives(self, relation: EdgeType, src: np.ndarray, dst: np.ndarray, amount: int) -> np.ndarray:
        """[edges, amount] int64."""
        graph = self.sampler.graph
        if not amount:
            return np.empty((len(src), 0), np.int64)
        if relation not in self._rows:
            indptr, heads = graph.relation(relation).to_csr()
            order = np.argsort(heads, kind="stable")  # tails of each head, ascending
            tails = np.repeat(np.arange(len(indptr) - 1, dtype=heads.dtype), np.diff(indptr))[order]
            first = np.searchsorted(heads[order], np.arange(graph.num_nodes[relation[0]] + 1))
            self._rows[relation] = first.astype(np.int64), tails
        num, is_one_type = graph.num_nodes[relation[2]], relation[0] == relation[2]
        key, numbers = negatives_key(self.sampler.options.seed, self.epoch, relation), src * num + dst
        rows = self._rows[relation]
        out, found = uniform_negatives(key, numbers, src, rows, num, amount, is_one_type=is_one_type)
        if not found.all():
            node = int(src[np.argmin(found)])
            raise SamplerError(f"negatives: found {relation[0]} {node} with edges to all {num} {relation[2]}")
        return out

    @property
    def edge_permutation(self) -> None:
        """Edge numbers are the store's own."""
        return None


def _output(batch: MiniBatch, metadata: tuple[Any, ...], num_edges: int = 0) -> HeteroSamplerOutput:
    """num_edges: of a batch around edges, whose subgraphs are numbered by edge."""
    trees, edge_ids = batch.trees, batch.edge_ids
    edges = {e: torch.from_numpy(batch.edge_index(e)) for e in batch.heads}
    if trees is not None and num_edges:
        trees = {name: of_type % num_edges for name, of_type in trees.items()}
    return HeteroSamplerOutput(
        node={name: torch.from_numpy(ids) for name, ids in batch.nodes.items()},
        row={e: index[0] for e, index in edges.items()},
        col={e: index[1] for e, index in edges.items()},
        edge=None if edge_ids is None else {e: torch.from_numpy(i) for e, i in edge_ids.items()},
        batch=None if trees is None else {t: torch.from_numpy(s).long() for t, s in trees.items()},
        num_sampled_nodes=batch.num_sampled_nodes,
        num_sampled_edges=batch.num_sampled_edges,
        metadata=metadata,
    )
