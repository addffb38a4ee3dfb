"""HAN: Wang et al., "Heterogeneous Graph Attention Network", eq. 1 to 9, each relation a meta-path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders.layer import AdditiveAttention, glorot
from netgpt.trainers.graph.rows import Attention


class HANLayer(AdditiveAttention):
    """Attention over each relation's heads, then over the relations.

    z_r = relu(Σ_u softmax_u(leaky_relu(a_r · x_u + b_r · x_v)) x_u) with x = W_type h + c_type, and
    h' = Σ_r softmax_r(mean over tails of q · tanh(K z_r + k)) z_r. Types that no relation ends in become
    relu(x). The mean is over the tails that are there: all of them in exact inference, those of the
    batch (and rank) while training.
    """

    title = "HAN"

    def __init__(
        self, edge_types: tuple[EdgeType, ...], node_types: tuple[str, ...], hidden: int, heads: int
    ) -> None:
        super().__init__(edge_types, node_types, hidden, heads, bias=True)
        self.semantic = nn.Linear(hidden, hidden)
        self.query_D = nn.Parameter(glorot(1, hidden).data[0])

    def parts(self, attentions: list[Attention]) -> Tensor:
        return torch.relu(torch.stack([attention.mean() for attention in attentions]))

    def scores(self, parts_KTD: Tensor) -> Tensor:
        # Part by part: tanh keeps its output for the gradient, and one at a time is enough at once
        return torch.stack([torch.tanh(self.semantic(part)).sum(0) @ self.query_D for part in parts_KTD])

    def combine(self, node_type: str, own_TD: Tensor, parts_KTD: Tensor, scores_K: Tensor) -> Tensor:
        return torch.einsum("k,ktd->td", torch.softmax(scores_K, 0), parts_KTD)

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        return torch.relu(self.project[node_type](h_ND))
