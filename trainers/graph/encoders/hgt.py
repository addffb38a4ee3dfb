"""HGT: Hu et al., "Heterogeneous Graph Transformer", eq. 3 to 5, without its relative times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders.layer import AttentionLayer, LayerSpec, glorot
from netgpt.trainers.graph.rows import HeadRows, joint_mean


class HGTLayer(AttentionLayer):
    """Attention by products of keys and queries, one softmax over the heads of all relations.

    With k, v, q = K_type h, V_type h, Q_type h of H attention heads of width C, an edge (u, r, v) has the
    score p_r (k_u A_r) · q_v / √C and brings v_u M_r; and h' = σ(s) (O gelu(Σ) + o) + (1 − σ(s)) h, with s, O
    and o of the type. A sampled head counts as often as it would have to for its row to be whole. Types that
    no relation ends in have an empty sum.
    """

    title = "HGT"
    uses_degrees = True

    def __init__(
        self,
        edge_types: tuple[EdgeType, ...],
        node_types: tuple[str, ...],
        alone_types: tuple[str, ...],
        hidden: int,
        heads: int,
    ) -> None:
        super().__init__(edge_types, hidden, heads)
        self.value_width, self.key_shape = 3 * self.width, (heads, self.width)
        self.project = nn.ModuleDict({name: nn.Linear(hidden, 3 * hidden) for name in node_types})
        self.out = nn.ModuleDict({name: nn.Linear(hidden, hidden) for name in self.tail_types})
        self.alone_bias = nn.ParameterDict({name: nn.Parameter(torch.zeros(hidden)) for name in alone_types})
        for module in (*self.project.values(), *self.out.values()):
            assert isinstance(module, nn.Linear)
            for weight in module.weight.split(hidden):
                nn.init.xavier_uniform_(weight)
            nn.init.zeros_(module.bias)
        self.key_RHCC = glorot(len(edge_types), heads, self.width, self.width)
        self.message_RHCC = glorot(len(edge_types), heads, self.width, self.width)
        self.prior_RH = nn.Parameter(torch.ones(len(edge_types), heads))
        new = (*self.tail_types, *alone_types)
        self.skip = nn.ParameterDict({name: nn.Parameter(torch.ones(())) for name in new})

    @classmethod
    def make(cls, spec: LayerSpec) -> HGTLayer:
        return cls(spec.edge_types, spec.node_types, spec.alone_types, spec.hidden, spec.heads)

    def values_of(self, node_type: str, h_ND: Tensor) -> Tensor:
        """Keys, values and queries, one after the other: [H, N, 3 C]."""
        x_N3HC = self.project[node_type](h_ND).view(-1, 3, self.heads, self.width)
        return x_N3HC.permute(2, 0, 1, 3).flatten(2).contiguous()

    def key(self, edge_type: EdgeType, value_HNC: Tensor) -> Tensor:
        """Keys of a relation's heads, as their products with queries are scores: [N, H, C]."""
        r = self.edge_types.index(edge_type)
        weight_HCC = self.key_RHCC[r] * (self.prior_RH[r] * self.width**-0.5)[:, None, None]
        return torch.bmm(value_HNC[:, :, : self.width], weight_HCC).transpose(0, 1)

    def attend(
        self,
        node_type: str,
        keys: Mapping[EdgeType, Tensor],
        values: Mapping[str, Tensor],
        own_HTC: Tensor,
        rows: Mapping[EdgeType, HeadRows],
    ) -> Tensor:
        query_THC = own_HTC[:, :, 2 * self.width :].transpose(0, 1)
        attentions = []
        for e in self.ending_in(node_type):
            value_HNC = values[e[0]][:, :, self.width : 2 * self.width]
            brought = rows[e].attend_products(keys[e], query_THC, value_HNC)
            message_HCC = self.message_RHCC[self.edge_types.index(e)]
            total_THC = torch.einsum("thc,hcd->thd", brought.total_THC, message_HCC)
            attentions.append(replace(brought, total_THC=total_THC))
        return joint_mean(attentions)[None]

    def combine(self, node_type: str, own_TD: Tensor, parts_KTD: Tensor, scores_K: Tensor) -> Tensor:
        new_TD = self.out[node_type](F.gelu(parts_KTD[0]))
        share = torch.sigmoid(self.skip[node_type])
        return share * new_TD + (1 - share) * own_TD

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        share = torch.sigmoid(self.skip[node_type])
        return share * self.alone_bias[node_type] + (1 - share) * h_ND
