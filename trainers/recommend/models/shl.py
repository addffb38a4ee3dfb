"""SHL: of each modality gated attention over neighbours and a hypergraph, which a contrast brings together.

Guo and Kim, "Research on Intelligent Recommendation Algorithm of Short Videos Based on Graph Neural Network",
LatIA 3:347 (2025), eqs. 1 to 9. The paper gives the global part, the contrast and the fusion in words alone;
here they are those of HCCF (Xia et al., SIGIR 2022), with hyperedges by W [D, K] for each modality.

Legend: U users, I items, N = U + I nodes, D width, M modalities, K hyperedges, F width of features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu, linear, normalize

from netgpt.trainers.recommend.attention import gated_attention
from netgpt.trainers.recommend.config import RecommenderConfig, ShlConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import (
    ItemInputs,
    Recommender,
    bpr,
    chosen_modalities,
    half_squares,
    nodes,
)
from netgpt.trainers.recommend.neighbors import Bipartite
from netgpt.trainers.recommend.triples import Triples

Parts = tuple[Tensor, Tensor]
"""Of users, and of items."""


class SHL(Recommender):
    title, wants_modalities = "SHL", True

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
        users, items = (torch.arange(num) for num in (self.num_users, self.num_items))
        return self._fused(list(self._states(users, items)))

    def _states(self, users: Tensor, items: Tensor) -> Iterator[tuple[Parts, Parts]]:
        """By modality the local and the global states of some users and items."""
        graph = self.graph(self.embedding.device)
        for one in self.modalities:
            assert isinstance(one, Modality)
            yield one(graph, self.embedding, users.to(graph.device), items.to(graph.device))

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
        shl = self.config.shl
        users, user_at = torch.unique(step.users, return_inverse=True)
        items, item_at = torch.unique(torch.cat([step.items, step.negatives]), return_inverse=True)
        states = list(self._states(users, items))
        fused_users, fused_items = self._fused(states)
        mine, size = step.mine, len(step)
        user_at, positive_at, negative_at = user_at[mine], item_at[:size][mine], item_at[size:][mine]
        total = bpr(fused_users[user_at], fused_items[positive_at], fused_items[negative_at])
        total = total + self.config.penalty * half_squares(*self.penalized(*step.own))
        if shl.contrast and shl.hyperedges:
            # Of the users and positive items of all ranks; a rank asks of its share of them
            positive = torch.unique(item_at[:size])
            share = (mine.start / size, mine.stop / size) if size else (0.0, 0.0)
            for local, wide in states:
                for part, rows in ((0, torch.arange(len(users), device=users.device)), (1, positive)):
                    term = contrast(local[part][rows], wide[part][rows], shl.temperature, share)
                    total = total + shl.contrast * size * term
        return total

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        tables = [self.embedding[ids] for ids in nodes(self.num_users, users, items, negatives)]
        for one in self.modalities:
            assert isinstance(one, Modality)
            tables += [one.user[users]] if one.user is not None else []
            tables += one.item.own(items, negatives)
        return tables


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
        is_unit = self.config.shl.scale == "unit"
        items = normalize(torch.tanh(self.item())) if is_unit else self.item()
        users = graph.user_means(items) if self.user is None else self.user
        return normalize(users) if is_unit else users, items

    def forward(self, graph: Bipartite, ids_ND: Tensor, users: Tensor, items: Tensor) -> tuple[Parts, Parts]:
        """Local and global states of some users and items. ids: the ID embedding."""
        shl, x = self.config.shl, self.inputs(graph)
        state_ND, states = torch.cat(x), list[Parts]()
        for layer in self.layers[:-1]:
            everyone = (torch.arange(len(part), device=users.device) for part in x)
            made = layer(graph, state_ND, ids_ND, tuple(everyone), shl)
            state_ND = torch.cat(made)
            states.append((made[0][users], made[1][items]))
        local = self.layers[-1](graph, state_ND, ids_ND, (users, items), shl)
        if shl.combine == "mean":
            both = zip(*states, local, strict=True)
            of_users, of_items = (torch.stack(parts).mean(0) for parts in both)
            local = of_users, of_items
        if not shl.hyperedges:
            return local, (torch.zeros_like(local[0]), torch.zeros_like(local[1]))
        return local, self._global(graph, x, users, items)

    def _global(self, graph: Bipartite, x: Parts, users: Tensor, items: Tensor) -> Parts:
        """H Λ with Λ = C⁻¹ Hᵀ X over the items: hyperedges of a modality have states of their own."""
        share = self.config.shl.dropout
        edges_I = torch.softmax(x[1] @ self.edges, dim=1)
        if self.user_edges is not None:
            edges_u = torch.softmax(x[0][users] @ self.user_edges, dim=1)
        else:
            edges_u = graph.user_means(edges_I)[users]
        edges_u, edges_I = (dropout(one, share, self.training) for one in (edges_u, edges_I))
        states_KD = (edges_I.T @ x[1]) / edges_I.sum(0).clamp_min(1e-12)[:, None]
        return edges_u @ states_KD, edges_I[items] @ states_KD


class Layer(nn.Module):
    """The local encoder, eqs. 1 to 6: W_h and W_t of the score, W_N of the message, W_r and W_1."""

    def __init__(self, width: int) -> None:
        super().__init__()
        names = ("head", "tail", "message", "residual", "out")
        self.weights = nn.ModuleDict({name: nn.Linear(width, width, bias=False) for name in names})

    def forward(self, graph: Bipartite, x_ND: Tensor, ids_ND: Tensor, wanted: Parts, shl: ShlConfig) -> Parts:
        """States [n, D] of the wanted users and items."""
        sizes, made = [graph.num_users, graph.num_items], []
        names = ("head", "tail", "message", "residual")
        together = torch.cat([cast(nn.Linear, self.weights[name]).weight for name in names])
        head, tail, message, residual = (
            part.split(sizes) for part in linear(x_ND, together).split(x_ND.shape[1], dim=1)
        )
        own, gated, ids = x_ND.split(sizes), (x_ND * graph.scale).split(sizes), ids_ND.split(sizes)
        for part in range(2):
            other, asked = 1 - part, wanted[part]
            found = gated_attention(
                head[part],
                torch.tanh(tail[other]),
                own[part],
                gated[other],
                message[other],
                graph.sides[part],
                asked,
                gate=shl.gate,
                attends=shl.attention,
            )[asked]
            if shl.residual == "inner":
                base = leaky_relu(residual[part][asked]) + ids[part][asked]
            else:
                base = leaky_relu(residual[part][asked] + ids[part][asked])
            found = dropout(found, shl.message_dropout, self.training)
            made.append(leaky_relu(self.weights["out"](leaky_relu(found))) + base)
        return made[0], made[1]


def contrast(local_nD: Tensor, wide_nD: Tensor, temperature: float, share: tuple[float, float]) -> Tensor:
    """−log of the softmax over k of cos(local_n, global_k) / τ at k = n, a mean over n; the local states are
    what is told, and learn nothing from it. share: which n, from and to, as shares of all; the others are
    another rank's."""
    num = max(1, len(local_nD))
    first, last = (round(one * num) for one in share)
    logits = (normalize(local_nD[first:last].detach()) / temperature) @ normalize(wide_nD).T
    at = torch.arange(first, last, device=logits.device)
    return nn.functional.cross_entropy(logits, at, reduction="sum") / num


def _xavier(num: int, width: int) -> nn.Parameter:
    """By Xavier's normal rule."""
    return nn.Parameter(torch.randn(num, width) * math.sqrt(2 / (num + width)))
