"""What the encoders have in common: one layer, as seen by the model and by exact inference.

A layer makes new states of tails from their own states and from their heads'. Tails are nodes of every type
that one of its relations ends in; nodes of other types have no heads, and a layer maps them by themselves.

Shape suffixes: N nodes of a type, T tails (the first nodes of a type), D hidden width, H attention heads, C
width of one of them, K parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from netgpt.graphstore import EdgeType
from netgpt.trainers.config import GraphConfig
from netgpt.trainers.errors import require
from netgpt.trainers.graph.buffers import empty
from netgpt.trainers.graph.projected import Projected
from netgpt.trainers.graph.rows import Attention, HeadRows, SampledRows, Table, add_rows, read_rows


@dataclass(frozen=True)
class LayerEdges:
    """The edges that one layer works on."""

    rows: Mapping[EdgeType, HeadRows]
    num_tails: Mapping[str, int]
    """How many of the first nodes get a new state, by node type."""
    degree_N: Mapping[str, Tensor] = field(default_factory=dict)
    """By type, heads over all relations of every node whose state is there, in the whole graph; only for
    layers that ask for it, and of types that relations end in."""
    num_alone: Mapping[str, int] = field(default_factory=dict)
    """How many of the first nodes of types without heads the next layer reads; by default all."""


@dataclass(frozen=True)
class LayerSpec:
    """What a layer is made for."""

    edge_types: tuple[EdgeType, ...]
    node_types: tuple[str, ...]
    """Types whose states it reads."""
    hidden: int
    alone_types: tuple[str, ...] = ()
    """Those of them that it maps by themselves: no relation ends in them, and their new states are wanted."""
    heads: int = 1
    """Attention heads, for layers that have some."""
    num_bases: int = 0
    """Bases that relation weights are mixed from, for layers that can; 0: a weight of its own for each."""


class Layer(nn.Module):
    """One layer of an encoder. Subclass `MeanLayer` or `AttentionLayer`: exact inference runs these two."""

    title: ClassVar[str]
    """The encoder as the literature spells it."""
    uses_degrees = False
    """Whether the layer needs degrees in the whole graph."""

    @classmethod
    def make(cls, spec: LayerSpec) -> Self:
        """A freshly initialised layer."""
        raise NotImplementedError

    @classmethod
    def check(cls, config: GraphConfig) -> None:
        """TrainerError for settings that the encoder has no use for, before anything starts."""
        require(config.num_bases == 0, "graph.num_bases", config.num_bases, "0: only rgcn has bases")

    def __init__(self, edge_types: tuple[EdgeType, ...]) -> None:
        super().__init__()
        self.edge_types = edge_types
        self.tail_types = tuple(dict.fromkeys(e[2] for e in edge_types))
        """Types that its relations end in."""

    def ending_in(self, node_type: str) -> tuple[EdgeType, ...]:
        """The relations that bring something to nodes of a type."""
        return tuple(e for e in self.edge_types if e[2] == node_type)

    def forward(self, h: Mapping[str, Tensor], block: LayerEdges) -> dict[str, Tensor]:
        """States before the layer by node type [N, D] → new states of the block's tails [T, D]."""
        raise NotImplementedError

    def alone(self, node_type: str, h_ND: Tensor) -> Tensor:
        """New states of nodes of a type that no relation ends in."""
        raise NotImplementedError


