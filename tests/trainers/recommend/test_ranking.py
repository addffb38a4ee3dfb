"""Splits, full ranking and baselines of recommendation, against searches and formulas user by user."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.baselines import ease, ease_weights, item_neighbors, popularity
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.ranking import ScoresOf, full_ranking, top_items
from netgpt.trainers.recommend.splits import RULES, TEST, TRAIN, VAL, Rule, split_pairs

SHARES = [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1)]


class Case:
    """Random pairs in three parts; some users and items have none in some of them."""

    def __init__(self, seed: int, num_users: int = 9, num_items: int = 15) -> None:
        rng = np.random.default_rng(seed)
        taken = rng.random((num_users, num_items)) < 0.6
        part = rng.choice(3, (num_users, num_items), p=[0.4, 0.2, 0.4])
        taken[0], part[1], taken[:, 3] = False, TEST, False  # no pair; all in test; an item of nobody
        self.taken, self.part = taken, part
        self.scores = np.round(rng.normal(size=(num_users, num_items)) * 2).astype(np.float32)  # with ties

    def of(self, part: int) -> Pairs:
        users, items = np.nonzero(self.taken & (self.part == part))
        order = np.random.default_rng(0).permutation(len(users))
        return Pairs.of(users[order], items[order], *self.taken.shape)

    def ranks(self, user: int) -> dict[int, int]:
        """Of each test item: 1 + the candidates that come before it, where equal ones do if they are none of
        the user's, or have a lower number."""
        mine = {i for i in range(self.taken.shape[1]) if self.taken[user, i] and self.part[user, i] == TEST}
        masked = {i for i in range(self.taken.shape[1]) if self.taken[user, i]} - mine
        candidates = [i for i in range(self.taken.shape[1]) if i not in masked]
        score = self.scores[user]
        return {
            item: 1
            + sum(
                score[c] > score[item] or (score[c] == score[item] and (c not in mine or c < item))
                for c in candidates
                if c != item
            )
            for item in sorted(mine)
        }


def naive(all_ranks: list[list[int]], k: int) -> dict[str, float]:
    made: dict[str, list[float]] = {name: [] for name in ("precision", "recall", "ndcg", "mrr", "hit")}
    for ranks in all_ranks:
        hits = sorted(r for r in ranks if r <= k)
        best = sum(1 / math.log2(i + 1) for i in range(1, min(k, len(ranks)) + 1))
        made["precision"].append(len(hits) / k)
        made["recall"].append(len(hits) / len(ranks))
        made["ndcg"].append(sum(1 / math.log2(r + 1) for r in hits) / best)
        made["mrr"].append(1 / hits[0] if hits else 0)
        made["hit"].append(float(bool(hits)))
    return {f"{name}@{k}": sum(values) / len(values) for name, values in made.items()}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.sampled_from([1, 2, 3, 10, 20]), users_at_once=st.integers(1, 9))
def test_ranks_and_metrics_are_those_of_a_search(seed: int, k: int, users_at_once: int) -> None:
    case = Case(seed)
    test, masks = case.of(TEST), [case.of(TRAIN), case.of(VAL)]
    found = full_ranking(lambda users: case.scores[users], test, masks, block_bytes=4 * 15 * users_at_once)
    expected = {user: case.ranks(user) for user in range(9)}
    listed = [(user, item, rank) for user, own in expected.items() for item, rank in own.items()]
    assert list(zip(found.users, found.items, found.ranks, strict=True)) == listed
    metrics = found.metrics(k)
    assert metrics.pop("num") == sum(bool(own) for own in expected.values())
    assert metrics == pytest.approx(naive([list(own.values()) for own in expected.values() if own], k))
    assert all(0 <= value <= 1 for value in metrics.values())
    cold = case.of(TRAIN).num_by_item[found.items] == 0
    of_cold = [[own[i] for i in own if not case.of(TRAIN).num_by_item[i]] for own in expected.values()]
    only = found.metrics(k, cold)
    if any(of_cold):
        assert only.pop("num") == sum(map(bool, of_cold))
        assert only == pytest.approx(naive([ranks for ranks in of_cold if ranks], k))
    else:
        assert only["num"] == 0 and only[f"recall@{k}"] is None


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 16), users_at_once=st.integers(1, 4))
def test_the_best_items_are_those_of_a_sort(seed: int, k: int, users_at_once: int) -> None:
    case = Case(seed)
    masks, users = [case.of(TRAIN), case.of(VAL)], np.array([4, 0, 7, 1])
    block_bytes = 4 * 15 * users_at_once
    items, scores = top_items(lambda some: case.scores[some], users, 15, masks, k, block_bytes=block_bytes)
    for user, row, kept in zip(users.tolist(), items.tolist(), scores, strict=True):
        masked = {i for i in range(15) if case.taken[user, i] and case.part[user, i] != TEST}
        best = sorted((-float(case.scores[user, i]), i) for i in range(15) if i not in masked)[:k]
        assert row == [i for _, i in best] + [-1] * (k - len(best))
        np.testing.assert_array_equal(kept[: len(best)], [-score for score, _ in best])
        assert np.isnan(kept[len(best) :]).all()


