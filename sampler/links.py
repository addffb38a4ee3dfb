"""Mini-batches around edges: what a model of links is trained on.

A seed is an edge of a relation, by its number: its tail, its head, and negatives in the head's place. The
subgraph around all of them is sampled as it is around nodes; what would give the targets away (the edge, its
reverse, and what is as late, where edges have times) is not in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.schema import edge_name
from netgpt.sampler.batch import MiniBatch
from netgpt.sampler.epochs import Epochs
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.kernels.generator import GENERATOR, row_key
from netgpt.sampler.kernels.links import alias_table, draw_negatives, sort_rows, untold
from netgpt.sampler.loader import Sampling, SamplingEngine
from netgpt.sampler.options import named_relation, options_of
from netgpt.sampler.requests import Request, integer, integers

NEGATIVES = "links-1"
"""Name and version of the rule by which negatives are drawn."""
DEGREE_POWER = 0.75
Draw = Literal["uniform", "degree", "earlier"]
_OPTIONS = (
    *("relation", "edges", "negatives", "draw", "exclude_targets", "reverse", "batch_size", "shuffle"),
    *("drop_last", "rank", "world_size", "threads", "prefetch", "gather", "pin_memory", "engine"),
)


@dataclass(frozen=True)
class LinkBatch:
    """Edges with negatives, and the subgraph around their ends.

    Legend: B edges, K negatives of each.
    """

    graph: MiniBatch
    """Its seeds are the ends: each once, or, in disjoint batches, one for each place below."""
    edges: np.ndarray
    """[B] int64: numbers of the edges."""
    tail: np.ndarray
    """[B] int64: position of each edge's tail in `graph.nodes` of its type."""
    head: np.ndarray
    """[B] int64: of its head."""
    negative: np.ndarray
    """[B, K] int64: of nodes of the head's type that have no edge to the tail."""
    num_skipped: int
    """Edges that are left out, as there is no negative for them."""


