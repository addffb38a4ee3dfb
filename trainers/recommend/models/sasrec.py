"""SASRec: what a user takes next, by attention over what it took before (Kang and McAuley, ICDM 2018).

A user's items are read in the order of their times, the latest `max_history`. Of pairs that were cut at
random the order holds the future of what is asked: it is for splits by time. Pairs that came before those
items, and each user's first, are asked in no epoch.

Legend: n users of a step, L items that are read, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import Recommender, embedding, half_squares
from netgpt.trainers.recommend.triples import Triples

AT_ONCE = 1024
"""Users whose histories are read together where all are asked for."""


class SASRec(Recommender):
    title, by_user = "SASRec", True

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        width = config.width
        self.heads = next(heads for heads in (2, 1) if width % heads == 0)
        self.item = embedding(self.num_items, width)
        self.place = nn.Parameter(torch.randn(config.max_history, width) * 0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, self.heads, width * 4, config.dropout, "gelu", batch_first=True, norm_first=True
            )
            for _ in range(max(1, config.layers))
        )
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(config.dropout)
        self.indptr, self.history = data.history
        # Of each pair of train, whose items rise within a user, its place in the user's history
        users = np.repeat(np.arange(self.num_users), np.diff(self.indptr))
        order = np.lexsort((self.history, users))
        self.place_of_pair = order - self.indptr[users[order]]

    def _states(self, users: np.ndarray, ends: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """States after each of the latest L items before `ends` [n]: [n, L, D], and the first's place."""
        most = self.config.max_history
        firsts = np.maximum(0, ends - most)
        length = int(max(1, (ends - firsts).max(initial=0)))
        items = np.zeros((len(users), length), np.int64)
        for row, (user, first, end) in enumerate(zip(users.tolist(), firsts, ends, strict=True)):
            begin = self.indptr[user]
            items[row, : end - first] = self.history[begin + first : begin + end]
        x = self.item[torch.from_numpy(items).to(self.item.device)] * self.config.width**0.5
        x = self.drop(x + self.place[:length])
        # Behind a row's end nothing is read: what is before does not see it
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        for block in self.blocks:
            x = block(x, src_mask=mask, is_causal=True)
        made: Tensor = self.norm(x)
        return made, firsts

    def vectors(self) -> tuple[Tensor, Tensor]:
        num = np.diff(self.indptr)
        made = []
        for first in range(0, self.num_users, AT_ONCE):
            users = np.arange(first, min(first + AT_ONCE, self.num_users))
            states, firsts = self._states(users, num[users])
            last = torch.from_numpy(np.maximum(0, num[users] - firsts - 1)).to(states.device)
            rows = states[torch.arange(len(users), device=states.device), last]
            known = torch.from_numpy(num[users] > 0).to(states.device)
            made.append(torch.where(known[:, None], rows, 0.0))
        return torch.cat(made), self.item

    def loss(self, step: Triples) -> Tensor:
        """Binary cross-entropy of what came next, against its negative."""
        users, items, negatives = step.own
        distinct, at = np.unique(users.cpu().numpy(), return_inverse=True)
        num = np.diff(self.indptr)[distinct]
        states, firsts = self._states(distinct, np.maximum(0, num - 1))
        column = self.place_of_pair[step.pairs[step.mine].cpu().numpy()] - 1 - firsts[at]
        read = np.flatnonzero(column >= 0)  # others are the first of their user, or before what is read
        device = states.device
        chosen, rows, columns = (torch.from_numpy(x).to(device) for x in (read, at[read], column[read]))
        state, item, negative = states[rows, columns], self.item[items[chosen]], self.item[negatives[chosen]]
        total = softplus(-(state * item).sum(1)).sum() + softplus((state * negative).sum(1)).sum()
        return total + self.config.penalty * half_squares(item, negative)  # of the pairs that are read
