"""The model of stage 1: typed input projection, an encoder's layers, and the task's head.

Shape suffixes: N nodes, S seeds, D hidden width, F feature width, E edges, T tails.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgpt.graphstore import EdgeType, Graph
from netgpt.sampler import MiniBatch
from netgpt.trainers.graph.activation import relu_dropout
from netgpt.trainers.graph.encoders import Layer, LayerEdges, LayerSpec, MeanLayer, make_layer
from netgpt.trainers.graph.projected import LearntTable, Projected, by_node_where_fewer
from netgpt.trainers.graph.rows import HeadRows, SampledRows, WholeRows
from netgpt.trainers.graph.scalars import NumberEncoding, ScalarEncoding
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.tables import DistinctRows, FeatureTables, WholeContents
from netgpt.trainers.tasks.heads import PlainHead


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
        self.target, self.tail_types = shape.target, frozenset(shape.tail_types)
        self.scalars = nn.ModuleDict(
            {
                name: ScalarEncoding(shape.scalar_bins, shape.steps.get(name, ()))
                if shape.feature_dims[name] == 1
                else NumberEncoding(shape.feature_dims[name])
                for name in shape.scalar_types
            }
        )
        dims = shape.feature_dims | {name: self.scalar(name).dim for name in shape.scalar_types}
        self.project = nn.ModuleDict(
            {
                name: LearntTable(shape.table_rows[name], shape.hidden)
                if name in shape.table_rows
                else nn.Linear(dim, shape.hidden)
                for name, dim in dims.items()
            }
        )
        self.parts = shape.layers
        specs = (
            LayerSpec(
                part.edge_types,
                part.node_types,
                shape.hidden,
                part.alone_types,
                heads=shape.heads,
                num_bases=shape.num_bases,
            )
            for part in self.parts
        )
        self.layers = nn.ModuleList(make_layer(shape.encoder, spec) for spec in specs)
        self.predictor = head(shape.hidden)

    def scalar(self, node_type: str) -> ScalarEncoding | NumberEncoding:
        module = self.scalars[node_type]
        assert isinstance(module, ScalarEncoding | NumberEncoding)
        return module

    def layer(self, index: int) -> Layer:
        module = self.layers[index]
        assert isinstance(module, Layer)
        return module

    @property
    def uses_degrees(self) -> bool:
        return self.layer(0).uses_degrees

    def fit_scalars(self, tables: FeatureTables, train: np.ndarray) -> None:
        """Fit the encodings of numbers to those of the train nodes, and of types that are not numbered as the
        target is to all."""
        graph = tables.graph
        for name in self.shape.scalar_types:
            of_target = graph.schema.is_numbered_as(name, self.target)
            nodes = train if of_target else np.arange(graph.num_nodes[name])
            self.scalar(name).fit(tables.gather(name, nodes))

    def gather(self, batch: MiniBatch, tables: FeatureTables) -> dict[str, DistinctRows]:
        """Features of a batch's nodes."""
        return {name: tables.contents(name, batch.nodes[name]) for name in self.shape.node_types}

    def drops(self, node_type: str) -> bool:
        """Whether nodes of a type lose their content now and then while the model is trained."""
        return self.feature_dropout > 0 and node_type not in self._kept

    def projected(self, node_type: str, x: Tensor, row: Tensor | None = None) -> Projected:
        """The input of some nodes: features [n, F], or by content with the row of each node."""
        project = self.project[node_type]
        assert isinstance(project, LearntTable | nn.Linear)
        if node_type in self.shape.scalar_types:
            x, row = by_node_where_fewer(x, row)
            x = self.scalar(node_type)(x)
        share = None
        if self.training and self.drops(node_type) and not isinstance(project, LearntTable):
            num = len(x) if row is None else len(row)
            keep = torch.rand(num, 1, device=x.device)[:, 0] >= self.feature_dropout
            share = keep.to(x.dtype) / (1 - self.feature_dropout)
        return Projected(x, row, project, share)

    def inputs(self, node_type: str, x_NF: Tensor, row: Tensor | None = None) -> Tensor:
        """Projected features: [n, F] → [n, D]; or by content with the row of each node, [N] → [N, D]."""
        return self.projected(node_type, x_NF, row).states

    def between(self, h: Tensor) -> Tensor:
        """Activation and dropout between layers."""
        return relu_dropout(h, self.dropout, self.training)

    def source(self, node_type: str, x_NF: Tensor, layer: int) -> Tensor:
        """States before `layer` of nodes that no relation ends in, from their features alone: [n, D]."""
        if layer == 0:
            return self.inputs(node_type, x_NF)
        bottom, given = self.layer(0), self.projected(node_type, x_NF)
        if isinstance(bottom, MeanLayer) and bottom.averages_features:
            h = self.between(given.mapped(partial(bottom.alone, node_type)))
        else:
            h = self.between(bottom.alone(node_type, given.states))
        for below in range(1, layer):
            h = self.between(self.layer(below).alone(node_type, h))
        return h

    def blocks(self, batch: MiniBatch, device: torch.device, degrees: Degrees | None) -> list[LayerEdges]:
        """The edges that each layer needs, the first layer's first: trimmed hop by hop."""
        blocks = []
        tables: dict[str, Tensor] = {}
        if degrees:
            tables = {name: degrees.of(name, batch.nodes[name]) for name in self.shape.tail_types}
        for index, part in enumerate(self.parts):
            hops = self.shape.num_layers - index
            new = {name: sum(counts[:hops]) for name, counts in batch.num_sampled_nodes.items()}
            num_tails = {name: new[name] for name in part.tail_types}
            num_alone = {name: new[name] for name in part.alone_types}
            rows: dict[EdgeType, HeadRows] = {}
            for edge_type in part.edge_types:
                num_edges = sum(batch.num_sampled_edges[edge_type][:hops])
                tail = edge_type[2]
                heads_E = torch.from_numpy(batch.heads[edge_type][:num_edges]).to(device)
                counts_T = torch.from_numpy(batch.degrees[edge_type][: num_tails[tail]]).to(device)
                degree_T = None
                if tables:
                    degree_T = tables[tail][: num_tails[tail], self.shape.ending_in(tail).index(edge_type)]
                rows[edge_type] = SampledRows(heads_E, counts_T, degree_T)
            total = {}
            for name in part.node_types:
                if name in tables:
                    num_states = sum(batch.num_sampled_nodes[name][: hops + 1])
                    total[name] = tables[name][:num_states].sum(1)
            blocks.append(LayerEdges(rows, num_tails, total, num_alone))
        return blocks

    def forward(
        self, contents: Mapping[str, DistinctRows], blocks: list[LayerEdges]
    ) -> tuple[Tensor, Tensor]:
        """Scores [T] and embeddings [T, D] of the last block's tails; all other states by content."""
        return self.encode({name: self.projected(name, c.x, c.row) for name, c in contents.items()}, blocks)

    def encode(self, inputs: Mapping[str, Projected], blocks: list[LayerEdges]) -> tuple[Tensor, Tensor]:
        """The layers over each node type's input. Each makes the states alone that the next one reads."""
        h: dict[str, Tensor] = {}
        for index, block in enumerate(blocks):
            layer, own = self.layer(index), {}
            for name in self.parts[index].alone_types:
                num = block.num_alone.get(name)
                if index:
                    own[name] = h[name][:num]
                else:
                    own[name] = inputs[name].states if num is None else inputs[name].first(num)
            if index == 0 and isinstance(layer, MeanLayer):
                out = layer.of_inputs(inputs, block)
            else:
                out = layer(h if index else {name: x.states for name, x in inputs.items()}, block)
            new = {name: layer.alone(name, x) for name, x in own.items()} | out
            if index + 1 == len(blocks):
                return self.score(new[self.target]), new[self.target]
            h = {name: self.between(x) for name, x in new.items()}
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
    """Heads of every node by relation that ends in its type, on the device."""

    def __init__(self, graph: Graph, shape: ModelShape, device: torch.device) -> None:
        self.tables_NR = {
            name: torch.from_numpy(
                np.stack([graph.relation(e).degree() for e in shape.ending_in(name)], 1).astype(np.int32)
            ).to(device)
            for name in shape.tail_types
        }

    def of(self, node_type: str, ids: np.ndarray) -> Tensor:
        """[n] node numbers → [n, R] int32."""
        table_NR = self.tables_NR[node_type]
        return table_NR[torch.from_numpy(ids).to(table_NR.device)]


