"""Heterogeneous neighbour sampling over a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from graphstore import EdgeType, Graph
from sampler.batch import MiniBatch
from sampler.errors import SamplerError
from sampler.kernels import relabel, row_key, sample_rows

_NO_RANK = np.empty(0, np.int32)
Request = tuple[np.ndarray, int]
"""What to sample: (seed nodes, epoch)."""


class NeighborSampler:
    """Samples `fanout` heads a relation and hop, uniformly and without replacement.

    A node is expanded once, in the hop after it was found. A row's sample is a pure function of (seed,
    epoch, relation, node): the batch, the layout and the process change nothing. Not thread-safe: one
    sampler a thread (its relabelling tables are reused from batch to batch).
    """

    def __init__(self, graph: Graph, *, fanout: int = 50, hops: int = 2, seed: int = 0) -> None:
        if fanout < 1:
            raise SamplerError(f"fanout: found {fanout}, expected at least 1")
        if hops < 1:
            raise SamplerError(f"hops: found {hops}, expected at least 1")
        self.graph, self.fanout, self.hops, self.seed = graph, fanout, hops, seed
        self._position = {name: np.full(n, -1, np.int64) for name, n in graph.num_nodes.items()}

    def sample(self, node_ids: np.ndarray, epoch: int = 0) -> MiniBatch:
        """Sample around seed nodes: [S] distinct video node numbers. Raises SamplerError otherwise."""
        graph, target = self.graph, self.graph.schema.target
        seeds = np.ascontiguousarray(node_ids, np.int64)
        if len(seeds) and not 0 <= seeds.min() <= seeds.max() < graph.num_nodes[target]:
            raise SamplerError(
                f"seed nodes: found {seeds.min()} to {seeds.max()}, "
                f"expected {target} numbers from 0 to {graph.num_nodes[target] - 1}"
            )
        nodes = {name: np.empty(0, np.int64) for name in graph.node_types}
        counts = {name: [0] for name in graph.node_types}
        nodes[target], counts[target] = seeds, [len(seeds)]
        edges: dict[EdgeType, list[np.ndarray]] = {e: [] for e in graph.edge_types}
        try:
            _, distinct = relabel(seeds, self._position[target], np.empty_like(seeds), 0)
            if distinct != len(seeds):
                raise SamplerError(f"seed nodes: found {len(seeds) - distinct} repeated, expected distinct")
            for _ in range(self.hops):
                self._hop(nodes, counts, edges, epoch)
        finally:
            for name, ids in nodes.items():
                self._position[name][ids] = -1
        return MiniBatch(
            nodes=nodes,
            edges={e: np.concatenate(parts, axis=1) for e, parts in edges.items()},
            num_sampled_nodes=counts,
            num_sampled_edges={e: [p.shape[1] for p in parts] for e, parts in edges.items()},
            num_seeds=len(seeds),
            epoch=epoch,
        )

    def _hop(
        self,
        nodes: dict[str, np.ndarray],
        counts: dict[str, list[int]],
        edges: dict[EdgeType, list[np.ndarray]],
        epoch: int,
    ) -> None:
        """Expand the nodes that the last hop found, by every relation that ends in their type."""
        graph = self.graph
        known = {name: len(ids) for name, ids in nodes.items()}
        for edge_type in graph.edge_types:
            src, _, dst = edge_type
            first = known[dst] - counts[dst][-1]
            relation = graph.relation(edge_type)
            heads, degree = sample_rows(
                relation.indices,
                relation.begin,
                relation.end,
                _NO_RANK if relation.rank is None else relation.rank,
                nodes[dst][first : known[dst]],
                row_key(self.seed, epoch, edge_type),
                self.fanout,
            )
            buffer = np.empty(len(nodes[src]) + len(heads), np.int64)
            buffer[: len(nodes[src])] = nodes[src]
            positions, num = relabel(heads, self._position[src], buffer, len(nodes[src]))
            nodes[src] = buffer[:num]
            edges[edge_type].append(np.stack([positions, np.repeat(np.arange(first, known[dst]), degree)]))
        for name in graph.node_types:
            counts[name].append(len(nodes[name]) - known[name])

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """Batches in the order of the requests: the local form of `SamplingEngine`."""
        for node_ids, epoch in requests:
            yield self.sample(node_ids, epoch)