def test_bad_scores_and_pairs_are_refused() -> None:
    case = Case(0)
    test, train = case.of(TEST), case.of(TRAIN)
    broken = case.scores.copy()
    broken[2, 5] = np.nan
    cases: list[tuple[ScoresOf, list[Pairs], str]] = [
        (lambda users: broken[users], [train], "scores of user 2: found NaN, expected numbers"),
        (lambda users: case.scores[users, :9], [train], r"scores: found \[8, 9\], expected \[8, 15\]"),
        (lambda users: case.scores[users], [test], "ranking: found a test pair that is masked"),
    ]
    for scores_of, masks, words in cases:
        with pytest.raises(TrainerError, match=words):
            full_ranking(scores_of, test, masks)
    with pytest.raises(TrainerError, match="pairs: found items 2 to 15, expected numbers from 0 to 14"):
        Pairs.of(np.array([0, 1]), np.array([15, 2]), 9, 15)
    for users, items in ((np.array([0.5]), np.array([1])), (np.array([0]), np.array([1, 2]))):
        with pytest.raises(TrainerError, match=r"pairs: found .* expected whole numbers of users and items"):
            Pairs.of(users, items, 9, 15)
    few, narrow = Pairs.of(np.array([0]), np.array([1]), 4, 15), Pairs.of(np.array([0]), np.array([1]), 9, 8)
    for mask in (few, narrow):
        with pytest.raises(TrainerError, match=r"masks: found .* expected 9 users and 15 items"):
            full_ranking(lambda users: case.scores[users], test, [mask])
    with pytest.raises(TrainerError, match="masks: found"):
        top_items(lambda users: case.scores[users], np.array([1]), 15, [narrow], 3)
    with pytest.raises(TrainerError, match=r"users: found .*, expected numbers from 0 to 8"):
        top_items(lambda users: case.scores[users], np.array([9]), 15, [train], 3)
    ranks = full_ranking(lambda users: case.scores[users], test, [train])
    with pytest.raises(TrainerError, match="k: found 0, expected at least 1"):
        ranks.metrics(0)
    with pytest.raises(TrainerError, match="k: found 0, expected at least 1"):
        top_items(lambda users: case.scores[users], np.array([1]), 15, [], 0)
    free, _ = top_items(lambda users: case.scores[users], np.array([4]), 15, [], 1)
    assert free.item() == case.scores[4].argmax()


def test_pairs_are_kept_once_in_the_order_of_users_and_items() -> None:
    pairs = Pairs.of(np.array([2, 0, 2, 2]), np.array([1, 3, 1, 0]), 4, 5)
    assert pairs.indptr.tolist() == [0, 1, 1, 3, 3] and pairs.items.tolist() == [3, 0, 1]
    assert pairs.users.tolist() == [0, 2, 2] and pairs.num_by_item.tolist() == [1, 1, 0, 1, 0]
    assert pairs.matrix.toarray().nonzero()[0].tolist() == [0, 2, 2]
    joined = pairs.joined(Pairs.of(np.array([3, 2]), np.array([4, 1]), 4, 5))
    assert list(zip(joined.users, joined.items, strict=True)) == [(0, 3), (2, 0), (2, 1), (3, 4)]


def sets_of(matrix: np.ndarray) -> list[set[int]]:
    return [set(np.flatnonzero(row).tolist()) for row in matrix]


