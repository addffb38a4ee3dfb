"""What to sample: the options of a sampler, checked, and laid out by hop and relation."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from graphstore import EdgeType, Graph
from graphstore.schema import edge_name
from sampler.errors import SamplerError

Fanout = int | Sequence[int]
"""Heads a relation and hop: one number for all hops, or one a hop, the seeds' own first."""


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Everything but the graph that a sample depends on, besides its seed nodes and epoch."""

    fanout: Fanout | Mapping[EdgeType, Fanout] = 50
    """Heads of a tail by relation and hop: −1 for all, 0 for none. A mapping names every relation that
    is sampled; the others are left out."""
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
    """Only heads whose time is not after (`<=`) or before (`<`) the time of the tree's seed; heads of
    types without times stay. Makes the batch disjoint."""
    edge_ids: bool = False
    """Keep the number of each edge: `first_edge[tail] + place in the row`, the same in both layouts."""

    def __post_init__(self) -> None:
        if self.temporal not in (None, "<=", "<"):
            raise SamplerError(f"temporal: found {self.temporal!r}, expected '<=', '<' or None")
        if self.hops is not None and self.hops < 1:
            raise SamplerError(f"hops: found {self.hops}, expected at least 1")
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
        lengths = {len(f) for f in fanouts if not isinstance(f, int | np.integer)}
        if self.hops is not None:
            lengths.add(self.hops)
        if len(lengths) > 1 or 0 in lengths:
            found = ", ".join(str(n) for n in sorted(lengths))
            raise SamplerError(f"fanout: found lists or hops of {found}, expected one number of hops")
        for fanout in fanouts:
            for number in [fanout] if isinstance(fanout, int | np.integer) else fanout:
                if number < -1:
                    raise SamplerError(f"fanout: found {number}, expected a number of heads, or -1 for all")
        return lengths.pop() if lengths else 2

    def by_hop(self, graph: Graph) -> np.ndarray:
        """Heads of a tail: [hops, relations] int64. Raises SamplerError for relations that are not there."""
        excluded = {edge_type for name in self.exclude for edge_type in _named(graph, name)}
        if isinstance(self.fanout, Mapping):
            for edge_type in self.fanout:
                _named(graph, edge_type)
        table = np.zeros((self.num_hops, len(graph.edge_types)), np.int64)
        for r, edge_type in enumerate(graph.edge_types):
            if edge_type not in excluded:
                fanout = self.fanout
                table[:, r] = fanout.get(edge_type, 0) if isinstance(fanout, Mapping) else fanout
        return table


def _named(graph: Graph, name: str | EdgeType) -> list[EdgeType]:
    """Edge types of a relation's name, or the edge type itself."""
    found = [e for e in graph.edge_types if name == (e[1] if isinstance(name, str) else e)]
    if not found:
        known = ", ".join(edge_name(e) for e in graph.edge_types)
        raise SamplerError(f"relation: found {name!r}, expected one of {known}")
    return found