class LinkPairs:
    """The edges of a relation by number, and negatives for them.

    Positives are the given edges alone: an edge that is kept for validation must not be told by never being a
    negative.
    """

    def __init__(
        self, graph: Graph, edge_type: EdgeType, edges: np.ndarray | None, draw: Draw, seed: int
    ) -> None:
        """edges [n] numbers of the relation's; by default all."""
        relation = graph.relation(edge_type)
        if relation.layout != "csr":
            raise SamplerError(
                f"{edge_name(edge_type)}: found a relation of groups, expected one whose edges are listed"
            )
        if draw not in ("uniform", "degree", "earlier"):
            raise SamplerError(f"draw: found {draw!r}, expected uniform, degree or earlier")
        if draw == "earlier" and relation.time is None:
            raise SamplerError(f"draw: found 'earlier', expected edges with times in {edge_name(edge_type)}")
        self.edge_type, self.draw, self.seed = edge_type, draw, seed
        self.relation, self.num_heads = relation, graph.num_nodes[edge_type[0]]
        num = len(relation.indices)
        self.edges = np.arange(num) if edges is None else integers(edges, "edges")
        if len(self.edges) and not 0 <= self.edges.min() <= self.edges.max() < num:
            raise SamplerError(
                f"edges: found {self.edges.min()} to {self.edges.max()}, expected {edge_name(edge_type)} "
                f"numbers from 0 to {num - 1}"
            )

    def tails(self, edges: np.ndarray) -> np.ndarray:
        """[n] edge numbers → [n] int64 node numbers."""
        return np.searchsorted(self.relation.first_edge, edges, side="right") - 1

    def heads(self, edges: np.ndarray) -> np.ndarray:
        """[n] edge numbers → [n] int64 node numbers."""
        return np.asarray(self.relation.indices[edges], np.int64)

    def times(self, edges: np.ndarray) -> np.ndarray:
        """[n] edge numbers → [n] int64 seconds, of a relation whose edges have times."""
        assert self.relation.time is not None
        return np.asarray(self.relation.time[edges])

    @cached_property
    def _positives(self) -> tuple[np.ndarray, np.ndarray]:
        """Heads of the given edges by tail, ascending: indptr [N + 1] and heads [n]."""
        edges = np.sort(self.edges)
        indptr = np.searchsorted(edges, self.relation.first_edge).astype(np.int64)
        heads = np.array(self.relation.indices[edges])
        sort_rows(indptr, heads)
        return indptr, heads

    @cached_property
    def _candidates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Nodes in the order in which they are drawn from ([0]: that of their numbers), shares and aliases of
        weighted ones ([0]: all alike), and first times of ordered ones ([0]: no matter)."""
        none = np.empty(0, np.int64)
        if self.draw == "uniform":
            return none, none, none, none
        heads = self.heads(self.edges)
        if self.draw == "degree":
            degree = np.bincount(heads, minlength=self.num_heads)
            order = np.flatnonzero(degree)
            share, alias = alias_table(degree[order].astype(np.float64) ** DEGREE_POWER)
            return order, share, alias, none
        first = np.full(self.num_heads, np.iinfo(np.int64).max)
        np.minimum.at(first, heads, self.times(self.edges))
        order = np.argsort(first, kind="stable")
        order = order[: int((first < np.iinfo(np.int64).max).sum())]
        return order, none, none, first[order]

    def negatives(self, edges: np.ndarray, num: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """[B] edge numbers → negatives [B, num] int64, and for which edges there are any, [B] bool.

        Negative k is a function of (seed, epoch, relation, edge number, k) and the given edges. uniform: all
        nodes of the heads' type alike; degree: by degree to the power 0.75; earlier: those alike that have an
        edge before the edge's own time.
        """
        indptr, positives = self._positives
        order, share, alias, first = self._candidates
        if self.draw == "earlier":
            bounds = np.searchsorted(first, self.times(edges), side="left")
        else:
            bounds = np.full(len(edges), len(order) if len(order) else self.num_heads)
        src, name, dst = self.edge_type
        key = row_key(self.seed, epoch, (src, f"{NEGATIVES}|{name}", dst))
        out = np.full((len(edges), num), -1, np.int64)
        found = draw_negatives(
            key,
            edges,
            self.tails(edges),
            bounds.astype(np.int64),
            indptr,
            positives,
            order,
            share,
            alias,
            out,
        )
        return out, found


class LinkLoader(Epochs[LinkBatch]):
    """Sampled mini-batches around the edges of a relation, one epoch after the other, resumable at the exact
    batch.

    relation: an edge type, or its name. edges: numbers of its edges that are asked about; by default all.
    negatives: how many of each edge; draw: how (see `LinkPairs.negatives`). exclude_targets: edges between
    the ends of any of the batch's targets are taken out of the sample, in the relation and in `reverse` (by
    default rev_NAME or, of one type, the relation itself): rows of two targets of one node miss both. With
    `temporal="<"` edges that are as late as the target or later are not sampled in the first place; the
    relation's edges need times then, and each end has a subgraph of its own. The rest is as `NeighborLoader`
    has it; threads and engine change no batch.
    """

    def __init__(
        self,
        graph: Graph,
        relation: EdgeType | str,
        edges: np.ndarray | None = None,
        *,
        negatives: int = 1,
        draw: Draw = "uniform",
        exclude_targets: bool = True,
        reverse: EdgeType | str | None = "auto",
        batch_size: int = 2048,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        threads: int = 0,
        prefetch: int | None = None,
        gather: bool = False,
        pin_memory: bool = False,
        engine: SamplingEngine | None = None,
        **options: Any,
    ) -> None:
        wanted = options_of({"seed": seed, **options}, *_OPTIONS)
        edge_type = named_relation(graph, relation)
        self.pairs = LinkPairs(graph, edge_type, edges, draw, seed)
        if wanted.temporal and self.pairs.relation.time is None:
            raise SamplerError(f"temporal: found no times of edges in {edge_name(edge_type)}, expected some")
        if integer(negatives, "negatives") < 0:
            raise SamplerError(f"negatives: found {negatives}, expected 0 or more")
        super().__init__(
            self.pairs.edges,
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        self.graph, self.options, self.num_negatives = graph, wanted, negatives
        self.excluded = excluded_relations(graph, edge_type, reverse) if exclude_targets else ()
        self.sampling = Sampling(
            graph,
            wanted,
            threads=threads,
            prefetch=prefetch,
            gather=gather,
            pin_memory=pin_memory,
            engine=engine,
        )
        rule = (NEGATIVES, edge_type, negatives, draw, self.excluded)
        self._set_meaning(GENERATOR, graph.fingerprint, wanted.meaning(graph), *rule)

    def _batches(self, epoch: int, first: int) -> Iterator[LinkBatch]:
        asked: deque[_Asked] = deque()

        def requests() -> Iterator[Request]:
            for edges in self._own_parts(epoch, first):
                asked.append(self._asked(edges, epoch))
                yield asked[-1].request

        for batch in self.sampling.engine.stream(requests()):
            yield self._finished(batch, asked.popleft())

    def _asked(self, edges: np.ndarray, epoch: int) -> _Asked:
        """Seeds and times of a batch, and where each edge's ends are among them."""
        negative, found = self.pairs.negatives(edges, self.num_negatives, epoch)
        num_skipped = int((~found).sum())
        edges, negative = edges[found], negative[found]
        src, _, dst = self.pairs.edge_type
        ends = [(dst, self.pairs.tails(edges)), (src, self.pairs.heads(edges)), (src, negative.ravel())]
        seeds: dict[str, np.ndarray] = {}
        places: list[np.ndarray] = []
        times: dict[str, np.ndarray] = {}
        at = self.pairs.times(edges) if self.options.temporal else np.empty(0, np.int64)
        for name in dict.fromkeys((dst, src)):
            own = [ids for kind, ids in ends if kind == name]
            ids = np.concatenate(own)
            if self.options.is_disjoint:
                seeds[name], where = ids, np.arange(len(ids))
                if self.options.temporal:
                    repeats = [
                        at if len(part) == len(at) else np.repeat(at, self.num_negatives) for part in own
                    ]
                    times[name] = np.concatenate(repeats)
            else:
                seeds[name], where = np.unique(ids, return_inverse=True)
            places += np.split(where, np.cumsum([len(part) for part in own])[:-1])
        of_all = [times[name] for name in self.graph.node_types if name in times]
        request = Request(seeds, epoch, np.concatenate(of_all) if of_all else None)
        tail, head, negatives = places
        return _Asked(request, edges, tail, head, negatives.reshape(negative.shape), num_skipped)

    def _finished(self, batch: MiniBatch, asked: _Asked) -> LinkBatch:
        tails, heads = self.pairs.tails(asked.edges), self.pairs.heads(asked.edges)
        for edge_type, is_reverse in self.excluded:
            batch = without_targets(batch, edge_type, *((heads, tails) if is_reverse else (tails, heads)))
        return LinkBatch(batch, asked.edges, asked.tail, asked.head, asked.negative, asked.num_skipped)


