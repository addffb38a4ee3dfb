"""GraphSAGE: Hamilton et al., "Inductive Representation Learning on Large Graphs", algorithm 1 with the mean
aggregator; the relations of a heterogeneous graph are summed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders.layer import LayerSpec, MeanLayer


class SAGELayer(MeanLayer):
    """h'_v = W_type h_v + b_type + Σ_r W_r mean(h_u of r's heads u of v).

    Unlike RGCN's, the own weight is that of the node's type. Types without heads: W_type h + b_type.
    """

    title = "GraphSAGE"
    averages_features = True

    def __init__(self, edge_types: tuple[EdgeType, ...], node_types: tuple[str, ...], hidden: int) -> None:
        super().__init__(edge_types)
        self.own = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in node_types})
        self.heads_RDD = nn.Parameter(torch.empty(len(edge_types), hidden, hidden))
        # Variance of a sum of R + 1 terms: each relation gets its share
        std = (hidden * (1 + len(edge_types) / max(1, len(self.tail_types)))) ** -0.5
        nn.init.normal_(self.heads_RDD, std=std)
        for module in self.own.values():
            assert isinstance(module, nn.Linear)
            nn.init.normal_(module.weight, std=hidden**-0.5)
            nn.init.zeros_(module.bias)

    @classmethod
    def make(cls, spec: LayerSpec) -> SAGELayer:
        own = {*(e[2] for e in spec.edge_types), *spec.alone_types}  # others are heads and no more
        return cls(spec.edge_types, tuple(n for n in spec.node_types if n in own), spec.hidden)

    def transform(self, edge_type: EdgeType, h: Tensor) -> Tensor:
        return h @ self.heads_RDD[self.edge_types.index(edge_type)]

    def finish(self, node_type: str, own_TD: Tensor, total_TD: Tensor, degree_T: Tensor | None) -> Tensor:
        out: Tensor = self.own[node_type](own_TD) + total_TD
        return out

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        out: Tensor = self.own[node_type](h_ND)
        return out
