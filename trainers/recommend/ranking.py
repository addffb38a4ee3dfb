"""Full ranking: every item that a user has not had is a candidate, and metrics are of the whole order.

Legend: U users, B users of a block, I items, n test pairs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit, prange

from netgpt.graphstore.files import Json
from netgpt.graphstore.mixing import SOURCE, seed_of
from netgpt.sampler.kernels.generator import GOLDEN, mix
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.recommend.pairs import Pairs

ScoresOf = Callable[[np.ndarray], np.ndarray]
"""Users [B] → scores of all items, [B, I] float32; greater is better. The array is written to: it is a new
one, or one that cannot be written to."""
BLOCK_BYTES = 256_000_000
METRICS = ("precision", "recall", "ndcg", "mrr", "hit")


@dataclass(frozen=True)
class Ranks:
    """Places of test items among the candidates of their users."""

    users: np.ndarray
    """[n] int64, ascending."""
    items: np.ndarray
    """[n] int64, ascending within a user."""
    ranks: np.ndarray
    """[n] int64, from 1 on."""

    def metrics(self, k: int, chosen: np.ndarray | None = None) -> Json:
        """Means over the users of test items, by name `recall@k`, …; `num` is how many users.

        chosen [n] bool: of these test items alone, each user by those of them that it has. Precision: hits /
        k. Recall: hits / test items. NDCG: gains 1 / log2(rank + 1), of those of the best order, min(k, test
        items) hits. MRR: 1 / rank of the first hit, 0 without one. Hit: whether there is one. Without users
        all are None.
        """
        values = self.by_user(k, chosen)
        num = len(values["hit"])
        means = {name: float(own.mean()) if num else None for name, own in values.items()}
        return {**{f"{name}@{k}": means[name] for name in METRICS}, "num": num}

    def by_user(self, k: int, chosen: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """The same of each user that has test items: [users] float64 by metric."""
        require(k >= 1, "k", k, "at least 1")
        users, ranks = self.users, self.ranks
        if chosen is not None:
            users, ranks = users[chosen], ranks[chosen]
        _, where, num = np.unique(users, return_inverse=True, return_counts=True)
        is_hit = ranks <= k
        hits = np.bincount(where, is_hit, len(num))
        gains = np.where(is_hit, 1 / np.log2(ranks + 1.0), 0)
        best = np.concatenate([[0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
        first = np.full(len(num), np.iinfo(np.int64).max)
        np.minimum.at(first, where, ranks)
        return {
            "precision": hits / k,
            "recall": hits / num,
            "ndcg": np.bincount(where, gains, len(num)) / best[np.minimum(num, k)],
            "mrr": np.where(first <= k, 1 / first, 0),
            "hit": (hits > 0).astype(np.float64),
        }


@dataclass(frozen=True)
class Sample:
    """Candidates that are drawn: of each user the same ones, whatever the model and the epoch."""

    num: int
    """Items of each user that are none of its pairs, by a hash of (seed, user, item)."""
    seed: int = 0


def full_ranking(
    scores_of: ScoresOf,
    test: Pairs,
    masks: Sequence[Pairs],
    *,
    sample: Sample | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Ranks:
    """Ranks of all test pairs. masks: pairs that are no candidates (train, validation); a test pair that is
    among them is an error. sample: a user's test pairs are ranked among these candidates alone, all together;
    masks should then be of every other part.

    An item's rank is 1 + the candidates with a greater score + those with an equal one that are no test items
    of the user + its test items with an equal one and a lower number: no test item wins a tie. TrainerError
    for scores that are no numbers, and of another shape.
    """
    _check_masks(masks, test.num_users, test.num_items)
    users = np.flatnonzero(test.num_by_user)
    ranks = np.empty(len(test), np.int64)
    for block, scores in _blocks(scores_of, users, test.num_items, masks, block_bytes):
        if sample is not None:
            require(sample.num >= 1, "sample", sample.num, "at least 1")
            key = np.uint64(seed_of(sample.seed, "candidates"))
            _draw_candidates(scores, block, test.indptr, test.items, key, sample.num)
        if not _rank(scores, block, test.indptr, test.items, ranks):
            raise TrainerError(
                "ranking: found a test pair that is masked too, expected pairs of one part each"
            )
    return Ranks(test.users, test.items, ranks)


def top_items(
    scores_of: ScoresOf,
    users: np.ndarray,
    num_items: int,
    masks: Sequence[Pairs],
    k: int,
    *,
    block_bytes: int = BLOCK_BYTES,
) -> tuple[np.ndarray, np.ndarray]:
    """The k best candidates of users [U], by score and then by number: items [U, k] int64, −1 where a user
    has fewer, and their scores [U, k] float32, NaN there."""
    require(k >= 1, "k", k, "at least 1")
    _check_masks(masks, None, num_items)
    num_users = min((mask.num_users for mask in masks), default=np.iinfo(np.int64).max)
    sound = not len(users) or 0 <= users.min() <= users.max() < num_users
    require(sound, "users", users, f"numbers from 0 to {num_users - 1}")
    items = np.full((len(users), k), -1, np.int64)
    kept = np.full((len(users), k), np.nan, np.float32)
    at = 0
    for block, scores in _blocks(scores_of, users, num_items, masks, block_bytes):
        _top(scores, items[at : at + len(block)], kept[at : at + len(block)])
        at += len(block)
    return items, kept


def _check_masks(masks: Sequence[Pairs], num_users: int | None, num_items: int) -> None:
    for mask in masks:
        sizes = num_users or mask.num_users, num_items
        found = mask.num_users, mask.num_items
        require(found == sizes, "masks", found, f"{sizes[0]} users and {sizes[1]} items, as the rest has")


def _blocks(
    scores_of: ScoresOf, users: np.ndarray, num_items: int, masks: Sequence[Pairs], block_bytes: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Users, and their scores, [B, I] float32: NaN for what is masked."""
    size = max(1, block_bytes // (4 * max(1, num_items)))
    for first in range(0, len(users), size):
        block = users[first : first + size]
        made = np.asarray(scores_of(block))
        scores = made if made.dtype == np.float32 and made.flags.writeable else np.array(made, np.float32)
        if scores.shape != (len(block), num_items):
            raise TrainerError(f"scores: found {list(scores.shape)}, expected {[len(block), num_items]}")
        wrong = np.zeros(len(block), np.bool_)
        _find_nan(scores, wrong)
        if wrong.any():
            raise TrainerError(f"scores of user {block[wrong][0]}: found NaN, expected numbers")
        for mask in masks:
            _mask(scores, block, mask.indptr, mask.items)
        yield block, scores


@njit(cache=True, parallel=True)
def _find_nan(scores, wrong):  # type: ignore[no-untyped-def]
    """Rows that hold a NaN."""
    for b in prange(len(scores)):
        num = 0
        for item in range(scores.shape[1]):
            num += scores[b, item] != scores[b, item]
        wrong[b] = num > 0


@njit(cache=True, parallel=True)
def _mask(scores, users, indptr, items):  # type: ignore[no-untyped-def]
    """What is masked has no number: it is no candidate."""
    for b in prange(len(users)):
        for i in range(indptr[users[b]], indptr[users[b] + 1]):
            scores[b, items[i]] = np.nan


def _cached(digest):  # type: ignore[no-untyped-def]
    """`draw_candidates`, compiled once on a machine: the cache knows this file and the digest of `mix`."""

    @njit(cache=True, parallel=True)
    def draw_candidates(scores, users, indptr, items, key, num):  # type: ignore[no-untyped-def]
        """Of the candidates that are no test items keep those with the least hashes, so many: they are drawn
        alike, without one twice, and do not depend on other users."""
        digest  # noqa: B018 - a part of the cache's key
        for b in prange(len(users)):
            state = mix(key ^ mix(np.uint64(users[b]) * GOLDEN + np.uint64(1)))
            own = items[indptr[users[b]] : indptr[users[b] + 1]]
            hashes = np.empty(scores.shape[1], np.uint64)
            num_there = 0
            for item in range(scores.shape[1]):
                place = np.searchsorted(own, item)
                if np.isnan(scores[b, item]) or (place < len(own) and own[place] == item):
                    continue
                hashes[num_there] = mix(state ^ mix(np.uint64(item) * GOLDEN + np.uint64(1)))
                num_there += 1
            if num_there <= num:
                continue
            bound = np.partition(hashes[:num_there], num - 1)[num - 1]
            for item in range(scores.shape[1]):
                place = np.searchsorted(own, item)
                is_test = place < len(own) and own[place] == item
                if not is_test and mix(state ^ mix(np.uint64(item) * GOLDEN + np.uint64(1))) > bound:
                    scores[b, item] = np.nan

    return draw_candidates


_draw_candidates = _cached(hashlib.blake2b(SOURCE, digest_size=16).hexdigest())


@njit(cache=True, parallel=True)
def _rank(scores, users, indptr, items, ranks):  # type: ignore[no-untyped-def]
    """Ranks of the users' test items, into `ranks`; False where one is masked. One pass over the items."""
    bad = 0
    for b in prange(len(users)):
        first, last = indptr[users[b]], indptr[users[b] + 1]
        num = last - first
        own = np.empty(num, scores.dtype)
        for i in range(num):
            own[i] = scores[b, items[first + i]]
            if np.isnan(own[i]):
                bad += 1
        if num == 1:  # the most frequent case, in vector instructions
            value, before = own[0], 0
            for item in range(scores.shape[1]):
                before += scores[b, item] >= value  # itself too, and no NaN
            ranks[first] = max(1, before)
            continue
        order = np.argsort(own, kind="mergesort")  # ascending; equal ones by number
        values = own[order]
        above, level = np.zeros(num + 1, np.int64), np.zeros(num, np.int64)
        for item in range(scores.shape[1]):
            score = scores[b, item]
            if not score >= values[0]:  # so is NaN
                continue
            place = np.searchsorted(values, score, side="right")  # above or at values[:place]
            if values[place - 1] == score:
                place = np.searchsorted(values, score)
                level[place] += 1
            above[place] += 1
        # above[p]: items greater than values[p − 1], not greater than values[p] (of equal values the first p)
        for p in range(num - 1, -1, -1):
            above[p] += above[p + 1]  # now: items that are above values[p − 1]
        for i in range(num):
            place = np.searchsorted(values, values[i])
            end = np.searchsorted(values, values[i], side="right")
            ranks[first + order[i]] = 1 + above[end] + (level[place] - (end - place)) + (i - place)
    return bad == 0


@njit(cache=True, parallel=True)
def _top(scores, items, kept):  # type: ignore[no-untyped-def]
    """The best of each row, each put in its place among those that are kept."""
    k = items.shape[1]
    for b in prange(len(scores)):
        num = 0
        for item in range(scores.shape[1]):
            score = scores[b, item]
            if np.isnan(score) or (num == k and score <= kept[b, k - 1]):
                continue
            place = num if num < k else k - 1
            while place > 0 and kept[b, place - 1] < score:
                if place < k:
                    kept[b, place], items[b, place] = kept[b, place - 1], items[b, place - 1]
                place -= 1
            kept[b, place], items[b, place] = score, item
            num = min(num + 1, k)