class MeanLayer(Layer):
    """out = finish(own states, Σ_r weighted(transform_r(mean over r's heads of send(h))))."""

    averages_features: ClassVar[bool] = False
    """Whether the first layer may average features in place of the states that are made of them: nodes of
    types without heads send their states as they are, `alone` is an affine map of theirs, and `weighted`
    multiplies each row by a number."""

    def send(self, node_type: str, h_ND: Tensor, degree_N: Tensor | None) -> Tensor:
        """What heads send, before the mean; degree_N is given for types that relations end in."""
        return h_ND

    def transform(self, edge_type: EdgeType, h: Tensor) -> Tensor:
        """A linear map of what a relation brings; before or after the mean, which makes no difference."""
        return h

    def weighted(self, mean_TD: Tensor, degree_T: Tensor) -> Tensor:
        """What each tail's mean counts, given its degree in the relation."""
        return mean_TD

    def finish(self, node_type: str, own_TD: Tensor, total_TD: Tensor, degree_T: Tensor | None) -> Tensor:
        """New states of tails of a type from the own ones and what the relations brought."""
        raise NotImplementedError

    def forward(self, h: Mapping[str, Tensor], block: LayerEdges) -> dict[str, Tensor]:
        return self._new({name: (x, None) for name, x in h.items()}, {}, {}, block)

    def of_inputs(self, inputs: Mapping[str, Projected], block: LayerEdges) -> dict[str, Tensor]:
        """The same over the input of each node type, for the first layer: states by content, each made
        once, or features in their place."""
        leaving = {name: [block.rows[e] for e in self.edge_types if e[0] == name] for name in inputs}
        features = {
            name: x
            for name, x in inputs.items()
            if self.averages_features
            and name not in block.degree_N
            and x.averages_features(leaving[name], block.num_tails.get(name, 0))
        }
        own = {n: features[n].first(num) for n, num in block.num_tails.items() if n in features}
        tables = {
            name: (x.states, None) if name in block.degree_N else x.table
            for name, x in inputs.items()
            if name not in features and (leaving[name] or name in block.num_tails)
        }
        return self._new(tables, features, own, block)

    def _new(
        self,
        tables: Mapping[str, Table],
        features: Mapping[str, Projected],
        own: dict[str, Tensor],
        block: LayerEdges,
    ) -> dict[str, Tensor]:
        """New states of tails. features: types whose features are averaged; own: the tails' of these."""
        own = dict(own)
        sent: dict[str, Table] = {}
        means: dict[EdgeType, Tensor] = {}
        for name, (h, row) in tables.items():
            sent[name] = self.send(name, h, block.degree_N.get(name)), row
            num, size = block.num_tails.get(name, 0), len(sent[name][0])
            # The smaller side is multiplied
            late = [e for e in self.edge_types if e[0] == name and size >= block.rows[e].num_tails]
            rows = [block.rows[e] for e in late]
            own[name], found = read_rows(h, row, num, sent[name][0], rows)
            means |= dict(zip(late, found, strict=True))
        new = {}
        for name in block.num_tails:
            total_TD = self._brought(name, own[name], features, sent, means, block)
            degree = block.degree_N.get(name)
            degree_T = None if degree is None else degree[: len(own[name])]
            new[name] = self.finish(name, own[name], total_TD, degree_T)
        return new

    def _brought(
        self,
        node_type: str,
        own_TD: Tensor,
        features: Mapping[str, Projected],
        sent: Mapping[str, Table],
        means: Mapping[EdgeType, Tensor],
        block: LayerEdges,
    ) -> Tensor:
        """The sum over the relations that end in a type: [T, D]."""
        # Under autocast products are bfloat16; their sum is not
        total_TD = torch.zeros_like(own_TD, dtype=torch.promote_types(own_TD.dtype, torch.float32))
        if early := [e for e in self.ending_in(node_type) if e[0] in features]:
            total_TD = self._of_features(early, features, block).to(total_TD.dtype)
        tables: list[tuple[HeadRows, Table]] = []
        for e in (e for e in self.ending_in(node_type) if e[0] not in features):
            if e in means:
                total_TD = total_TD + self.weighted(self.transform(e, means[e]), block.rows[e].degree_T)
            else:
                h, row = sent[e[0]]
                tables.append((block.rows[e], (self.transform(e, h), row)))
        return add_rows(total_TD, tables, self.weighted, self.averages_features)

    def _of_features(
        self, edge_types: Sequence[EdgeType], features: Mapping[str, Projected], block: LayerEdges
    ) -> Tensor:
        """What relations bring whose features are averaged, all in one product: [T, D]."""
        with torch.autocast(block.rows[edge_types[0]].degree_T.device.type, enabled=False):
            # A product of weights is a weight
            weights = [self.transform(e, features[e[0]].affine) for e in edge_types]
            weight_KD = torch.cat(weights)
        num = block.rows[edge_types[0]].num_tails
        means_TK = empty(num, len(weight_KD), weight_KD)
        for e, mean_TF in zip(edge_types, means_TK.split([len(w) for w in weights], 1), strict=True):
            rows = block.rows[e]
            assert isinstance(rows, SampledRows)
            features[e[0]].means(rows, mean_TF)
            counted_TF = self.weighted(mean_TF, rows.degree_T)
            if counted_TF is not mean_TF:
                mean_TF.copy_(counted_TF)
        return means_TK @ weight_KD


