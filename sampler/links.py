"""Mini-batches around edges: what a model of links is trained on.

A seed is an edge of a relation, by its number: its tail, its head, and negatives in the head's place. The
subgraph around all of them is sampled as it is around nodes, and the targets' edges and their reverse are
taken out of it. That leaves rows of targets an edge shorter than others: a model that counts neighbours can
see it, one that takes means cannot; where edges have times, sampling what was before the target treats all
ends alike.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.schema import edge_name
from netgpt.sampler.batch import MiniBatch
from netgpt.sampler.epochs import Epochs
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.kernels.generator import GENERATOR
from netgpt.sampler.kernels.links import sort_rows, untold
from netgpt.sampler.loader import LOADER_OPTIONS, Sampling, SamplingEngine
from netgpt.sampler.negatives import NEGATIVES, Candidates, Draw, candidates, drawn_negatives, negatives_key
from netgpt.sampler.options import named_relation, options_of
from netgpt.sampler.requests import Request, integer, integers

_OPTIONS = (
    *("relation", "edges", "negatives", "draw", "positives", "exclude_targets", "reverse"),
    *LOADER_OPTIONS,
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

    What is no negative are the positives alone: an edge that is kept for validation must not be told by never
    being one.
    """

    def __init__(
        self,
        graph: Graph,
        edge_type: EdgeType,
        edges: np.ndarray | None,
        draw: Draw,
        seed: int,
        positives: np.ndarray | None = None,
    ) -> None:
        """edges [n] numbers of the relation's, by default all; positives [p] too, by default the edges."""
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
        self.edges = np.arange(len(relation.indices)) if edges is None else self._checked(edges, "edges")
        self.positives = self.edges if positives is None else self._checked(positives, "positives")

    def _checked(self, edges: np.ndarray, name: str) -> np.ndarray:
        numbers, num = integers(edges, name), len(self.relation.indices)
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < num:
            raise SamplerError(
                f"{name}: found {numbers.min()} to {numbers.max()}, expected {edge_name(self.edge_type)} "
                f"numbers from 0 to {num - 1}"
            )
        return numbers

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
    def _rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Heads of the positives by tail, ascending: indptr [N + 1] and heads [p]."""
        edges = np.sort(self.positives)
        indptr = np.searchsorted(edges, self.relation.first_edge).astype(np.int64)
        heads = np.array(self.relation.indices[edges])
        sort_rows(indptr, heads)
        return indptr, heads

    @cached_property
    def _candidates(self) -> Candidates:
        heads = self.heads(self.positives) if self.draw != "uniform" else np.empty(0, np.int64)
        times = self.times(self.positives) if self.draw == "earlier" else None
        return candidates(self.draw, heads, self.num_heads, times)

    def negatives(self, edges: np.ndarray, num: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """[B] edge numbers → negatives [B, num] int64, and for which edges there are any, [B] bool.

        Negative k is a function of (seed, epoch, relation, edge number, k) and the positives. uniform: all
        nodes of the heads' type alike; degree: by degree to the power 0.75; earlier: those alike that have an
        edge before the edge's own time.
        """
        times = self.times(edges) if self.draw == "earlier" else None
        src, _, dst = self.edge_type
        return drawn_negatives(
            negatives_key(self.seed, epoch, self.edge_type),
            edges,
            self.tails(edges),
            self._rows,
            self._candidates,
            self.num_heads,
            num,
            times=times,
            is_one_type=src == dst,
        )


class LinkLoader(Epochs[LinkBatch]):
    """Sampled mini-batches around the edges of a relation, one epoch after the other, resumable at the exact
    batch.

    relation: an edge type, or its name. edges: numbers of its edges that are asked about; by default all.
    They are not the only ones that are sampled: what must not be seen has to stay out of the store, or be
    later. negatives: how many of each edge; draw: how (see `LinkPairs.negatives`); positives: edges whose
    heads are no negatives of their tails, by default `edges`. exclude_targets: edges between the ends of
    any of the batch's targets, those of all ranks, are taken out of the sample, in the relation and in
    `reverse` (see `excluded_relations`): rows of two targets of one node miss both. With `temporal="<"`
    edges that are as late as the target or later are not sampled in the first place; each end has a
    subgraph of its own then, and the relation's edges and the reverse's need times. The rest is as
    `NeighborLoader` has it; threads and engine change no batch.
    """

    def __init__(
        self,
        graph: Graph,
        relation: EdgeType | str,
        edges: np.ndarray | None = None,
        *,
        negatives: int = 1,
        draw: Draw = "uniform",
        positives: np.ndarray | None = None,
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
        self.pairs = LinkPairs(graph, edge_type, edges, draw, seed, positives)
        excluded = excluded_relations(graph, edge_type, reverse)
        for name in (e for e, _ in excluded if wanted.temporal and graph.relation(e).time is None):
            raise SamplerError(f"temporal: found no times of edges in {edge_name(name)}, expected some")
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
        self.excluded = excluded if exclude_targets else ()
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
        others = "" if positives is None else hashlib.blake2b(self.pairs.positives.data).hexdigest()
        self._set_meaning(GENERATOR, graph.fingerprint, wanted.meaning(graph), *rule, others)

    def _batches(self, epoch: int, first: int) -> Iterator[LinkBatch]:
        asked: deque[_Asked] = deque()

        def requests() -> Iterator[Request]:
            for number, edges in enumerate(self._own_parts(epoch, first), start=first):
                asked.append(self._asked(edges, self.global_seeds(epoch, number), epoch))
                yield asked[-1].request

        for batch in self.sampling.engine.stream(requests()):
            yield self._finished(batch, asked.popleft())

    def _asked(self, edges: np.ndarray, targets: np.ndarray, epoch: int) -> _Asked:
        """Seeds and times of a batch, and where each edge's ends are among them. targets: edges of all
        ranks."""
        negative, found = self.pairs.negatives(edges, self.num_negatives, epoch)
        num_skipped = int((~found).sum())
        edges, negative = edges[found], negative[found]
        src, _, dst = self.pairs.edge_type
        ends = [(dst, self.pairs.tails(edges)), (src, self.pairs.heads(edges)), (src, negative.ravel())]
        times = None
        if self.options.temporal:
            at = self.pairs.times(edges)
            times = [at, at, np.repeat(at, self.num_negatives)]
        request, (tail, head, places) = around(self.graph, ends, times, epoch, self.options.is_disjoint)
        return _Asked(request, edges, targets, tail, head, places.reshape(negative.shape), num_skipped)

    def _finished(self, batch: MiniBatch, asked: _Asked) -> LinkBatch:
        tails, heads = self.pairs.tails(asked.targets), self.pairs.heads(asked.targets)
        for edge_type, is_reverse in self.excluded:
            batch = without_targets(batch, edge_type, *((heads, tails) if is_reverse else (tails, heads)))
        return LinkBatch(batch, asked.edges, asked.tail, asked.head, asked.negative, asked.num_skipped)


def around(
    graph: Graph,
    ends: Sequence[tuple[str, np.ndarray]],
    times: Sequence[np.ndarray] | None,
    epoch: int,
    is_disjoint: bool,
) -> tuple[Request, list[np.ndarray]]:
    """What to sample around ends of edges, and the place of each of them among the seeds of its type.

    ends: types and node numbers; those of one type follow each other. times: of each of them, where it
    counts. Disjoint batches have a seed for each, others each node once.
    """
    seeds: dict[str, np.ndarray] = {}
    limits: dict[str, np.ndarray] = {}
    places: list[np.ndarray] = []
    for name in dict.fromkeys(name for name, _ in ends):
        own = [i for i, (other, _) in enumerate(ends) if other == name]
        ids = np.concatenate([ends[i][1] for i in own])
        if is_disjoint:
            seeds[name], where = ids, np.arange(len(ids))
        else:
            seeds[name], where = np.unique(ids, return_inverse=True)
        if times is not None:
            limits[name] = np.concatenate([times[i] for i in own])
        places += np.split(where, np.cumsum([len(ends[i][1]) for i in own])[:-1])
    flat = [limits[name] for name in graph.node_types if name in limits]
    return Request(seeds, epoch, np.concatenate(flat) if flat else None), places


@dataclass(frozen=True)
class _Asked:
    """What a batch was asked for with; the places as in `LinkBatch`."""

    request: Request
    edges: np.ndarray
    targets: np.ndarray
    """Edges of the batch's, of all ranks: [≤ batch size]."""
    tail: np.ndarray
    head: np.ndarray
    negative: np.ndarray
    num_skipped: int


