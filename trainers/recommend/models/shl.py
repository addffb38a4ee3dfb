"""SHL: of each modality gated attention over neighbours and a hypergraph, which a contrast brings together.

Guo and Kim, "Research on Intelligent Recommendation Algorithm of Short Videos Based on Graph Neural Network",
LatIA 3:347 (2025), eqs. 1 to 9. The paper gives the global part, the contrast and the fusion in words alone;
here they are those of HCCF (Xia et al., SIGIR 2022), with hyperedges by W [D, K] for each modality.

Legend: U users, I items, N = U + I nodes, D width, M modalities, K hyperedges, F width of features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu, normalize

from netgpt.trainers.recommend.attention import Sides, gated_attention
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import (
    ItemInputs,
    Recommender,
    bpr,
    chosen_modalities,
    half_squares,
)
from netgpt.trainers.recommend.neighbors import Bipartite
from netgpt.trainers.recommend.triples import Triples

Parts = tuple[Tensor, Tensor]
"""Of users, and of items."""


class SHL(Recommender):
    title = "SHL"

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        names, width = chosen_modalities(data, config), config.width
        self.embedding = _xavier(self.num_users + self.num_items, width)
        """The ID embedding e, which all modalities share."""
        self.modalities = nn.ModuleList(Modality(data, name, config) for name in names)
        self.gate, self.mixer = None, None
        if config.shl.fusion == "gated":
            self.gate = nn.Linear(len(names) * width, len(names) * width)
        else:
            self.mixer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 1, bias=False))

    def vectors(self) -> Parts:
        graph = self.graph(self.embedding.device)
        sides = Sides(graph.of_users, graph.of_items), Sides(graph.of_items, graph.of_users)
        users, items = torch.arange(self.num_users), torch.arange(self.num_items)
        return self._fused(list(self._states(sides, users, items)))

    def _states(
        self, sides: tuple[Sides, Sides], users: Tensor, items: Tensor
    ) -> Iterator[tuple[Parts, Parts]]:
        """By modality the local and the global states of some users and items."""
        graph = self.graph(self.embedding.device)
        own = self.embedding.split([self.num_users, self.num_items])
        for one in self.modalities:
            assert isinstance(one, Modality)
            yield one(graph, sides, own, users, items)

    def _fused(self, states: list[tuple[Parts, Parts]]) -> Parts:
        """Eq. 7, and the modalities as one vector: [n, M · D] gated, or [n, D] by weights."""
        made = []
        for part in range(2):
            rows = torch.stack([leaky_relu(local[part] + wide[part]) for local, wide in states], dim=1)
            if self.gate is not None:
                flat = rows.flatten(1)
                made.append(torch.sigmoid(self.gate(flat)) * flat)
            else:
                assert self.mixer is not None
                made.append((torch.softmax(self.mixer(rows), dim=1) * rows).sum(1))
        return made[0], made[1]

    def loss(self, step: Triples) -> Tensor:
        shl, device = self.config.shl, self.embedding.device
        users, user_at = torch.unique(step.users, return_inverse=True)
        items, item_at = torch.unique(torch.cat([step.items, step.negatives]), return_inverse=True)
        graph = self.graph(device)
        sides = Sides(graph.of_users, graph.of_items), Sides(graph.of_items, graph.of_users)
        states = list(self._states(sides, users, items))
        fused_users, fused_items = self._fused(states)
        mine, size = step.mine, len(step)
        user_at, positive_at, negative_at = user_at[mine], item_at[:size][mine], item_at[size:][mine]
        total = bpr(fused_users[user_at], fused_items[positive_at], fused_items[negative_at])
        own_users, own_items, own_negatives = step.own
        raw = [self.embedding[ids] for ids in (own_users, self.num_users + own_items)]
        raw += [self.embedding[self.num_users + own_negatives]]
        for one in self.modalities:
            assert isinstance(one, Modality)
            raw += one.raw(own_users, (own_items, own_negatives))
        total = total + self.config.penalty * half_squares(*raw)
        if shl.contrast and shl.hyperedges:
            # Of the users and positive items of all ranks; a rank asks of its share of them
            positive = torch.unique(item_at[:size])
            share = (mine.start / size, mine.stop / size) if size else (0.0, 0.0)
            for local, wide in states:
                for part, rows in ((0, torch.arange(len(users), device=device)), (1, positive)):
                    term = contrast(local[part][rows], wide[part][rows], shl.temperature, share)
                    total = total + shl.contrast * size * term
        return total


class Modality(nn.Module):
    """What is a modality's own; users and items share its weights."""

    def __init__(self, data: Interactions, name: str, config: RecommenderConfig) -> None:
        super().__init__()
        width, shl = config.width, config.shl
        self.config = config
        self.user = _xavier(data.train.num_users, width) if shl.inputs == "own" else None
        self.item = ItemInputs(data, (name,), config)
        self.layers = nn.ModuleList(Layer(width) for _ in range(max(1, config.layers)))
        if shl.hyperedges:
            self.edges = _xavier(width, shl.hyperedges)
            self.user_edges = _xavier(width, shl.hyperedges) if shl.users == "own" else None

    def inputs(self, graph: Bipartite) -> Parts:
        """x of users [U, D] and items [I, D]."""
        items = self.item()
        return graph.to_users(items) / graph.user_degree[:, None] if self.user is None else self.user, items

    def raw(self, users: Tensor, items: tuple[Tensor, ...]) -> list[Tensor]:
        """Rows of its own tables, for the penalty."""
        return [*([] if self.user is None else [self.user[users]]), *self.item.own(*items)]

    def forward(self, graph, sides, own, users, items):  # type: ignore[no-untyped-def]
        """Local and global states of some users and items."""
        x = self.inputs(graph)
        state = x
        for i, layer in enumerate(self.layers):
            is_last = i == len(self.layers) - 1
            wanted = (users, items) if is_last else (None, None)
            state = layer(graph, sides, state, own, wanted, self.config.shl)
        if not self.config.shl.hyperedges:
            zeros = tuple(torch.zeros_like(one) for one in state)
            return state, zeros
        of_users, of_items = self._global(graph, x)
        return state, (of_users[users], of_items[items])

    def _global(self, graph, x):  # type: ignore[no-untyped-def]
        """H Λ with Λ = C⁻¹ Hᵀ X over the items: hyperedges of a modality have states of their own."""
        share = self.config.shl.dropout if self.training else 0.0
        edges_I = torch.softmax(x[1] @ self.edges, dim=1)
        if self.user_edges is not None:
            edges_U = torch.softmax(x[0] @ self.user_edges, dim=1)
        else:
            edges_U = graph.to_users(edges_I) / graph.user_degree[:, None]
        edges_U, edges_I = (dropout(one, share, training=share > 0) for one in (edges_U, edges_I))
        states_KD = (edges_I.T @ x[1]) / edges_I.sum(0).clamp_min(1e-12)[:, None]
        return edges_U @ states_KD, edges_I @ states_KD


