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
from netgpt.sampler.negatives import Candidates, Draw, candidates, drawn_negatives
from netgpt.trainers.errors import require
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
        negatives: Draw = "uniform",
        times: np.ndarray | None = None,
        by_user: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        """negatives: uniform; degree: by pairs of an item to the power 0.75; earlier: items that somebody
        took before the pair, by times [n] of the pairs of train. by_user: a user's pairs come one after the
        other, a step is of whole users."""
        is_timed = negatives == "earlier"
        require(times is not None or not is_timed, "negatives", negatives, "another, as pairs have no times")
        self.train, self.batch_size, self.seed, self.negatives = train, batch_size, seed, negatives
        self.by_user, self.rank, self.world_size, self.device = by_user, rank, world_size, device
        self.times = times if is_timed else None
        self.usable = self._usable()
        """Numbers of the pairs that there are negatives for."""

    def _usable(self) -> np.ndarray:
        if self.times is None:
            return np.flatnonzero(has_negatives(self.train, self.negatives)[self.train.users])
        _, found = self._drawn(np.arange(len(self.train)), 0)  # in all epochs alike
        return np.flatnonzero(found)

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
    def _candidates(self) -> Candidates:
        return candidates(self.negatives, self.train.items, self.train.num_items, self.times)

    def _drawn(self, numbers: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Negatives of pairs [B, 1], and for which there are any [B]."""
        train, key = self.train, row_key(self.seed, epoch, PAIRS)
        rows, among = (train.indptr, train.items), self._candidates
        times = None if self.times is None else self.times[numbers]
        return drawn_negatives(
            key, numbers, train.users[numbers], rows, among, train.num_items, 1, times=times
        )

    def of(self, numbers: np.ndarray, epoch: int) -> Triples:
        """The triples of pairs by their numbers in train."""
        train, (out, found) = self.train, self._drawn(numbers, epoch)
        chosen = numbers[found]
        parts = (train.users[chosen], train.items[chosen], out[found, 0], chosen)
        user, item, negative, pair = (torch.from_numpy(part).to(self.device or "cpu") for part in parts)
        first, last = (len(user) * r // self.world_size for r in (self.rank, self.rank + 1))
        return Triples(user, item, negative, pair, slice(first, last))


def has_negatives(train: Pairs, negatives: str) -> np.ndarray:
    """Which users have not all items that are drawn, uniform or by degree: [U] bool. By degree only items of
    train are."""
    num = train.num_items if negatives == "uniform" else int((train.num_by_item > 0).sum())
    return train.num_by_user < num
