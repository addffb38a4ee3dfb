"""Pairs of users and items, by user.

Legend: U users, I items, n pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from netgpt.graphstore.mixing import mix
from netgpt.trainers.errors import TrainerError


@dataclass(frozen=True)
class Pairs:
    """Which items each user has, each once: `items[indptr[u]:indptr[u + 1]]` of user u, ascending."""

    indptr: np.ndarray
    """[U + 1] int64."""
    items: np.ndarray
    """[n] int64."""
    num_items: int

    @staticmethod
    def of(users: np.ndarray, items: np.ndarray, num_users: int, num_items: int) -> Pairs:
        """Pairs [n] in any order; a pair that comes again counts once. TrainerError for what are no numbers
        of users and items."""
        kinds = all(
            np.issubdtype(numbers.dtype, np.integer) or not len(numbers) for numbers in (users, items)
        )
        if not kinds or users.shape != items.shape or users.ndim != 1:
            found = ", ".join(f"{numbers.dtype} {list(numbers.shape)}" for numbers in (users, items))
            raise TrainerError(f"pairs: found {found}, expected whole numbers of users and items, [n] each")
        users, items = users.astype(np.int64), items.astype(np.int64)
        for name, numbers, num in (("users", users, num_users), ("items", items, num_items)):
            if len(numbers) and not 0 <= numbers.min() <= numbers.max() < num:
                found = f"{numbers.min()} to {numbers.max()}"
                raise TrainerError(f"pairs: found {name} {found}, expected numbers from 0 to {num - 1}")
        keys = np.unique(users * num_items + items)
        indptr = np.searchsorted(keys, np.arange(num_users + 1, dtype=np.int64) * num_items)
        return Pairs(indptr, keys % num_items, num_items)

    @property
    def num_users(self) -> int:
        return len(self.indptr) - 1

    def __len__(self) -> int:
        return len(self.items)

    def of_user(self, user: int) -> np.ndarray:
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @property
    def num_by_user(self) -> np.ndarray:
        """Items of each user: [U] int64."""
        return np.diff(self.indptr)

    @cached_property
    def num_by_item(self) -> np.ndarray:
        """Users of each item: [I] int64."""
        return np.bincount(self.items, minlength=self.num_items)

    @cached_property
    def users(self) -> np.ndarray:
        """[n] int64, beside `items`."""
        return np.repeat(np.arange(self.num_users), self.num_by_user)

    @cached_property
    def matrix(self) -> csr_array:
        """[U, I] float32: 1 for each pair."""
        shape = (self.num_users, self.num_items)
        return csr_array((np.ones(len(self), np.float32), self.items, self.indptr), shape=shape)

    def joined(self, other: Pairs) -> Pairs:
        """Both's."""
        users, items = np.append(self.users, other.users), np.append(self.items, other.items)
        return Pairs.of(users, items, self.num_users, self.num_items)


def hashes(numbers: np.ndarray, key: int) -> np.ndarray:
    """Of numbers [n] and a key: [n] uint64."""
    return np.asarray(mix(mix(numbers.astype(np.uint64) + np.uint64(1)) ^ np.uint64(key)))


def pair_hashes(users: np.ndarray, items: np.ndarray, key: int) -> np.ndarray:
    """Of users and items, [n] each, and a key: [n] uint64."""
    return np.asarray(mix(hashes(users, key) ^ mix(items.astype(np.uint64) + np.uint64(1))))
