"""HetSANN: Hong et al., "An Attention-Based Graph Neural Network for Heterogeneous Structural Learning",
section 4: projections by pair of types, attention vectors by relation, one softmax over all relations."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders.layer import AdditiveAttention
from netgpt.trainers.graph.rows import Attention, joint_mean


class HetSANNLayer(AdditiveAttention):
    """h'_v = h_v + elu(Σ_e softmax_e(leaky_relu(a_r · W_type h_u + b_r · W_target h_v)) W_type h_u).

    The sum and the softmax run over the edges e = (u, r, v) of all relations together; a sampled head
    counts as often as it would have to for its row to be whole. Types that no relation ends in keep
    their states.
    """

    title = "HetSANN"
    uses_degrees = True

    def __init__(
        self, edge_types: tuple[EdgeType, ...], node_types: tuple[str, ...], hidden: int, heads: int
    ) -> None:
        super().__init__(edge_types, node_types, hidden, heads, bias=False)

    def parts(self, attentions: list[Attention]) -> Tensor:
        return joint_mean(attentions)[None]

    def combine(self, node_type: str, own_TD: Tensor, parts_KTD: Tensor, scores_K: Tensor) -> Tensor:
        return own_TD + F.elu(parts_KTD[0])

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        return h_ND
