"""What a recommender takes steps over: a user, an item of train, and one that the user has not.

Legend: B pairs of a step, n pairs, U users, I items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from netgpt.sampler.kernels.generator import row_key
from netgpt.sampler.kernels.links import draw_negatives
from netgpt.sampler.links import by_degree
from netgpt.trainers.recommend.pairs import Pairs

PAIRS = ("item", "negatives|pairs-1", "user")
"""Whose draws negatives are."""


@dataclass(frozen=True)
class Triples:
    """A step over all ranks, and which of it is this rank's."""

    users: Tensor
    """[B] int64; so are the others."""
    items: Tensor
    negatives: Tensor
    pairs: Tensor
    """Numbers of the pairs in train."""
    mine: slice

    def __len__(self) -> int:
        return len(self.users)

    @property
    def own(self) -> tuple[Tensor, Tensor, Tensor]:
        """Users, items and negatives of this rank."""
        return self.users[self.mine], self.items[self.mine], self.negatives[self.mine]


class TripleLoader:
    """The steps of an epoch: each pair of train once, in an order by (seed, epoch).

    The negative of a pair is a function of (seed, epoch, its number in train) alone, so it depends on no
    batch, rank or thread. Pairs of users who have all items that are drawn have none, and are left out.
    """

    def __init__(
        self,
        train: Pairs,
        *,
        batch_size: int,
        seed: int,
        negatives: str = "uniform",
        by_user: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """negatives: uniform, or degree: by pairs of an item to the power 0.75. by_user: a user's pairs come
        one after the other, a step is of whole users."""
        self.train, self.batch_size, self.seed, self.negatives = train, batch_size, seed, negatives
        self.by_user, self.rank, self.world_size, self.device = by_user, rank, world_size, device
        self.usable = np.flatnonzero(has_negatives(train, negatives)[train.users])
        """Numbers of the pairs that there are negatives for."""

    @property
    def num_skipped(self) -> int:
        """Pairs that are left out."""
        return len(self.train) - len(self.usable)

    @property
    def num_usable(self) -> int:
        return len(self.usable)

    def __len__(self) -> int:
        """Steps of an epoch."""
        if self.by_user:
            return len(self._user_bounds(np.arange(self.train.num_users))) - 1
        return -(-len(self.usable) // self.batch_size)

    def stream(self, epoch: int, first: int = 0) -> Iterator[Triples]:
        """The steps of an epoch from number `first` on."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.by_user:
            order = rng.permutation(self.train.num_users)
            bounds = self._user_bounds(order)
            for step in range(first, len(bounds) - 1):
                users = order[bounds[step] : bounds[step + 1]]
                rows = [np.arange(self.train.indptr[u], self.train.indptr[u + 1]) for u in users.tolist()]
                yield self.of(np.concatenate([np.empty(0, np.int64), *rows]), epoch)
            return
        numbers = self.usable[rng.permutation(len(self.usable))]
        for step in range(first, len(self)):
            yield self.of(numbers[step * self.batch_size : (step + 1) * self.batch_size], epoch)

    def _user_bounds(self, order: np.ndarray) -> np.ndarray:
        """Where steps of whole users begin: as many users as have a step's pairs in the mean."""
        mean = max(1.0, len(self.train) / max(1, self.train.num_users))
        size = max(1, round(self.batch_size / mean))
        return np.append(np.arange(0, len(order), size), len(order))

    @cached_property
    def _weights(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Items in the order in which they are drawn, their shares and aliases; [0] where all are alike."""
        none = np.empty(0, np.int64)
        if self.negatives == "uniform":
            return none, none, none
        return by_degree(self.train.num_by_item)

    def of(self, numbers: np.ndarray, epoch: int) -> Triples:
        """The triples of pairs by their numbers in train."""
        train = self.train
        users, key = train.users[numbers], row_key(self.seed, epoch, PAIRS)
        order, share, alias = self._weights
        bounds = np.full(len(numbers), len(order) if len(order) else train.num_items)
        out = np.full((len(numbers), 1), -1, np.int64)
        rows = (train.indptr, train.items, order, share, alias)
        found = draw_negatives(key, numbers, users, bounds, *rows, False, out)
        parts = (users[found], train.items[numbers][found], out[found, 0], numbers[found])
        user, item, negative, pair = (torch.from_numpy(part).to(self.device or "cpu") for part in parts)
        first, last = (len(user) * r // self.world_size for r in (self.rank, self.rank + 1))
        return Triples(user, item, negative, pair, slice(first, last))


def has_negatives(train: Pairs, negatives: str) -> np.ndarray:
    """Which users have not all items that are drawn: [U] bool. By degree only items of train are."""
    num = train.num_items if negatives == "uniform" else int((train.num_by_item > 0).sum())
    return train.num_by_user < num
