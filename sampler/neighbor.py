"""Heterogeneous neighbour sampling over a store."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.schema import edge_name
from netgpt.sampler.batch import FlatBatch, MiniBatch
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.kernels import batch as kernels
from netgpt.sampler.kernels.generator import row_key
from netgpt.sampler.kernels.memory import address
from netgpt.sampler.options import SamplingOptions, options_of
from netgpt.sampler.pool import Lend, MemoryPool, room
from netgpt.sampler.requests import Request, Seeds, flat_seeds, integer, time_limits

_MAX_STAMP = 1 << 30


class _Workspace:
    """Memory that is kept from batch to batch, used by one at a time."""

    def __init__(self, num_nodes: int) -> None:
        try:
            self.stamps, self.last_stamp = np.zeros(num_nodes, np.int64), 0
        except (MemoryError, ValueError):  # numpy says the latter of what no address reaches
            raise SamplerError(
                f"found {num_nodes:,} nodes, expected a table of 8 bytes for each to fit in memory "
                f"({8 * int(num_nodes):,} bytes); node numbers are those of rows, from 0: number the nodes"
            ) from None
        self.nodes, self.trees = np.empty(0, np.int64), np.empty(0, np.int32)
        self.rows = np.empty((3, 0), np.int64)

    def grow(self, needed: np.ndarray, is_disjoint: bool) -> None:
        """Have room for a batch that needs so much, and for one that needs somewhat more."""
        if needed[kernels.NODES] > len(self.nodes):
            self.nodes = np.empty(int(1.25 * needed[kernels.NODES]), np.int64)
            self.trees = np.empty(len(self.nodes) if is_disjoint else 0, np.int32)
        if needed[kernels.ROWS] > self.rows.shape[1]:
            self.rows = np.empty((3, int(1.25 * needed[kernels.ROWS])), np.int64)


class NeighborSampler:
    """Samples heads of each relation and hop, uniformly and, if not told otherwise, without replacement.

    A node is expanded once, in the hop after it was found. A row's sample is a pure function of (seed,
    epoch, relation, node), in temporal sampling also of the time: the batch, the layout, the process
    and the thread change nothing. Threads may share a sampler; each batch under way has a table of
    8 bytes a node of the graph, reused from batch to batch.

    `options` are the fields of `SamplingOptions`.
    """

    def __init__(self, graph: Graph, **options: Any) -> None:
        self.graph, self.options = graph, options_of(options)
        if self.options.temporal and not graph.times and not any(r.time for r in graph.schema.relations):
            raise SamplerError(
                "temporal: found a graph without times, expected one whose nodes or edges have them"
            )
        self._fanout_HR = self.options.by_hop(graph)
        self._types = {name: t for t, name in enumerate(graph.node_types)}
        self._first = np.concatenate([[0], np.cumsum([graph.num_nodes[t] for t in graph.node_types])])
        self._arrays: list[np.ndarray] = []  # whose addresses the kernel is given
        self._relations = np.array([self._relation_line(e) for e in graph.edge_types], np.int64)
        self._relations = self._relations.reshape(-1, kernels.NUM_COLUMNS)
        self._node_types = np.array([self._type_line(t) for t in graph.node_types], np.int64)
        self._workspaces: list[_Workspace] = []
        self._pool = MemoryPool()
        self._sizes = np.full(kernels.NUM_SPACES, 1 << 12, np.int64)  # of what becomes a batch
        self._keys: tuple[int, np.ndarray] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return NeighborSampler.of, (self.graph, self.options)  # addresses mean nothing elsewhere

    @staticmethod
    def of(graph: Graph, options: SamplingOptions) -> NeighborSampler:
        return NeighborSampler(graph, **{f.name: getattr(options, f.name) for f in fields(options)})

    def _address(self, array: np.ndarray, dtype: Any) -> int:
        self._arrays.append(np.ascontiguousarray(array, dtype))
        return address(self._arrays[-1])

    def _relation_line(self, edge_type: EdgeType) -> list[int]:
        """What the kernel must know of a relation. Raises SamplerError for arrays of wrong lengths."""
        graph, (src, _, dst) = self.graph, edge_type
        relation = graph.relation(edge_type)
        rank, num_dst = relation.rank, graph.num_nodes[dst]
        lengths = {len(a) for a in (relation.begin, relation.end, rank) if a is not None}
        if lengths != {num_dst}:
            raise SamplerError(f"{edge_name(edge_type)}: found rows of {lengths} tails, expected {num_dst}")
        if relation.time is not None and len(relation.time) != len(relation.indices):
            num = len(relation.indices)
            raise SamplerError(f"{edge_name(edge_type)}: found {len(relation.time)} times, expected {num}")
        is_wide, by_edge = relation.indices.dtype.itemsize == 8, relation.time is not None
        rule = graph.schema.relation_type(edge_type)
        return [
            self._address(relation.indices, np.int64 if is_wide else np.int32),
            len(relation.indices),
            is_wide,
            self._address(relation.begin, np.int64),
            self._address(relation.end, np.int64),
            0 if rank is None else self._address(rank, np.int32),
            self._address(relation.first_edge, np.int64) if self.options.edge_ids else 0,
            self._types[src],
            self._types[dst],
            rule.group_by is not None or by_edge,  # rows are in the order of times: of heads, or of edges
            self._address(relation.time, np.int64)
            if self.options.temporal and relation.time is not None
            else 0,
            not self.options.temporal and not self.options.replace and relation.has_one_each(),
        ]

    def _type_line(self, name: str) -> list[int]:
        graph, times = self.graph, 0
        if self.options.temporal and name in graph.times:
            if len(graph.times[name]) != graph.num_nodes[name]:
                raise SamplerError(
                    f"times of {name}: found {len(graph.times[name])}, expected {graph.num_nodes[name]}"
                )
            times = self._address(graph.times[name], np.int64)
        return [graph.num_nodes[name], int(self._first[self._types[name]]), times]

    def sample(self, seeds: Seeds, epoch: int = 0, *, times: np.ndarray | None = None) -> MiniBatch:
        """Sample around seed nodes: distinct numbers of the target type [S], or by type.

        Disjoint batches take a seed twice. times [S] int64, for temporal sampling: latest times of the
        seeds' heads, in the order of types and seeds (default: the seeds' own). Raises SamplerError for
        other seeds, and StoreError where the store has changed on disk.
        """
        return self.answer(Request(seeds, epoch, times))

    def answer(self, request: Request) -> MiniBatch:
        """The batch of a request."""
        return self.sample_flat(request).batch(self.graph.schema)

    def sample_flat(self, request: Request, lend: Lend | None = None) -> FlatBatch:
        """The batch of a request as few arrays, in memory that is lent (default: of a pool)."""
        graph, options, epoch = self.graph, self.options, integer(request.epoch, "epoch")
        graph.check_unchanged()  # reading a file that was cut off would end the process
        seeds, num_seeds_T = flat_seeds(graph, request.seeds, distinct=not options.is_disjoint)
        limit_S = time_limits(graph, options.temporal, seeds, num_seeds_T, request.times)
        workspace = self._take_workspace(options.num_hops * (len(seeds) + 1))
        while True:
            space = self._space(workspace, lend or self._pool.lend)
            problem, needed, workspace.last_stamp, *counts = kernels.sample_batch(
                self._relations,
                self._node_types,
                self._fanout_HR,
                self._row_keys(epoch),
                workspace.stamps,
                workspace.last_stamp,
                seeds,
                num_seeds_T,
                limit_S,
                options.is_disjoint,
                options.replace,
                options.edge_ids,
                space,
            )
            if problem[0] != kernels.NO_SPACE:
                break
            workspace.grow(needed, options.is_disjoint)
            self._sizes = np.maximum(self._sizes, (1.25 * needed).astype(np.int64))
        # Not in a `finally`: after an interruption nobody knows which stamps are in the table
        self._workspaces.append(workspace)
        graph.check_unchanged()  # what was read while it changed is no batch
        if problem[0] != kernels.SOUND:
            raise self._problem(*problem)
        num_nodes_TH, num_edges_HR = counts
        num_nodes, num_tails = num_nodes_TH.sum(), num_nodes_TH[:, :-1].sum(1)
        num_edges, num_rows = num_edges_HR.sum(), num_tails[self._relations[:, kernels.DST]].sum()
        return FlatBatch(
            epoch=epoch,
            num_nodes_TH=num_nodes_TH,
            num_edges_HR=num_edges_HR,
            nodes=space.out_nodes[:num_nodes],
            degrees=space.degrees[:num_rows],
            heads=space.heads[:num_edges],
            trees=space.out_trees[:num_nodes] if options.is_disjoint else None,
            edge_ids=space.edges[:num_edges] if options.edge_ids else None,
        )

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """Batches in the order of the requests: the plainest `SamplingEngine`."""
        return map(self.answer, requests)

    def _row_keys(self, epoch: int) -> np.ndarray:
        """Keys of the relations' rows in an epoch: [R] uint64."""
        of_epoch = self._keys
        if of_epoch is None or of_epoch[0] != epoch:
            seed = self.options.seed
            keys = np.array([row_key(seed, epoch, e) for e in self.graph.edge_types], np.uint64)
            of_epoch = self._keys = (epoch, keys)
        return of_epoch[1]

    def _take_workspace(self, num_stamps: int) -> _Workspace:
        """One that nobody uses and that has `num_stamps` stamps left, for several tries."""
        try:
            workspace = self._workspaces.pop()
        except IndexError:
            workspace = _Workspace(self._first[-1])
        if workspace.last_stamp + 8 * num_stamps > _MAX_STAMP:
            workspace.stamps.fill(0)
            workspace.last_stamp = 0
        return workspace

    def _space(self, workspace: _Workspace, lend: Lend) -> kernels.Space:
        """The workspace, and memory for a batch of the usual size."""
        sizes, options = self._sizes, self.options
        num_nodes, num_edges = sizes[kernels.OUT_NODES], sizes[kernels.HEADS]
        wanted = {
            "out_nodes": (num_nodes, np.int64),
            "out_trees": (num_nodes if options.is_disjoint else 0, np.int32),
            "degrees": (sizes[kernels.DEGREES], np.int32),
            "heads": (num_edges, np.int32),
            "edges": (num_edges if options.edge_ids else 0, np.int64),
        }
        arena = lend(sum(room(int(length) * np.dtype(kind).itemsize) for length, kind in wanted.values()))
        return kernels.Space(
            nodes=workspace.nodes,
            trees=workspace.trees,
            rows=workspace.rows,
            **{name: arena.allocate(*what) for name, what in wanted.items()},
        )

    def _problem(self, kind: int, what: int, node: int) -> SamplerError:
        if kind == kernels.REPEATED_SEED:
            name = self.graph.node_types[what]
            return SamplerError(f"seed nodes: found {name} {node} repeated, expected distinct ones")
        if kind == kernels.TOO_MANY:
            name = self.graph.node_types[what]
            return SamplerError(
                f"batch: found room for 2**31 {name} nodes needed, expected fewer; ask for less"
            )
        name = edge_name(self.graph.edge_types[what])
        where = f"the row of node {node} points outside" if kind == kernels.BAD_ROW else "a head is no node"
        return SamplerError(f"{name}: {where}; the store is damaged: see netgpt verify")