@dataclass(frozen=True)
class _Asked:
    """What a batch was asked for with; the places as in `LinkBatch`."""

    request: Request
    edges: np.ndarray
    tail: np.ndarray
    head: np.ndarray
    negative: np.ndarray
    num_skipped: int


def excluded_relations(
    graph: Graph, edge_type: EdgeType, reverse: EdgeType | str | None
) -> tuple[tuple[EdgeType, bool], ...]:
    """Relations that tell an edge of `edge_type`, and whether the other way round: itself, and its reverse.

    reverse: a relation from its tails to its heads; auto: REV of (a, X, b) and (b, rev_X, a), if it is there,
    else of (a, X, a) itself; None: there is none. SamplerError for one between other types.
    """
    src, name, dst = edge_type
    own = (edge_type, False)
    if reverse is None:
        return (own,)
    if reverse == "auto":
        other = (dst, name.removeprefix("rev_") if name.startswith("rev_") else f"rev_{name}", src)
        if other in graph.edge_types:
            return own, (other, True)
        return (own, (edge_type, True)) if src == dst else (own,)
    other = named_relation(graph, reverse)
    if (other[0], other[2]) != (dst, src):
        raise SamplerError(
            f"reverse: found {edge_name(other)}, expected a relation from {dst} to {src}, as the reverse of "
            f"{edge_name(edge_type)} is"
        )
    return own, (other, True)


def without_targets(batch: MiniBatch, edge_type: EdgeType, tails: np.ndarray, heads: np.ndarray) -> MiniBatch:
    """A batch less a relation's sampled edges between the ends of targets: pairs of a tail and a head, [P]
    node numbers each. Nodes that only they led to stay, with no edge to where they were found."""
    if not len(tails) or not len(batch.heads[edge_type]):
        return batch
    src, _, dst = edge_type
    order = np.lexsort((heads, tails))
    distinct, begin = np.unique(tails[order], return_index=True)
    indptr = np.append(begin, len(order))
    degrees = batch.degrees[edge_type].copy()
    keeps = untold(
        batch.nodes[dst], batch.nodes[src], degrees, batch.heads[edge_type], distinct, indptr, heads[order]
    )
    if keeps.all():
        return batch
    hops = np.cumsum(batch.num_sampled_nodes[dst][:-1])[:-1]
    num_edges = [int(part.sum()) for part in np.split(degrees, hops)]
    edge_ids = batch.edge_ids
    if edge_ids is not None:
        edge_ids = edge_ids | {edge_type: edge_ids[edge_type][keeps]}
    return replace(
        batch,
        heads=batch.heads | {edge_type: batch.heads[edge_type][keeps]},
        degrees=batch.degrees | {edge_type: degrees},
        num_sampled_edges=batch.num_sampled_edges | {edge_type: num_edges},
        edge_ids=edge_ids,
    )
