"""MMGCN: a graph network for each modality, whose states are averaged (Wei et al., "MMGCN", MM 2019, eqs. 1
to 7, with means of neighbours, addition as the combination, and the ID embedding in each layer).

Legend: U users, I items, D width, F width of a modality.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu, normalize

from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import (
    ItemInputs,
    Recommender,
    bpr,
    chosen_modalities,
    embedding,
    half_squares,
)
from netgpt.trainers.recommend.neighbors import Bipartite
from netgpt.trainers.recommend.triples import Triples


class MMGCN(Recommender):
    title, wants_modalities = "MMGCN", True

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        self.embedding = embedding(self.num_users + self.num_items, config.width)
        self.modalities = nn.ModuleList(
            Modality(data, name, config) for name in chosen_modalities(data, config)
        )

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Means over the modalities."""
        graph = self.graph(self.embedding.device)
        own = self.embedding.split([self.num_users, self.num_items])
        made = [one(graph, own) for one in self.modalities]
        users, items = (torch.stack(parts).mean(0) for parts in zip(*made, strict=True))
        return users, items

    def loss(self, step: Triples) -> Tensor:
        user, item, negative = step.own
        users, items = self.vectors()
        ids = (user, item + self.num_users, negative + self.num_users)
        tables = [self.embedding[one] for one in ids]
        for one in self.modalities:
            assert isinstance(one, Modality)
            tables += [one.user[user], *one.item.own(item, negative)]
        total = bpr(users[user], items[item], items[negative])
        return total + self.config.penalty * half_squares(*tables)


class Modality(nn.Module):
    def __init__(self, data: Interactions, name: str, config: RecommenderConfig) -> None:
        super().__init__()
        width = config.width
        self.user = embedding(data.train.num_users, width)
        self.item = ItemInputs(data, (name,), config)
        names = ("near", "own", "out")
        self.layers = nn.ModuleList(
            nn.ModuleDict({key: nn.Linear(width, width) for key in names}) for _ in range(config.layers)
        )

    def forward(self, graph: Bipartite, ids: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        x = (normalize(self.user), normalize(torch.tanh(self.item())))
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            means = (
                graph.to_users(x[1]) / graph.user_degree[:, None],
                graph.to_items(x[0]) / graph.item_degree[:, None],
            )
            made = [
                leaky_relu(
                    layer["out"](leaky_relu(layer["near"](near))) + leaky_relu(layer["own"](own)) + id_
                )
                for near, own, id_ in zip(means, x, ids, strict=True)
            ]
            x = (made[0], made[1])
        return x