@pytest.mark.parametrize("seed", range(4))
def test_baselines_are_their_formulas(seed: int) -> None:
    case, users = Case(seed), np.array([3, 0, 8])
    train = case.of(TRAIN)
    x = np.zeros((9, 15))
    x[train.users, train.items] = 1
    np.testing.assert_array_equal(popularity(train)(users), np.tile(x.sum(0), (3, 1)))
    having = sets_of(x.T)
    for num, shrink in ((50, 10.0), (3, 0.5)):
        found = item_neighbors(train, num_neighbors=num, shrink=shrink)(users)
        for row, user in zip(found, users.tolist(), strict=True):
            for item in range(15):
                cosines = []
                for other in (o for o in range(15) if o != item):
                    size = math.sqrt(len(having[item]) * len(having[other]))
                    if both := len(having[item] & having[other]):
                        cosines.append((-both / (size + shrink), other))
                near = sorted(cosines)[:num]
                assert row[item] == pytest.approx(sum(-c for c, other in near if x[user, other]), rel=1e-5)
    # The gradient of ‖X − XB‖² + λ‖B‖² is 0 off the diagonal
    weights = ease_weights(train, 3.0).astype(np.float64)
    gradient = x.T @ (x @ weights - x) + 3 * weights
    assert np.abs(gradient[~np.eye(15, dtype=bool)]).max() < 1e-4
    assert not np.diag(weights).any() and np.abs(weights).max() > 0.01
    np.testing.assert_allclose(
        ease(train, regularization=3.0)(users), x[users] @ weights, rtol=1e-4, atol=1e-6
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(RULES), shares=st.sampled_from(SHARES))
def test_splits_are_functions_of_the_pairs(seed: int, rule: Rule, shares: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    keys = rng.permutation(12 * 40)[:200]
    users, items, times = keys // 40, keys % 40, rng.integers(0, 60, 200)

    def parts(order: np.ndarray, seed: int = 0) -> dict[tuple[int, int], int]:
        some = users[order], items[order], times[order]
        found = split_pairs(*some, rule, shares=shares, seed=seed)
        pairs = zip(users[order].tolist(), items[order].tolist(), strict=True)
        return dict(zip(pairs, found.tolist(), strict=True))

    found = parts(np.arange(200))
    assert found == parts(rng.permutation(200))
    is_random = rule in ("random", "user_random")
    assert (found != parts(np.arange(200), seed=1)) == is_random
    time_of = dict(zip(zip(users.tolist(), items.tolist(), strict=True), times.tolist(), strict=True))
    if rule == "random":
        counts = np.bincount(list(found.values()), minlength=3).tolist()
        num_val, num_test = (round(200 * share) for share in shares[1:])
        assert counts == [200 - num_val - num_test, num_val, num_test]
        return
    if rule == "global_time":
        first, second = (max(time_of[p] for p, part in found.items() if part == one) for one in (TRAIN, VAL))
        for pair, part in found.items():
            time = time_of[pair]
            assert part == (TRAIN if time <= first else VAL if time <= second else TEST)
        assert sum(part == TRAIN for part in found.values()) >= 200 * shares[0]
        return
    for user in range(12):
        own = sorted((pair for pair in found if pair[0] == user), key=lambda pair: (time_of[pair], pair[1]))
        num = len(own)
        if rule == "last":
            sizes = [int(num > 2), int(num > 1)]
        else:
            sizes, left = [int(num * share + 1e-9) for share in shares[1:]], num
            left -= sum(sizes)
            for which in (1, 0):
                if left > 1 and num * shares[1 + which] < 1:
                    sizes[which], left = sizes[which] + 1, left - 1
        of_user = [found[pair] for pair in own]
        assert [of_user.count(part) for part in (VAL, TEST)] == sizes
        if not is_random:
            assert of_user == sorted(of_user)


def test_random_parts_are_alike_for_all_pairs() -> None:
    users, items = (grid.ravel() for grid in np.meshgrid(np.arange(200), np.arange(100), indexing="ij"))
    rules: list[Rule] = ["random", "user_random"]
    for rule in rules:
        parts = split_pairs(users, items, None, rule)
        for numbers, num in ((users, 200), (items, 100)):
            share = np.bincount(numbers[parts == TEST], minlength=num) / np.bincount(numbers, minlength=num)
            assert abs(share.mean() - 0.1) < 1e-3 and share.std() < 0.05


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda u: split_pairs(u, u, None, "last"),
            "split: found pairs without times, expected some for last",
        ),
        (lambda u: split_pairs(u, u, u, "time"), "split: found 'time', expected one of random, user_random"),  # type: ignore[arg-type]
        (lambda u: split_pairs(u, u, u, "last", shares=(0.5, 0.5)), "expected shares of train, validation"),
        (
            lambda u: split_pairs(u // 3, u // 3, u, "last"),
            "split: found 'a pair that comes again', expected each",
        ),
        (lambda u: split_pairs(u, u, u / 2, "last"), "split: found times of float64, expected whole seconds"),
        (lambda u: split_pairs(u, u, u // 3, "global_time"), "found 'no pair of validation by global_time'"),
        (lambda u: split_pairs(u[:0], u[:0], None, "random"), "found 'no pair of train by random'"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(make: Callable[[np.ndarray], object], words: str) -> None:
    with pytest.raises(TrainerError, match=words):
        make(np.arange(5))
