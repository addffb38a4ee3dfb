"""What to sample: the options of a sampler, checked, and laid out by hop and relation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any, Literal

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.schema import edge_name
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.requests import integer

MAX_FANOUT = (1 << 31) - 1
Fanout = int | Sequence[int]
"""Heads a relation and hop: one number for all hops, or one a hop, the seeds' own first."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Everything but the graph that a sample depends on, besides its seed nodes and epoch."""

    fanout: Fanout | Mapping[str | EdgeType, Fanout] = 50
    """Heads of a tail by relation and hop: −1 for all, 0 for none. A mapping names every relation that
    is sampled, by name or edge type; the others are left out."""
    hops: int | None = None
    """Hops; by default as many as `fanout` lists, or 2."""
    seed: int = 0
    exclude: Collection[str | EdgeType] = ()
    """Relations that are left out: names, or edge types."""
    replace: bool = False
    """Draw every head anew, so that one may come twice; rows of no heads stay empty."""
    disjoint: bool = False
    """A subgraph of its own for each seed: a node that two of them reach is there twice."""
    temporal: Literal["<=", "<"] | None = None
    """Only edges whose time is not after (`<=`) or before (`<`) the time of the tree's seed: their own time
    where they have one, else their head's; heads of types without times stay. Makes the batch disjoint."""
    edge_ids: bool = False
    """Keep the number of each edge: `first_edge[tail] + place in the row`, the same in both layouts."""

    def __post_init__(self) -> None:
        if self.temporal not in (None, "<=", "<"):
            raise SamplerError(f"temporal: found {self.temporal!r}, expected '<=', '<' or None")
        if self.hops is not None and integer(self.hops, "hops") < 1:
            raise SamplerError(f"hops: found {self.hops}, expected at least 1")
        if integer(self.seed, "seed") < 0:
            raise SamplerError(f"seed: found {self.seed}, expected 0 or more")
        if isinstance(self.exclude, str):
            raise SamplerError(f"exclude: found {self.exclude!r}, expected a list of relations")
        self.num_hops  # noqa: B018 - says what is wrong with the fanout

    @property
    def is_disjoint(self) -> bool:
        return self.disjoint or self.temporal is not None

    @property
    def num_hops(self) -> int:
        """Hops of a batch. Raises SamplerError where the lists of `fanout` and `hops` disagree."""
        fanouts = list(self.fanout.values()) if isinstance(self.fanout, Mapping) else [self.fanout]
        lengths = {len(f) for f in fanouts if _is_list(f)}  # type: ignore[arg-type]
        if self.hops is not None:
            lengths.add(self.hops)
        if len(lengths) > 1 or 0 in lengths:
            found = ", ".join(str(n) for n in sorted(lengths))
            raise SamplerError(f"fanout: found lists or hops of {found}, expected one number of hops")
        for fanout in fanouts:
            for number in fanout if _is_list(fanout) else [fanout]:  # type: ignore[union-attr]
                if not -1 <= integer(number, "fanout") <= MAX_FANOUT:
                    raise SamplerError(
                        f"fanout: found {number}, expected up to {MAX_FANOUT:,} heads, or -1 for all"
                    )
        return int(lengths.pop()) if lengths else 2

    def by_hop(self, graph: Graph) -> np.ndarray:
        """Heads of a tail: [hops, relations] int64. Raises SamplerError for relations that are not there."""
        table = np.zeros((self.num_hops, len(graph.edge_types)), np.int64)
        if isinstance(self.fanout, Mapping):
            named: set[EdgeType] = set()
            for name, fanout in self.fanout.items():
                for edge_type in _named(graph, name):
                    if edge_type in named:
                        raise SamplerError(f"fanout: found {edge_name(edge_type)} twice, expected it once")
                    named.add(edge_type)
                    table[:, graph.edge_types.index(edge_type)] = fanout
        else:
            table[:] = np.reshape(self.fanout, (-1, 1))
        for name in self.exclude:
            for edge_type in _named(graph, name):
                table[:, graph.edge_types.index(edge_type)] = 0
        return table

    def meaning(self, graph: Graph) -> str:
        """The same for all options that give the same batches of a graph."""
        what = (self.by_hop(graph).tolist(), int(self.seed), self.replace, self.is_disjoint, self.temporal)
        return repr(what)


PYGS_WORDS = {
    "num_neighbors": "fanout",
    "input_nodes": "node_ids, with node_type where they are not of the target type",
    "num_workers": "threads",
    "input_time": "times, of NeighborSampler.sample",
    "time_attr": "temporal, by the times of the graph's edges and nodes",
    "temporal_strategy": "temporal",
    "prefetch_factor": "prefetch",
}
"""What PyG calls things that have another name here."""


def options_of(given: Mapping[str, Any], *others: str) -> SamplingOptions:
    """The options of these names. SamplerError for a name that there is not, with the one that was meant.

    others: names that the caller takes besides.
    """
    names = [field.name for field in fields(SamplingOptions)]
    for name in given:
        if name in names:
            continue
        if name in PYGS_WORDS:
            raise SamplerError(f"{name}: found a word of PyG's, expected {PYGS_WORDS[name]}")
        near = get_close_matches(name, [*names, *others], n=1, cutoff=0.6)
        meant = f"did you mean {near[0]}?" if near else f"expected one of {', '.join((*others, *names))}"
        raise SamplerError(f"{name}: found an option that there is not; {meant}")
    return SamplingOptions(**given)


def _is_list(fanout: object) -> bool:
    return isinstance(fanout, Sequence) and not isinstance(fanout, str)


def named_relation(graph: Graph, name: str | EdgeType) -> EdgeType:
    """The one relation of a name, or the edge type itself. SamplerError where there is none, or several."""
    named = _named(graph, name)
    if len(named) > 1:
        several = ", ".join(edge_name(e) for e in named)
        raise SamplerError(f"relation: found {name!r} of {several}, expected an edge type")
    return named[0]


def _named(graph: Graph, name: str | EdgeType) -> list[EdgeType]:
    """Edge types of a relation's name, or the edge type itself."""
    named = [e for e in graph.edge_types if name == (e[1] if isinstance(name, str) else e)]
    if not named:
        known = ", ".join(edge_name(e) for e in graph.edge_types)
        raise SamplerError(f"relation: found {name!r}, expected one of {known}")
    return named