class WholeGraph:
    """A graph as one batch of all its nodes, with every edge: states of types without heads by content."""

    def __init__(self, model: GraphModel, tables: FeatureTables, threads: int = 1) -> None:
        self.device = tables.device
        graph, shape = tables.graph, model.shape
        rows: dict[EdgeType, WholeRows] = {}
        self._contents: dict[str, DistinctRows] = {}
        for name in shape.node_types:
            whole = WholeContents.of(tables, name)
            x = torch.from_numpy(np.array(whole.x, None if name in tables.numbered else np.float32))
            # By node where a node has a state of its own: those with heads, and those that lose their content
            by_node = name in model.tail_types or name == model.target or model.drops(name)
            row = None
            if by_node and whole.row is not None:
                row = torch.from_numpy(whole.row.astype(np.int64)).to(self.device)
            self._contents[name] = DistinctRows(x.to(self.device), row)
            for edge_type in shape.edge_types:
                if edge_type[0] == name:
                    content = None if by_node else whole.row
                    rows[edge_type] = WholeRows(graph.relation(edge_type), self.device, content, threads)
        degree = {}
        if model.uses_degrees:
            for name in shape.tail_types:
                heads = [graph.relation(e).degree().astype(np.int64) for e in shape.ending_in(name)]
                degree[name] = torch.from_numpy(np.sum(heads, axis=0)).to(self.device)
        self.blocks = [
            LayerEdges(rows, {name: graph.num_nodes[name] for name in part.tail_types}, degree)
            for part in model.parts
        ]

    def run(self, model: GraphModel) -> tuple[Tensor, Tensor]:
        """Scores [N] and embeddings [N, D] of all target nodes."""
        return model(self._contents, self.blocks)
