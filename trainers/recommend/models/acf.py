"""ACF's attention of items: a user is what it is and what it took, weighed (Chen et al., "Attentive
Collaborative Filtering", SIGIR 2017, eqs. 4 to 7).

The attention of components within an item needs features of frames or regions, which items here have not: a
modality's vector stands for what it would give.

Legend: U users, I items, E pairs of some users, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from netgpt.trainers.recommend.attention import row_softmax
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

AT_ONCE = 4096
"""Users whose pairs are in memory together where all are asked for."""


class ACF(Recommender):
    title = "ACF, attention of items"

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        width = config.width
        self.user, self.item = embedding(self.num_users, width), embedding(self.num_items, width)
        self.taken = embedding(self.num_items, width)
        """What an item adds to a user who took it."""
        self.content: ItemInputs | None = None
        if config.features and data.modalities:
            self.content = ItemInputs(data, chosen_modalities(data, config), config)
        self.of_user = nn.Linear(width, width)
        self.of_item = nn.Linear(width, width, bias=False)
        self.of_taken = nn.Linear(width, width, bias=False)
        self.score = nn.Linear(width, 1, bias=False)

    def vectors(self) -> tuple[Tensor, Tensor]:
        parts, seen = torch.arange(self.num_users, device=self.user.device).split(AT_ONCE), self._seen()
        return torch.cat([self._users(part, seen) for part in parts]), self.item

    def _seen(self) -> Tensor:
        """What the attention is told of each item: [I, D]."""
        of_items: Tensor = self.of_item(self.item) + self.of_taken(self.taken)
        return of_items if self.content is None else of_items + self.content()

    def _users(self, users: Tensor, of_items: Tensor) -> Tensor:
        """Vectors of some users [n], each once: [n, D]."""
        indptr, items = self.graph(self.user.device).of_users
        ids = users.cpu().numpy()
        num = np.diff(indptr)[ids]
        places = np.repeat(indptr[ids] - np.cumsum(num) + num, num) + np.arange(num.sum())
        row = torch.from_numpy(np.repeat(np.arange(len(ids)), num)).to(users.device)
        item = torch.from_numpy(items[places].astype(np.int64)).to(users.device)
        own = self.user[users]
        logit = self.score(torch.relu(self.of_user(own)[row] + of_items[item]))[:, 0]
        weight = row_softmax(logit, row, len(users))
        return own + torch.zeros_like(own).index_add(0, row, weight[:, None] * self.taken[item])

    def loss(self, step: Triples) -> Tensor:
        user, item, negative = step.own
        distinct, at = torch.unique(user, return_inverse=True)
        total = bpr(self._users(distinct, self._seen())[at], self.item[item], self.item[negative])
        return total + self.config.penalty * half_squares(*self.penalized(user, item, negative))

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        return [self.user[users], self.item[items], self.item[negatives], self.taken[items]]