class Layer(nn.Module):
    """The local encoder, eqs. 1 to 6: W_h and W_t of the score, W_N of the message, W_r and W_1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        names = ("head", "tail", "message", "residual", "out")
        self.weights = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})

    def forward(self, graph, sides, state, own, wanted, shl):  # type: ignore[no-untyped-def]
        """States [n, D] of the wanted users and items, by default of all."""
        w, made = self.weights, []
        degrees = graph.user_degree, graph.item_degree
        for part in range(2):
            head, tail, rows = state[part], state[1 - part], wanted[part]
            gated = tail / degrees[1 - part].sqrt()[:, None]
            found = gated_attention(
                w["head"](head),
                torch.tanh(w["tail"](tail)),
                head,
                gated,
                w["message"](tail),
                sides[part],
                rows,
                gate=shl.gate,
                attends=shl.attention,
            )
            base, ids = head, own[part]
            if rows is not None:
                found, base, ids = found[rows], base[rows], ids[rows]
            if shl.residual == "inner":
                residual = leaky_relu(w["residual"](base)) + ids
            else:
                residual = leaky_relu(w["residual"](base) + ids)
            made.append(leaky_relu(w["out"](leaky_relu(found))) + residual)
        return tuple(made)


def contrast(local_nD: Tensor, wide_nD: Tensor, temperature: float, share: tuple[float, float]) -> Tensor:
    """−log of the softmax over k of cos(local_n, global_k) / τ at k = n, a mean over n; the local states are
    what is told, and learn nothing from it. share: which n, from and to, as shares of all; the others are
    another rank's."""
    num = len(local_nD)
    first, last = (round(one * num) for one in share)
    logits = normalize(local_nD[first:last].detach()) @ normalize(wide_nD).T / temperature
    at = torch.arange(first, last, device=logits.device)
    return nn.functional.cross_entropy(logits, at, reduction="sum") / num


def _xavier(num: int, width: int) -> nn.Parameter:
    """By Xavier's normal rule."""
    return nn.Parameter(torch.randn(num, width) * math.sqrt(2 / (num + width)))
