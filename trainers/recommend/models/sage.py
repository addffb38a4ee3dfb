"""GraphSAGE over users and items (Hamilton, Ying, Leskovec, NIPS 2017, mean aggregator), with all modalities
of an item as one vector; users have a vector that is learnt. States are not scaled to length 1 between
layers: their sizes tell popular items.

Legend: U users, I items, D width, F width of all modalities.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import dropout, leaky_relu

from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import (
    ItemInputs,
    Recommender,
    chosen_modalities,
    embedding,
)


class SAGE(Recommender):
    title = "GraphSAGE"

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        width = config.width
        self.user = embedding(self.num_users, width)
        self.item = ItemInputs(data, chosen_modalities(data, config) if data.modalities else (), config)
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(config.layers))
        self.near = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(config.layers))

    def vectors(self) -> tuple[Tensor, Tensor]:
        graph = self.graph(self.user.device)
        users: Tensor = self.user
        items: Tensor = self.item()
        for i, (own, near) in enumerate(zip(self.own, self.near, strict=True)):
            means = graph.user_means(items), graph.item_means(users)
            users, items = own(users) + near(means[0]), own(items) + near(means[1])
            if i < len(self.own) - 1:
                users, items = (
                    dropout(leaky_relu(x), self.config.dropout, self.training) for x in (users, items)
                )
        return users, items

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        return [self.user[users], *self.item.own(items, negatives)]
