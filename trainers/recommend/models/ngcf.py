"""NGCF: layers over the normalised graph that weigh neighbours, and how alike they are (Wang et al., "Neural
Graph Collaborative Filtering", SIGIR 2019, eqs. 7 to 10).

Legend: U users, I items, N = U + I nodes, D width, L layers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu, normalize

from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import Recommender, embedding, nodes

SLOPE = 0.2


class NGCF(Recommender):
    title = "NGCF"

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        self.embedding = embedding(self.num_users + self.num_items, config.width)
        self.own = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))
        self.alike = nn.ModuleList(nn.Linear(config.width, config.width) for _ in range(config.layers))

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Of all layers side by side: [U, (L + 1) · D] and [I, (L + 1) · D]."""
        graph = self.graph(self.embedding.device)
        x: Tensor = self.embedding
        made = [x]
        for own, alike in zip(self.own, self.alike, strict=True):
            users, items = (x * graph.scale).split([self.num_users, self.num_items])
            near = torch.cat([graph.to_users(items), graph.to_items(users)]) * graph.scale
            x = leaky_relu(own(near + x) + alike(near * x), SLOPE)
            x = dropout(x, self.config.dropout, self.training)
            made.append(normalize(x))
        users, items = torch.cat(made, dim=1).split([self.num_users, self.num_items])
        return users, items

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        return [self.embedding[ids] for ids in nodes(self.num_users, users, items, negatives)]
