"""The model of stage 1: typed input projection, an encoder's layers, and the task's head.

Shape suffixes: N nodes, S seeds, D hidden width, F feature width, E edges, T tails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgpt.graphstore import EdgeType, Graph, Schema, edge_name
from netgpt.sampler import MiniBatch
from netgpt.trainers.config import GraphConfig
from netgpt.trainers.errors import require
from netgpt.trainers.graph.encoders import Layer, LayerEdges, LayerSpec, make_layer
from netgpt.trainers.graph.rows import SampledRows, WholeRows
from netgpt.trainers.graph.scalars import ScalarEncoding
from netgpt.trainers.graph.tables import DistinctRows, FeatureTables, WholeContents
from netgpt.trainers.graph.without import Without
from netgpt.trainers.tasks.heads import PlainHead

NUM_LAYERS = 2


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """All that is needed to make the module again."""

    feature_dims: dict[str, int]
    """Feature width by node type, of the types that take part."""
    scalar_types: tuple[str, ...]
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
    num_layers: int = NUM_LAYERS

    @staticmethod
    def of(
        schema: Schema,
        feature_dims: Mapping[str, int],
        *,
        hidden: int,
        without: frozenset[EdgeType] = frozenset(),
        thresholds: bool = False,
        **rest: Any,
    ) -> ModelShape:
        """The shape for a graph, less some relations and the node types that only they would reach.

        feature_dims: width of the features of each node type that has some. thresholds: whether scalars are
        told apart at the schema's steps.
        """
        edge_types = tuple(e for e in schema.edge_types if e not in without)
        require(bool(edge_types), "relations", "none", "at least one that is left")
        for e in edge_types:
            require(e[2] == schema.target, edge_name(e), e[2], f"an end in {schema.target}")
        left = {schema.target} | {e[0] for e in edge_types}
        bare = sorted(left.difference(feature_dims))
        require(not bare, "node types", ", ".join(bare), "features for every type that takes part")
        scalars = [n for n in schema.node_types if n.encoding == "scalar" and n.name in left]
        return ModelShape(
            feature_dims={n.name: feature_dims[n.name] for n in schema.node_types if n.name in left},
            scalar_types=tuple(n.name for n in scalars),
            edge_types=edge_types,
            hidden=hidden,
            steps={n.name: tuple(n.steps) for n in scalars if n.steps} if thresholds else {},
            **rest,
        )

    @staticmethod
    def configured(
        schema: Schema, feature_dims: Mapping[str, int], config: GraphConfig, without: Without
    ) -> ModelShape:
        """The shape that settings ask for: of what is trained, and of what is planned."""
        return ModelShape.of(
            schema,
            feature_dims,
            hidden=config.hidden,
            without=without.relations,
            hidden_types=tuple(sorted(without.features)),
            encoder=config.encoder,
            heads=config.heads,
            num_bases=config.num_bases,
            scalar_bins=config.scalar_bins,
            thresholds=config.thresholds,
        )

    @property
    def node_types(self) -> tuple[str, ...]:
        return tuple(self.feature_dims)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> ModelShape:
        shape = ModelShape(**raw)
        return replace(
            shape,
            scalar_types=tuple(shape.scalar_types),
            hidden_types=tuple(shape.hidden_types),
            steps={name: tuple(steps) for name, steps in shape.steps.items()},
            edge_types=tuple((e[0], e[1], e[2]) for e in shape.edge_types),
        )


class GraphModel(nn.Module):
    """Scores and embeddings of target nodes from their own features and those of the nodes around them."""

    def __init__(
        self,
        shape: ModelShape,
        head: Callable[[int], nn.Module] = PlainHead,
        dropout: float = 0.0,
        feature_dropout: float = 0.0,
        keep_features: Collection[str] = (),
    ) -> None:
        """head: makes the map from states of a width to scores, [n, D] → [n]: a task's.

        keep_features: node types, besides scalars, that feature dropout leaves alone.
        """
        super().__init__()
        self._kept = frozenset([*keep_features, *shape.scalar_types])
        self.shape = shape
        self.dropout, self.feature_dropout = dropout, feature_dropout
        self.target = shape.edge_types[0][2]
        self.scalars = nn.ModuleDict(
            {
                name: ScalarEncoding(shape.scalar_bins, shape.steps.get(name, ()))
                for name in shape.scalar_types
            }
        )
        dims = shape.feature_dims | {name: self.scalar(name).dim for name in shape.scalar_types}
        self.project = nn.ModuleDict({name: nn.Linear(dim, shape.hidden) for name, dim in dims.items()})
        spec = LayerSpec(
            shape.edge_types, shape.node_types, shape.hidden, heads=shape.heads, num_bases=shape.num_bases
        )
        self.layers = nn.ModuleList(make_layer(shape.encoder, spec) for _ in range(shape.num_layers))
        self.predictor = head(shape.hidden)

    def scalar(self, node_type: str) -> ScalarEncoding:
        module = self.scalars[node_type]
        assert isinstance(module, ScalarEncoding)
        return module

    def layer(self, index: int) -> Layer:
        module = self.layers[index]
        assert isinstance(module, Layer)
        return module

    @property
    def uses_degrees(self) -> bool:
        return self.layer(0).uses_degrees

    def fit_scalars(self, tables: FeatureTables, train: np.ndarray) -> None:
        """Fit the encodings of scalars to those of the train nodes (numbered as the target is)."""
        for name in self.shape.scalar_types:
            self.scalar(name).fit(tables.gather(name, train))

    def gather(self, batch: MiniBatch, tables: FeatureTables) -> dict[str, DistinctRows]:
        """Features of a batch's nodes. Where contents are hidden node by node, one row a node."""
        return {
            name: DistinctRows(tables.gather(name, batch.nodes[name]), None)
            if self.training and self.drops(name)
            else tables.contents(name, batch.nodes[name])
            for name in self.shape.node_types
        }

    def drops(self, node_type: str) -> bool:
        """Whether nodes of a type lose their content now and then while the model is trained."""
        return self.feature_dropout > 0 and node_type not in self._kept

    def inputs(self, node_type: str, x_NF: Tensor, row: Tensor | None = None) -> Tensor:
        """Projected features: [n, F] → [n, D]; or by content with the row of each node, [N] → [N, D]."""
        project = self.project[node_type]
        assert isinstance(project, nn.Linear)
        if node_type in self.shape.scalar_types:
            x_NF = self.scalar(node_type)(x_NF)
        if not (self.training and self.drops(node_type)):
            h_ND: Tensor = project(x_NF)
            return h_ND if row is None else F.embedding(row, h_ND)
        # A node's whole content or none, not that of all who share it: words must not be learnt by heart
        if row is None:
            keep = torch.rand(len(x_NF), 1, device=x_NF.device) >= self.feature_dropout
            return project(x_NF * keep / (1 - self.feature_dropout))  # type: ignore[no-any-return]
        h_ND = F.embedding(row, F.linear(x_NF, project.weight))
        keep = torch.rand(len(h_ND), 1, device=h_ND.device) >= self.feature_dropout
        return h_ND * keep / (1 - self.feature_dropout) + project.bias

    def between(self, h: Tensor) -> Tensor:
        """Activation and dropout between layers."""
        return F.dropout(F.relu(h), self.dropout, self.training)

    def source(self, node_type: str, x_NF: Tensor, layer: int) -> Tensor:
        """States before `layer` of nodes that no relation ends in, from their features alone: [n, D]."""
        h = self.inputs(node_type, x_NF)
        for below in range(layer):
            h = self.between(self.layer(below).alone(node_type, h))
        return h

    def blocks(self, batch: MiniBatch, device: torch.device, degrees: Degrees | None) -> list[LayerEdges]:
        """The edges that each layer needs, the first layer's first: trimmed hop by hop."""
        blocks = []
        target_ids = batch.nodes[self.target]
        degree = degrees.of(target_ids) if degrees else None
        for hops in range(self.shape.num_layers, 0, -1):
            num_tails = sum(batch.num_sampled_nodes[self.target][:hops])
            num_states = sum(batch.num_sampled_nodes[self.target][: hops + 1])
            rows = {}
            for r, edge_type in enumerate(self.shape.edge_types):
                num_edges = sum(batch.num_sampled_edges[edge_type][:hops])
                heads_E = torch.from_numpy(batch.heads[edge_type][:num_edges]).to(device)
                counts_T = torch.from_numpy(batch.degrees[edge_type][:num_tails]).to(device)
                rows[edge_type] = SampledRows(
                    heads_E, counts_T, None if degree is None else degree[:num_tails, r]
                )
            total = None if degree is None else degree[:num_states].sum(1)
            blocks.append(LayerEdges(rows, num_tails, total))
        return blocks

    def forward(
        self, contents: Mapping[str, DistinctRows], blocks: list[LayerEdges]
    ) -> tuple[Tensor, Tensor]:
        """Scores [T] and embeddings [T, D] of the last block's tails; all other states by content."""
        return self.encode({name: self.inputs(name, c.x, c.row) for name, c in contents.items()}, blocks)

    def encode(self, h: dict[str, Tensor], blocks: list[LayerEdges]) -> tuple[Tensor, Tensor]:
        """The layers over projected features [n, D] by node type."""
        for index, block in enumerate(blocks):
            layer = self.layer(index)
            out = layer(h, block)
            if index + 1 == len(blocks):
                return self.score(out), out
            h = {name: self.between(layer.alone(name, x)) for name, x in h.items() if name != self.target}
            h[self.target] = self.between(out)
        raise AssertionError("a model has at least one layer")

    def score(self, h_SD: Tensor) -> Tensor:
        """Scores of embeddings: [S, D] → [S]. In the head's float32 also under autocast."""
        with torch.autocast(h_SD.device.type, enabled=False):
            h_SD = F.dropout(h_SD.to(self.head_dtype), self.dropout, self.training)
            scores_S: Tensor = self.predictor(h_SD)
            return scores_S

    @property
    def head_dtype(self) -> torch.dtype:
        return next(self.predictor.parameters()).dtype