def excluded_relations(
    graph: Graph, edge_type: EdgeType, reverse: EdgeType | str | None
) -> tuple[tuple[EdgeType, bool], ...]:
    """Relations that tell an edge of `edge_type`, and whether the other way round: itself, and its reverse;
    of one type both of them both ways.

    reverse: a relation from its tails to its heads; auto: (b, rev_X, a) of (a, X, b); None: there is none.
    SamplerError for one between other types, and where auto finds none of that name but others that may be
    it.
    """
    src, name, dst = edge_type
    others = [e for e in graph.edge_types if (e[0], e[2]) == (dst, src) and e != edge_type]
    other: EdgeType | None = None
    if reverse == "auto":
        named = (dst, name.removeprefix("rev_") if name.startswith("rev_") else f"rev_{name}", src)
        other = named if named in graph.edge_types else None
        if other is None and others and src != dst:
            found = ", ".join(edge_name(e) for e in others)
            raise SamplerError(
                f"reverse: found {found}, none called {edge_name(named)}; expected the reverse of "
                f"{edge_name(edge_type)}, or None where there is none"
            )
    elif reverse is not None:
        other = named_relation(graph, reverse)
        if (other[0], other[2]) != (dst, src):
            raise SamplerError(
                f"reverse: found {edge_name(other)}, expected a relation from {dst} to {src}, as that of "
                f"{edge_name(edge_type)} is"
            )
    ways = (False, True) if src == dst else (False,)
    excluded = [(edge_type, way) for way in ways]
    if other is not None and other != edge_type:
        excluded += [(other, not way) for way in ways]
    return tuple(excluded)


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
