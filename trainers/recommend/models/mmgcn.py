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
    chosen_modalities,
    embedding,
    nodes,
)
from netgpt.trainers.recommend.neighbors import Bipartite


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

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        tables = [self.embedding[ids] for ids in nodes(self.num_users, users, items, negatives)]
        for one in self.modalities:
            assert isinstance(one, Modality)
            tables += [one.user[users], *one.item.own(items, negatives)]
        return tables


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
            means = (graph.user_means(x[1]), graph.item_means(x[0]))
            made = [
                leaky_relu(
                    layer["out"](leaky_relu(layer["near"](near))) + leaky_relu(layer["own"](own)) + id_
                )
                for near, own, id_ in zip(means, x, ids, strict=True)
            ]
            x = (made[0], made[1])
        return x
