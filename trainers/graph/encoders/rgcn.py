"""RGCN: Schlichtkrull et al., "Modeling Relational Data with Graph Convolutional Networks", eq. 2 with
the mean over each relation's heads as normalisation, and eq. 3 for the basis decomposition."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.config import GraphConfig
from netgpt.trainers.graph.encoders.layer import LayerSpec, MeanLayer


class RGCNLayer(MeanLayer):
    """h'_v = W_root h_v + Σ_r W_r mean(h_u of r's heads u of v) + b; other types: W_root h + b.

    One root weight serves every node type, also those that no relation ends in, which would vanish after
    the first layer without it. With `num_bases`, W_r = Σ_b a_rb V_b.
    """

    title = "RGCN"
    averages_features = True

    def __init__(self, edge_types: tuple[EdgeType, ...], hidden: int, num_bases: int = 0) -> None:
        super().__init__(edge_types)
        self.root = nn.Linear(hidden, hidden)
        num = num_bases or len(edge_types)
        # Variance of a sum of R + 1 terms, R the relations of the type that most end in: each gets its share
        most = max(Counter(e[2] for e in edge_types).values(), default=0)
        self.basis_BDD = nn.Parameter(torch.empty(num, hidden, hidden))
        nn.init.normal_(self.basis_BDD, std=(hidden * (most + 1)) ** -0.5)
        self.share_RB = nn.Parameter(torch.empty(len(edge_types), num)) if num_bases else None
        if self.share_RB is not None:
            nn.init.normal_(self.share_RB, std=num**-0.5)
        nn.init.normal_(self.root.weight, std=hidden**-0.5)
        nn.init.zeros_(self.root.bias)

    @classmethod
    def make(cls, spec: LayerSpec) -> RGCNLayer:
        return cls(spec.edge_types, spec.hidden, spec.num_bases)

    @classmethod
    def check(cls, config: GraphConfig) -> None:
        """Takes all settings."""

    def weight_of(self, edge_type: EdgeType) -> Tensor:
        """W_r, to be multiplied from the right: [D, D]."""
        r = self.edge_types.index(edge_type)
        if self.share_RB is None:
            return self.basis_BDD[r]
        return torch.einsum("b,bij->ij", self.share_RB[r], self.basis_BDD)

    def transform(self, edge_type: EdgeType, h: Tensor) -> Tensor:
        return h @ self.weight_of(edge_type)

    def finish(self, node_type: str, own_TD: Tensor, total_TD: Tensor, degree_T: Tensor | None) -> Tensor:
        out: Tensor = self.root(own_TD) + total_TD
        return out

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        out: Tensor = self.root(h_ND)
        return out