class Degrees:
    """Heads of every target node by relation, on the device."""

    def __init__(self, graph: Graph, edge_types: tuple[EdgeType, ...], device: torch.device) -> None:
        table_NR = np.stack([graph.relation(e).degree() for e in edge_types], 1).astype(np.int32)
        self.table_NR = torch.from_numpy(table_NR).to(device)

    def of(self, ids: np.ndarray) -> Tensor:
        """[n] node numbers → [n, R] int32."""
        return self.table_NR[torch.from_numpy(ids).to(self.table_NR.device)]


class WholeGraph:
    """A graph as one batch of all its target nodes, with every edge: states of other types by content."""

    def __init__(self, model: GraphModel, tables: FeatureTables, threads: int = 1) -> None:
        self.device = tables.device
        graph, target = tables.graph, model.target
        rows = {}
        self._contents: dict[str, DistinctRows] = {}
        for name in model.shape.node_types:
            whole = WholeContents.of(tables, name)
            x = torch.from_numpy(np.array(whole.x, np.float32)).to(self.device)
            # By node where a node has a state of its own: the target, and nodes that lose their content
            by_node = name == target or model.drops(name)
            row = None
            if by_node and whole.row is not None:
                row = torch.from_numpy(whole.row.astype(np.int64)).to(self.device)
            self._contents[name] = DistinctRows(x, row)
            for edge_type in model.shape.edge_types:
                if edge_type[0] == name:
                    content = None if by_node else whole.row
                    rows[edge_type] = WholeRows(graph.relation(edge_type), self.device, content, threads)
        degree = None
        if model.uses_degrees:
            degree = torch.stack([rows[e].degree_T for e in model.shape.edge_types]).sum(0)
        self.block = LayerEdges(rows, graph.num_nodes[target], degree)
        self.num_layers = model.shape.num_layers

    def run(self, model: GraphModel) -> tuple[Tensor, Tensor]:
        """Scores [N] and embeddings [N, D] of all target nodes."""
        return model(self._contents, [self.block] * self.num_layers)
