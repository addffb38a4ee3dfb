"""GCN over all nodes and relations as one graph: Kipf and Welling, "Semi-Supervised Classification with
Graph Convolutional Networks", eq. 2, with degrees counted at the tails and a loop at every node."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders.layer import LayerSpec, MeanLayer


class GCNLayer(MeanLayer):
    """h'_v = W (Σ_u h_u / √(d_u d_v) + h_v / d_v) + b with d = 1 + heads over all relations.

    Degrees are those of the whole graph, and a sampled mean counts as many heads as the row has: the
    expectation over samples is the sum over all.
    """

    title = "GCN"
    averages_features = True
    uses_degrees = True

    def __init__(self, edge_types: tuple[EdgeType, ...], hidden: int) -> None:
        super().__init__(edge_types)
        self.linear = nn.Linear(hidden, hidden)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @classmethod
    def make(cls, spec: LayerSpec) -> GCNLayer:
        return cls(spec.edge_types, spec.hidden)

    def send(self, node_type: str, h_ND: Tensor, degree_N: Tensor | None) -> Tensor:
        return h_ND if degree_N is None else h_ND * torch.rsqrt(degree_N.to(h_ND.dtype) + 1)[:, None]

    def weighted(self, mean_TD: Tensor, degree_T: Tensor) -> Tensor:
        return mean_TD * degree_T[:, None]

    def finish(self, node_type: str, own_TD: Tensor, total_TD: Tensor, degree_T: Tensor | None) -> Tensor:
        assert degree_T is not None
        d_T1 = degree_T.to(own_TD.dtype)[:, None] + 1
        out: Tensor = self.linear(total_TD * torch.rsqrt(d_T1) + own_TD / d_T1)
        return out

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        out: Tensor = self.linear(h_ND)  # its loop alone: d = 1
        return out
