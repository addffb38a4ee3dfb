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
    bpr,
    chosen_modalities,
    embedding,
    half_squares,
)
from netgpt.trainers.recommend.triples import Triples


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
            means = graph.to_users(items) / graph.user_degree[:, None]
            means_of_items = graph.to_items(users) / graph.item_degree[:, None]
            users, items = own(users) + near(means), own(items) + near(means_of_items)
            if i < len(self.own) - 1:
                users, items = (
                    dropout(leaky_relu(x), self.config.dropout, self.training) for x in (users, items)
                )
        return users, items

    def loss(self, step: Triples) -> Tensor:
        user, item, negative = step.own
        users, items = self.vectors()
        tables = [self.user[user], *self.item.own(item, negative)]
        total = bpr(users[user], items[item], items[negative])
        return total + self.config.penalty * half_squares(*tables)
