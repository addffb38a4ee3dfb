"""What a graph model is made for: its types, relations and widths, and what each of its layers works on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from netgpt.graphstore import EdgeType, Schema
from netgpt.trainers.config import GraphConfig
from netgpt.trainers.errors import require
from netgpt.trainers.graph.without import Without


@dataclass(frozen=True)
class LayerPart:
    """What one layer works on: no more than the layers above it ask for."""

    tail_types: tuple[str, ...]
    """Types whose nodes get new states from their heads."""
    edge_types: tuple[EdgeType, ...]
    """The relations that end in them."""
    node_types: tuple[str, ...]
    """Types whose states before the layer are read."""
    alone_types: tuple[str, ...]
    """Those of them that it maps by themselves: no relation ends in them, and their new states are wanted."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """All that is needed to make the module again."""

    target: str
    feature_dims: dict[str, int]
    """Width of the input by node type, of the types that take part; of a learnt table 1: node numbers."""
    scalar_types: tuple[str, ...]
    """Types whose features are numbers: a count each, of width 1, or several of three places."""
    edge_types: tuple[EdgeType, ...]
    hidden: int
    encoder: str = "rgcn"
    heads: int = 1
    num_bases: int = 0
    scalar_bins: int = 0
    steps: dict[str, tuple[float, ...]] = field(default_factory=dict)
    """Counts that scalars are also told to be above, or not, by node type."""
    hidden_types: tuple[str, ...] = ()
    """Node types whose features are the zero vector."""
    num_layers: int = 2
    table_rows: dict[str, int] = field(default_factory=dict)
    """Nodes of the types without features that have a learnt vector each."""
    degree_types: tuple[str, ...] = ()
    """Node types without features that have their degrees in place of some."""

    @staticmethod
    def of(
        schema: Schema,
        feature_dims: Mapping[str, int],
        *,
        hidden: int,
        num_nodes: Mapping[str, int] | None = None,
        featureless: str = "table",
        without: frozenset[EdgeType] = frozenset(),
        thresholds: bool = False,
        num_layers: int = 2,
        **rest: Any,
    ) -> ModelShape:
        """The shape for a graph, less some relations and the node types that only they would reach. Of a
        target that no relation ends in the model is a plain network over its features.

        feature_dims: width of the features of each node type that has some. num_nodes, featureless: what
        types without features have in place of some (`graph.featureless`). thresholds: whether scalars are
        told apart at the schema's steps.
        """
        edge_types, target = tuple(e for e in schema.edge_types if e not in without), schema.target
        order = tuple(n.name for n in schema.node_types)
        first = layer_parts(edge_types, target, num_layers, order)[0]
        taking_part = [n for n in schema.node_types if n.name in first.node_types]
        bare = [n.name for n in taking_part if n.name not in feature_dims]
        lost = sorted(set(bare) & set(rest.get("hidden_types", ())))
        require(not lost, "features", ", ".join(lost), "node types that have some, to do without")
        by_degree = {name: max(1, sum(e[2] == name for e in edge_types)) for name in bare}
        by_table = dict.fromkeys(bare, 1)
        instead = by_table if featureless == "table" else by_degree
        scalars = [n for n in taking_part if n.encoding in ("scalar", "numbers")]
        return ModelShape(
            target=target,
            feature_dims={n.name: {**feature_dims, **instead}[n.name] for n in taking_part},
            scalar_types=tuple(n.name for n in scalars),
            edge_types=edge_types,
            hidden=hidden,
            steps={n.name: tuple(n.steps) for n in scalars if n.steps} if thresholds else {},
            num_layers=num_layers,
            table_rows={name: (num_nodes or {})[name] for name in bare} if featureless == "table" else {},
            degree_types=tuple(bare) if featureless == "degree" else (),
            **rest,
        )

    @staticmethod
    def configured(
        schema: Schema,
        feature_dims: Mapping[str, int],
        num_nodes: Mapping[str, int],
        config: GraphConfig,
        without: Without,
    ) -> ModelShape:
        """The shape that settings ask for: of what is trained, and of what is planned."""
        return ModelShape.of(
            schema,
            feature_dims,
            num_nodes=num_nodes,
            featureless=config.featureless,
            hidden=config.hidden,
            without=without.relations,
            hidden_types=tuple(sorted(without.features)),
            encoder=config.encoder,
            heads=config.heads,
            num_bases=config.num_bases,
            scalar_bins=config.scalar_bins,
            thresholds=config.thresholds,
            num_layers=config.layers,
        )

    @property
    def node_types(self) -> tuple[str, ...]:
        return tuple(self.feature_dims)

    @cached_property
    def layers(self) -> tuple[LayerPart, ...]:
        """What each layer works on, the first layer's first."""
        return layer_parts(self.edge_types, self.target, self.num_layers, self.node_types)

    @cached_property
    def tail_types(self) -> tuple[str, ...]:
        """Types that relations end in: their nodes have states of their own."""
        return tuple(name for name in self.node_types if any(e[2] == name for e in self.edge_types))

    def ending_in(self, node_type: str) -> tuple[EdgeType, ...]:
        return tuple(e for e in self.edge_types if e[2] == node_type)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> ModelShape:
        """The shape of a model's file. Where it names no target, all its relations end in one type."""
        edge_types = tuple((e[0], e[1], e[2]) for e in raw["edge_types"])
        target = raw["target"] if "target" in raw else edge_types[0][2]
        shape = ModelShape(**{**raw, "target": target, "edge_types": edge_types})
        return replace(
            shape,
            scalar_types=tuple(shape.scalar_types),
            hidden_types=tuple(shape.hidden_types),
            degree_types=tuple(shape.degree_types),
            steps={name: tuple(steps) for name, steps in shape.steps.items()},
        )


def layer_parts(
    edge_types: Sequence[EdgeType], target: str, num_layers: int, order: Sequence[str]
) -> tuple[LayerPart, ...]:
    """What each layer works on so that the last one gives states of the target, the first layer's first.

    order: of the node types in each part.
    """
    parts, wanted = [], {target}
    for _ in range(num_layers):
        here = tuple(e for e in edge_types if e[2] in wanted)
        tails = {e[2] for e in here}
        read = wanted | {e[0] for e in here}
        ordered = (tuple(n for n in order if n in names) for names in (tails, read, wanted - tails))
        tail_types, node_types, alone_types = ordered
        parts.append(LayerPart(tail_types, here, node_types, alone_types))
        wanted = read
    return tuple(reversed(parts))
