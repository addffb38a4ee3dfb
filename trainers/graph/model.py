"""RGCN over a heterogeneous graph whose relations all end at one node type.

Shape suffixes: N nodes, S seeds, R relations, D hidden width, F feature width, E edges.
Formula: Schlichtkrull et al., "Modeling Relational Data with Graph Convolutional Networks", eq. 2,
with the mean over each relation's heads as normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from graphstore import EdgeType, Graph
from sampler import MiniBatch
from trainers.graph.scalars import ScalarEncoding

MAX_LEVEL = 9.0


class FeatureTables:
    """The distinct feature rows of every node type as float32 tensors on one device.

    Nodes that share content share a row, so a batch carries node numbers and a projection is computed
    once for each distinct row.
    """

    def __init__(self, graph: Graph, device: torch.device) -> None:
        self.graph = graph
        self.device = device
        self.x_NF = {
            name: torch.from_numpy(np.array(graph.features(name).x, np.float32)).to(device)
            for name in graph.node_types
        }

    def rows(self, node_type: str, ids: np.ndarray) -> Tensor:
        """Table rows of nodes: [n] node numbers → [n] int64 on the device."""
        rows = np.asarray(self.graph.features(node_type).rows(ids), np.int64)
        return torch.from_numpy(rows).to(self.device)


@dataclass(frozen=True, kw_only=True)
class RGCNShape:
    """All that is needed to make the module again."""

    feature_dims: dict[str, int]
    scalar_types: tuple[str, ...]
    edge_types: tuple[EdgeType, ...]
    hidden: int
    scalar_bins: int = 0
    num_layers: int = 2

    @staticmethod
    def of(graph: Graph, hidden: int, scalar_bins: int = 0) -> RGCNShape:
        return RGCNShape(
            feature_dims={name: graph.features(name).dim for name in graph.node_types},
            scalar_types=tuple(n.name for n in graph.schema.node_types if n.encoding == "scalar"),
            edge_types=graph.edge_types,
            hidden=hidden,
            scalar_bins=scalar_bins,
        )


class RGCNLayer(nn.Module):
    """h'_v = W_root h_v + Σ_r W_r mean(h_u of r's heads u of v) + b; other types: W_root h + b.

    One root weight serves every node type: all relations end at the target, so without it the other
    types would vanish after the first layer.
    """

    def __init__(self, edge_types: tuple[EdgeType, ...], hidden: int) -> None:
        super().__init__()
        self.edge_types = edge_types
        self.root = nn.Linear(hidden, hidden)
        self.weight_RDD = nn.Parameter(torch.empty(len(edge_types), hidden, hidden))
        # Variance of a sum of R + 1 terms: each relation gets its share
        nn.init.normal_(self.weight_RDD, std=(hidden * (len(edge_types) + 1)) ** -0.5)
        nn.init.normal_(self.root.weight, std=hidden**-0.5)
        nn.init.zeros_(self.root.bias)

    def forward(self, h_SD: Tensor, means_RSD: list[Tensor]) -> Tensor:
        """Target nodes: own states and, per relation in order, the means of their heads."""
        out = self.root(h_SD)
        for weight_DD, mean_SD in zip(self.weight_RDD, means_RSD, strict=True):
            out = out + mean_SD @ weight_DD
        return out


def mean_of_heads(h_ND: Tensor, heads_E: Tensor, counts_S: Tensor) -> Tensor:
    """Mean over each tail's heads, zero where it has none: edges are in the order of their tails.

    Gather and mean in one fused, deterministic operation.
    """
    begin_S = torch.cumsum(counts_S, 0, dtype=heads_E.dtype) - counts_S
    return F.embedding_bag(heads_E, h_ND, begin_S, mode="mean")


class RGCN(nn.Module):
    """Typed input projection, two RGCN layers, a linear predictor and 9 · sigmoid."""

    def __init__(self, shape: RGCNShape, dropout: float = 0.0, feature_dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        self.dropout, self.feature_dropout = dropout, feature_dropout
        self.target = shape.edge_types[0][2]
        self.scalars = nn.ModuleDict({name: ScalarEncoding(shape.scalar_bins) for name in shape.scalar_types})
        dims = shape.feature_dims | {name: self.scalar(name).dim for name in shape.scalar_types}
        self.project = nn.ModuleDict({name: nn.Linear(dim, shape.hidden) for name, dim in dims.items()})
        self.layers = nn.ModuleList(
            RGCNLayer(shape.edge_types, shape.hidden) for _ in range(shape.num_layers)
        )
        self.predictor = nn.Linear(shape.hidden, 1)

    def scalar(self, node_type: str) -> ScalarEncoding:
        module = self.scalars[node_type]
        assert isinstance(module, ScalarEncoding)
        return module

    def fit_scalars(self, tables: FeatureTables, train: np.ndarray) -> None:
        """Fit the encodings of scalars to those of the train nodes (numbered as the target is)."""
        for name in self.shape.scalar_types:
            self.scalar(name).fit(tables.x_NF[name][tables.rows(name, train)])

    def inputs(self, tables: FeatureTables, node_type: str, ids: np.ndarray) -> Tensor:
        """Projected features of nodes: [n] node numbers → [n, D]."""
        table_NF, rows = tables.x_NF[node_type], tables.rows(node_type, ids)
        scalar = node_type in self.shape.scalar_types
        # Few contents for many nodes: project each content once. Not where rows are dropped by node.
        drop = self.training and self.feature_dropout > 0 and not scalar
        shared = len(table_NF) <= len(ids) and not drop
        x = table_NF if shared else table_NF[rows]
        if scalar:
            x = self.scalar(node_type)(x)
        if drop:  # a node's whole content or none: words must not be learnt by heart
            keep = torch.rand(len(x), 1, device=x.device) >= self.feature_dropout
            x = x * keep / (1 - self.feature_dropout)
        h = self.project[node_type](x)
        return h[rows] if shared else h

    def root(self, layer: int, h: Tensor) -> Tensor:
        """What a layer makes of nodes that no relation ends in."""
        module = self.layers[layer]
        assert isinstance(module, RGCNLayer)
        return module.root(h)

    def between(self, h: Tensor) -> Tensor:
        """Activation and dropout between layers."""
        return F.dropout(F.relu(h), self.dropout, self.training)

    def forward(self, batch: MiniBatch, tables: FeatureTables) -> tuple[Tensor, Tensor]:
        """Scores [S] and embeddings [S, D] of a batch's seeds, trimmed hop by hop."""
        num_layers = self.shape.num_layers
        h = {name: self.inputs(tables, name, ids) for name, ids in batch.nodes.items()}
        for index, layer in enumerate(self.layers):
            hops = num_layers - index  # hops whose edges this layer still needs
            num_dst = sum(batch.num_sampled_nodes[self.target][:hops])
            means = []
            for edge_type in self.shape.edge_types:
                num_edges = sum(batch.num_sampled_edges[edge_type][:hops])
                heads_E = torch.from_numpy(batch.heads[edge_type][:num_edges]).to(tables.device)
                counts_S = torch.from_numpy(batch.degrees[edge_type][:num_dst]).to(tables.device)
                means.append(mean_of_heads(h[edge_type[0]], heads_E, counts_S))
            out = layer(h[self.target][:num_dst], means)
            if hops == 1:
                return self.score(out), out
            h = {name: self.between(self.root(index, x)) for name, x in h.items() if name != self.target}
            h[self.target] = self.between(out)
        raise AssertionError("a model has at least one layer")

    def score(self, h_SD: Tensor) -> Tensor:
        """Level scores of embeddings: [S, D] → [S], in (0, 9)."""
        h_SD = F.dropout(h_SD, self.dropout, self.training)
        return MAX_LEVEL * torch.sigmoid(self.predictor(h_SD).squeeze(-1))
