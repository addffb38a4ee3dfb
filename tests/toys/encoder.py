"""A toy encoder: GraphSAGE with means, one map for all relations, and states of length one.

Hamilton et al., "Inductive Representation Learning on Large Graphs", algorithm 1.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders import LayerSpec, MeanLayer


class SAGELayer(MeanLayer):
    """h'_v = unit(W_own h_v + W_other (Σ_r mean of r's heads of v) / R); other types: unit(W_own h)."""

    title = "SAGE"

    def __init__(self, edge_types: tuple[EdgeType, ...], hidden: int) -> None:
        super().__init__(edge_types)
        self.own, self.other = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)

    @classmethod
    def make(cls, spec: LayerSpec) -> SAGELayer:
        return cls(spec.edge_types, spec.hidden)

    def transform(self, edge_type: EdgeType, h: Tensor) -> Tensor:
        out: Tensor = self.other(h)
        return out / len(self.edge_types)

    def finish(self, node_type: str, own_TD: Tensor, total_TD: Tensor, degree_T: Tensor | None) -> Tensor:
        return F.normalize(self.own(own_TD) + total_TD)

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        return F.normalize(self.own(h_ND))