class AttentionLayer(Layer):
    """A softmax over each row; what the relations bring is combined from one or more parts.

    Parts are [K, T, D]. Where parts are weighed against each other, their scores are means over all tails of
    a type, so exact inference makes all parts before it combines any.
    """

    def __init__(self, edge_types: tuple[EdgeType, ...], hidden: int, heads: int) -> None:
        super().__init__(edge_types)
        self.heads, self.width = heads, hidden // heads
        self.value_width = self.width
        """Width of what `values_of` makes for each attention head."""
        self.key_shape: tuple[int, ...] = (heads,)
        """Shape of a node's key."""

    @classmethod
    def check(cls, config: GraphConfig) -> None:
        super().check(config)
        divides = config.hidden % config.heads == 0
        require(divides, "graph.heads", config.heads, f"a divisor of graph.hidden ({config.hidden})")

    def values_of(self, node_type: str, h_ND: Tensor) -> Tensor:
        """What nodes of a type show of themselves: [H, N, C], head after head, as they are summed."""
        raise NotImplementedError

    def key(self, edge_type: EdgeType, value_HNC: Tensor) -> Tensor:
        """Keys of a relation's heads: [N, H]."""
        raise NotImplementedError

    def attend(
        self,
        node_type: str,
        keys: Mapping[EdgeType, Tensor],
        values: Mapping[str, Tensor],
        own_HTC: Tensor,
        rows: Mapping[EdgeType, HeadRows],
    ) -> Tensor:
        """Parts [K, T, D] of tails of a type, from the relations' keys, the values of all node types, and
        those of the tails."""
        raise NotImplementedError

    def scores(self, parts_KTD: Tensor) -> Tensor:
        """Score of each part, summed over tails: [K]. Of one part there is nothing to weigh."""
        return torch.zeros(1, device=parts_KTD.device)

    def combine(self, node_type: str, own_TD: Tensor, parts_KTD: Tensor, scores_K: Tensor) -> Tensor:
        """New states, given each part's mean score."""
        raise NotImplementedError

    def forward(self, h: Mapping[str, Tensor], block: LayerEdges) -> dict[str, Tensor]:
        values = {name: self.values_of(name, x) for name, x in h.items()}
        keys = {e: self.key(e, values[e[0]]) for e in self.edge_types}
        new = {}
        for name, num in block.num_tails.items():
            parts_KTD = self.attend(name, keys, values, values[name][:, :num], block.rows)
            scores_K = self.scores(parts_KTD) / max(1, num)
            new[name] = self.combine(name, h[name][:num], parts_KTD, scores_K)
        return new


class AdditiveAttention(AttentionLayer):
    """Scores are leaky_relu(key of the head + query of the tail), each a product with a vector of the
    relation, as in GAT."""

    def __init__(
        self,
        edge_types: tuple[EdgeType, ...],
        node_types: tuple[str, ...],
        hidden: int,
        heads: int,
        *,
        bias: bool,
    ) -> None:
        super().__init__(edge_types, hidden, heads)
        self.project = nn.ModuleDict({name: nn.Linear(hidden, hidden, bias=bias) for name in node_types})
        for module in self.project.values():
            assert isinstance(module, nn.Linear)
            nn.init.xavier_uniform_(module.weight)
            if bias:
                nn.init.zeros_(module.bias)
        self.head_RHC = glorot(len(edge_types), heads, self.width)
        self.tail_RHC = glorot(len(edge_types), heads, self.width)

    @classmethod
    def make(cls, spec: LayerSpec) -> Self:
        return cls(spec.edge_types, spec.node_types, spec.hidden, spec.heads)  # type: ignore[call-arg]

    def values_of(self, node_type: str, h_ND: Tensor) -> Tensor:
        x_ND: Tensor = self.project[node_type](h_ND)
        return x_ND.view(-1, self.heads, self.width).transpose(0, 1).contiguous()

    def key(self, edge_type: EdgeType, value_HNC: Tensor) -> Tensor:
        head_HC = self.head_RHC[self.edge_types.index(edge_type)]
        return torch.einsum("hnc,hc->nh", value_HNC, head_HC)

    def query(self, edge_type: EdgeType, value_HTC: Tensor) -> Tensor:
        """Queries of a relation's tails: [T, H]."""
        tail_HC = self.tail_RHC[self.edge_types.index(edge_type)]
        return torch.einsum("htc,hc->th", value_HTC, tail_HC)

    def attend(
        self,
        node_type: str,
        keys: Mapping[EdgeType, Tensor],
        values: Mapping[str, Tensor],
        own_HTC: Tensor,
        rows: Mapping[EdgeType, HeadRows],
    ) -> Tensor:
        return self.parts(
            [rows[e].attend(keys[e], self.query(e, own_HTC), values[e[0]]) for e in self.ending_in(node_type)]
        )

    def parts(self, attentions: list[Attention]) -> Tensor:
        """[K, T, D] from the relations' attentions, in order."""
        raise NotImplementedError


def glorot(*shape: int) -> nn.Parameter:
    """A parameter with Glorot's uniform initial values over its last two dimensions."""
    value = torch.empty(*shape)
    bound = (6 / (shape[-1] + shape[-2])) ** 0.5
    return nn.Parameter(nn.init.uniform_(value, -bound, bound))
