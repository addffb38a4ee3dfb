"""Which pairs are train, validation and test.

The split decides more than the model: of a random one the future of other users is known. Every rule is a
function of the pairs, whatever their order.

Legend: n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.mixing import GOLDEN, mix, seed_of

TRAIN, VAL, TEST = 0, 1, 2
PART_NAMES = ("train", "validation", "test")
"""Of those numbers, as messages say them."""
Rule = Literal["random", "user_random", "user_time", "global_time", "last"]
RULES: tuple[str, ...] = get_args(Rule)
NEED_TIMES = ("user_time", "global_time", "last")


def split_pairs(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    rule: Rule,
    *,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
) -> np.ndarray:
    """The part of each pair: [n] int8. users, items [n]: numbers, each pair once; times [n] or None.

    random: of all pairs, in an order by a hash of (seed, user, item), the first shares; user_random: of
    each user's pairs in that order; user_time: of each user's in the order of their times, ties by item;
    global_time: of all in the order of their times, those of one moment in one part; last: of each user the
    last is test, the one before validation. By users, where a share of one's pairs is less than one pair,
    one is taken while two are left to train. StoreError for a pair that comes again, where a rule needs
    times and there are none, and where a part with a share would be empty.
    """
    _require(rule in RULES, rule, f"one of {', '.join(RULES)}")
    sound = len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) < 1e-9
    _require(sound, list(shares), "shares of train, validation and test that make 1")
    order = np.lexsort((items, users))
    again = (np.diff(users[order]) == 0) & (np.diff(items[order]) == 0)
    _require(not again.any(), "a pair that comes again", "each pair once")
    _require(times is not None or rule not in NEED_TIMES, "pairs without times", f"some for {rule}")
    if times is not None:
        _require(np.issubdtype(times.dtype, np.integer), f"times of {times.dtype}", "whole seconds")
    parts = _parts(users, items, times, rule, shares, seed)
    for part, name in enumerate(PART_NAMES):
        there = shares[part] == 0 or bool((parts == part).any())
        _require(there, f"no pair of {name} by {rule}", "some in each part")
    return parts


def _require(condition: bool | np.bool_, found: object, expected: str) -> None:
    if not condition:
        raise StoreError(f"split: found {found}, expected {expected}")


def _parts(
    users: np.ndarray,
    items: np.ndarray,
    times: np.ndarray | None,
    rule: Rule,
    shares: Sequence[float],
    seed: int,
) -> np.ndarray:
    if rule == "global_time":
        assert times is not None
        bounds = [0, 0] if not len(times) else np.quantile(times, [shares[0], 1 - shares[2]], method="lower")
        return np.where(times <= bounds[0], TRAIN, np.where(times <= bounds[1], VAL, TEST)).astype(np.int8)
    if rule == "random":
        order = np.argsort(_hashes(users, items, seed), kind="stable")
        parts = np.full(len(users), TRAIN, np.int8)
        num_val, num_test = (round(len(users) * share) for share in shares[1:])
        parts[order[len(users) - num_test :]] = TEST
        parts[order[len(users) - num_test - num_val : len(users) - num_test]] = VAL
        return parts
    key = _hashes(users, items, seed) if rule == "user_random" or times is None else times
    order = np.lexsort((items, key, users))
    begin = np.flatnonzero(np.diff(users[order], prepend=-1))
    num = np.diff(np.append(begin, len(users)))
    of_val, of_test = _sizes(num, shares) if rule != "last" else (num > 2, num > 1)
    place = np.arange(len(users)) - np.repeat(begin, num)
    left = np.repeat(num, num) - place  # 1: the last of its user
    later = np.repeat(of_test, num).astype(np.int64)
    part = np.where(left <= later, TEST, np.where(left <= later + np.repeat(of_val, num), VAL, TRAIN))
    parts = np.empty(len(users), np.int8)
    parts[order] = part
    return parts


def _sizes(num: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """How many of each user's pairs are validation and test."""
    sizes = [np.floor(num * share + 1e-9).astype(np.int64) for share in shares]
    left = num - sizes[1] - sizes[2]
    for part in (2, 1):
        takes = (left > 1) & (num * shares[part] < 1) & (shares[part] > 0)
        sizes[part] += takes
        left -= takes
    return sizes[1], sizes[2]


def _hashes(users: np.ndarray, items: np.ndarray, seed: int) -> np.ndarray:
    """A number for each pair that depends on nothing else: [n] uint64."""
    x = np.uint64(seed_of(seed, "split")) ^ mix(users.astype(np.uint64) + np.uint64(1))
    return np.asarray(mix(x ^ mix(items.astype(np.uint64) * GOLDEN)))
