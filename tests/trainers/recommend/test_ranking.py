"""Full and sampled ranking, and baselines of recommendation, against searches and formulas user by user."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.baselines import ease, ease_weights, item_neighbors, popularity
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.ranking import Sample, ScoresOf, full_ranking, top_items

TRAIN, VAL, TEST = range(3)


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


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), num=st.integers(1, 14), users_at_once=st.integers(1, 9))
def test_sampled_ranks_are_among_fixed_candidates(seed: int, num: int, users_at_once: int) -> None:
    """Of each user so many that are none of its pairs, the same for any scores; its test items together."""
    case = Case(seed)
    test, masks = case.of(TEST), [case.of(TRAIN), case.of(VAL)]
    drawn: dict[int, set[int]] = {}
    for scores in (case.scores, -case.scores, np.random.default_rng(1).random((9, 15), np.float32)):
        seen: dict[int, set[int]] = {}
        for item in range(15):  # an item is a candidate where it can push others down
            raised = np.zeros_like(scores)
            raised[:, item] = 1
            ranks = full_ranking(
                lambda users, raised=raised: raised[users],  # type: ignore[misc]
                test,
                masks,
                sample=Sample(num, seed=seed),
                block_bytes=4 * 15 * users_at_once,
            )
            lowered = np.zeros_like(scores)
            lowered[:, item] = -1
            low = full_ranking(
                lambda users, lowered=lowered: lowered[users],  # type: ignore[misc]
                test,
                masks,
                sample=Sample(num, seed=seed),
            )
            for user, rank, other in zip(ranks.users.tolist(), ranks.ranks, low.ranks, strict=True):
                is_test = bool(case.taken[user, item] and case.part[user, item] == TEST)
                if not is_test and rank > other:
                    seen.setdefault(user, set()).add(item)
        drawn = drawn or seen
        assert seen == drawn
        found = full_ranking(lambda users, s=scores: s[users], test, masks, sample=Sample(num, seed=seed))  # type: ignore[misc]
        for user, item, rank in zip(found.users.tolist(), found.items.tolist(), found.ranks, strict=True):
            free = [i for i in range(15) if not case.taken[user, i]]
            candidates = drawn.get(user, set())
            assert len(candidates) == min(num, len(free)) and candidates <= set(free)
            own = set(test.of_user(user).tolist())
            above = [c for c in candidates if scores[user, c] >= scores[user, item]]
            better = [
                o
                for o in own - {item}
                if scores[user, o] > scores[user, item]
                or (scores[user, o] == scores[user, item] and o < item)
            ]
            assert rank == 1 + len(above) + len(better)


def test_candidates_are_drawn_alike() -> None:
    scores = np.zeros((2000, 30), np.float32)
    test = Pairs.of(np.arange(2000), np.zeros(2000, np.int64), 2000, 30)
    counts = np.zeros(30)
    for item in range(1, 30):
        scores[:] = 0
        scores[:, item] = -1
        ranks = full_ranking(lambda users: scores[users], test, [], sample=Sample(7)).ranks
        counts[item] = (ranks == 7).sum()  # of 7 candidates one is below
    expected = 2000 * 7 / 29
    assert counts.sum() == 2000 * 7
    assert ((counts[1:] - expected) ** 2 / expected).sum() < 60  # of 28 degrees of freedom


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
