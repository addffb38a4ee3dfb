"""Lists of candidates that prompts ask about, against a search over all items, pair by pair."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from netgpt.graphstore import Store
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend import cases as module
from netgpt.trainers.recommend.cases import (
    Cases,
    asked_cases,
    item_document,
    records,
    reranked,
    train_cases,
    with_answers,
)
from netgpt.trainers.recommend.config import RerankConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.ranking import ScoresOf, full_ranking
from tests.recommend import ITEMS, USERS, pairs_of_tastes, store_of, titled_store

CONFIG, NUM = RerankConfig(history=3, cases=2), 4


@pytest.fixture(scope="module", params=["timed", "untimed"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return titled_store(tmp_path_factory.mktemp("titled"), timed=request.param == "timed")


def scores_by(seed: int, *, ties: bool = True) -> ScoresOf:
    """Any scores; with ties whole numbers from 0 to 5."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 6, (USERS, ITEMS)) if ties else rng.normal(size=(USERS, ITEMS))
    return lambda users: table[users].astype(np.float32)


def first_of(scores: np.ndarray, left_out: set[int]) -> list[int]:
    order = sorted((item for item in range(ITEMS) if item not in left_out), key=lambda i: (-scores[i], i))
    return order[:NUM]


@pytest.mark.parametrize("seed", range(3))
def test_a_case_is_a_pair_that_would_be_among_the_first_if_train_had_it_not(store: Store, seed: int) -> None:
    data, scores = Interactions.of(store), scores_by(seed)
    table = scores(np.arange(USERS))
    made = train_cases(data, scores, CONFIG, NUM, seed)
    asked = asked_cases(data, scores, np.arange(USERS), CONFIG, NUM, seed)
    history = {int(u): whole(data, u) for u in asked.users}
    expected = []
    for user, row in history.items():
        assert sorted(row) == data.train.of_user(user).tolist()
        found = []
        for place in range(len(row) - 1, 0, -1):
            first = first_of(table[user], set(row) - {row[place]})
            if row[place] in first:
                found.append((int(user), row[place], sorted(first), row[max(0, place - 3) : place]))
        expected += found[:2][::-1]
    assert len(expected) > 8
    got = [
        (int(u), int(c[a]), sorted(c.tolist()), told(data, made, i))
        for i, (u, c, a) in enumerate(zip(made.users, made.candidates, made.answers, strict=True))
    ]
    assert got == expected
    own = np.take_along_axis(table[made.users], made.candidates, axis=1)
    np.testing.assert_array_equal(made.scores, own)


def whole(data: Interactions, user: int) -> list[int]:
    """A user's items of train, the latest last."""
    indptr, items = data.history
    return [int(item) for item in items[indptr[user] : indptr[user + 1]]]


def told(data: Interactions, cases: Cases, case: int) -> list[int]:
    """Items that a case's prompt shows."""
    first, last = cases.shown[case]
    return [int(item) for item in data.history[1][first:last]]


def test_histories_are_in_the_order_of_times(tmp_path: Path) -> None:
    rows = pairs_of_tastes()
    data = Interactions.of(titled_store(tmp_path, rows))
    cases = asked_cases(data, scores_by(0), np.arange(USERS), replace(CONFIG, history=99), NUM, 0)
    for case, user in enumerate(cases.users.tolist()):
        own = sorted((t, i) for u, i, t, part in rows if u == user and part == 0)
        assert [str(i) for _, i in own] == [data.store.node_names("item")[i] for i in told(data, cases, case)]


def test_histories_without_times_do_not_tell_numbers(tmp_path: Path) -> None:
    """Files often number items as they came: then the one that was held out has the greatest number."""
    data = Interactions.of(titled_store(tmp_path, timed=False))
    indptr, items = data.history
    rises = [np.diff(items[a:b]) > 0 for a, b in itertools.pairwise(indptr)]
    assert 0.3 < np.concatenate(rises).mean() < 0.7
    lists = [sorted(items[a:b].tolist()) for a, b in itertools.pairwise(indptr)]
    assert lists == [data.train.of_user(user).tolist() for user in range(USERS)]


def test_lists_are_those_that_come_first_of_what_train_has_not(store: Store) -> None:
    data, scores = Interactions.of(store), scores_by(5)
    users = np.array([3, 0, USERS - 1, 9])  # the third has no pair of train
    cases = asked_cases(data, scores, users, CONFIG, NUM, 0)
    assert cases.users.tolist() == [3, 0, 9] and (cases.answers == -1).all()
    for case, user in enumerate(cases.users.tolist()):
        first = first_of(scores(np.array([user]))[0], set(data.train.of_user(user).tolist()))
        assert sorted(cases.candidates[case].tolist()) == sorted(first)
        assert len(told(data, cases, case)) == min(3, len(data.train.of_user(user)))
    found = with_answers(cases, data.val)
    for user, row, answer in zip(found.users.tolist(), found.candidates, found.answers, strict=True):
        table = scores(np.array([user]))[0]
        both = set(row.tolist()) & set(data.val.of_user(user).tolist())
        best = max(both, key=lambda item: table[item])
        assert table[row[answer]] == table[best] and int(row[answer]) in both
    without = set(cases.users.tolist()) - set(found.users.tolist())
    for user in without:
        row = cases.candidates[cases.users.tolist().index(user)]
        assert not set(row.tolist()) & set(data.val.of_user(user).tolist())


def test_neither_blocks_nor_held_out_pairs_change_a_case(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = store.relation(Interactions.of(store).reverse).time is not None
    rows = pairs_of_tastes()
    others = [row for row in rows if row[3] == 0]
    taken = {row[:2] for row in others}
    free = [(u, i, 0, 2 - i % 2) for u in range(USERS) for i in range(ITEMS) if (u, i) not in taken]
    # Items and users keep their numbers where the first rows that name them do
    other = titled_store(tmp_path, [*others, *free[::3]], timed=timed)
    a, b = Interactions.of(store), Interactions.of(other)
    assert set(a.test.items.tolist()) != set(b.test.items.tolist()) or len(a.test) != len(b.test)
    names = ("users", "candidates", "scores", "answers", "shown")
    users = np.arange(USERS)
    assert a.store.node_names("item")[:] == b.store.node_names("item")[:]
    made = [train_cases(one, scores_by(1), CONFIG, NUM, 0) for one in (a, b)]
    made += [asked_cases(one, scores_by(1), users, CONFIG, NUM, 0) for one in (a, b)]
    monkeypatch.setattr(module, "BLOCK_BYTES", 1)
    made += [train_cases(a, scores_by(1), CONFIG, NUM, 0)] * 2
    for name in names:
        for left, right in ((0, 1), (2, 3), (0, 4)):
            np.testing.assert_array_equal(getattr(made[left], name), getattr(made[right], name), name)


def test_letters_tell_no_rank(store: Store) -> None:
    data = Interactions.of(store)
    counts = np.zeros((NUM, NUM), int)
    for seed in range(40):
        cases = asked_cases(data, scores_by(seed, ties=False), np.arange(USERS), CONFIG, NUM, seed)
        order = np.argsort(-cases.scores, axis=1)
        for rank in range(NUM):
            counts[rank] += np.bincount(order[:, rank], minlength=NUM)
    expected = counts.sum(axis=1)[0] / NUM
    assert ((counts - expected) ** 2 / expected).sum() < 30  # chi-squared of 9 degrees: 0.04% above


def test_prompts_tell_texts_of_train_alone(store: Store) -> None:
    data = Interactions.of(store)
    cases = train_cases(data, scores_by(2), CONFIG, NUM, 0)
    ids, titles = store.node_names("item"), store.strings("item", "title")
    for case, (name, text) in enumerate(records(data, cases, CONFIG)):
        record = json.loads(text)
        assert name == store.node_names("user")[cases.users[case]] and list(record) == [
            "history",
            "candidates",
        ]
        assert record["history"] == [titles[i] or ids[i] for i in told(data, cases, case)[::-1]]
        assert list(record["candidates"]) == list("ABCD")
        assert list(record["candidates"].values()) == [titles[i] or ids[i] for i in cases.candidates[case]]
        answer = int(cases.candidates[case][cases.answers[case]])
        assert answer in data.train.of_user(cases.users[case]) and answer not in told(data, cases, case)
    texts = [text for _, text in records(data, cases, CONFIG)]
    assert any('"3"' in text for text in texts)  # item 3 has no title
    short = [text for _, text in records(data, cases, replace(CONFIG, characters=2))]
    assert all(len(word) <= 2 for text in short for word in json.loads(text)["candidates"].values())


@pytest.mark.parametrize("weight", [0.0, 0.3, 4.0])
def test_a_list_is_put_in_the_order_of_both_models(store: Store, weight: float) -> None:
    data, scores = Interactions.of(store), scores_by(4, ties=False)
    users = np.arange(0, USERS - 1, 2)  # not of all
    cases = asked_cases(data, scores, users, CONFIG, NUM, 0)
    log_chances = np.log(np.random.default_rng(0).dirichlet(np.ones(NUM), len(cases)))
    changed = reranked(scores, cases, log_chances, weight)(np.arange(USERS))
    before = scores(np.arange(USERS))
    for user in range(USERS):
        hidden = set(data.train.of_user(user).tolist())
        order = sorted(set(range(ITEMS)) - hidden, key=lambda item: -before[user, item])
        if user in cases.users:
            case = cases.users.tolist().index(user)
            of_list = dict(zip(cases.candidates[case].tolist(), log_chances[case], strict=True))
            assert set(order[:NUM]) == set(of_list)
            total = np.log(sum(np.exp(float(before[user, item])) for item in of_list))
            both = {i: before[user, i] - total + weight * one for i, one in of_list.items()}
            order = [*sorted(both, key=lambda item: -both[item]), *order[NUM:]]
        got = sorted(set(range(ITEMS)) - hidden, key=lambda item: -changed[user, item])
        assert got == order
    if weight == 0:
        a, b = (
            full_ranking(one, data.test, [data.train, data.val]) for one in (scores, lambda u: changed[u])
        )
        np.testing.assert_array_equal(a.ranks, b.ranks)


def test_a_user_with_fewer_items_left_has_a_shorter_list(tmp_path: Path) -> None:
    rows = [(0, i, i, 0) for i in range(ITEMS - 2)] + [(1, i, i, 0) for i in range(ITEMS)]
    rows += [(2, i, i, i % 3) for i in range(9)]
    data = Interactions.of(titled_store(tmp_path, rows))
    cases = asked_cases(data, scores_by(0), np.arange(2), CONFIG, NUM, 0)
    assert ((cases.candidates >= 0).sum(axis=1) == [2, 0]).all()
    assert np.isnan(cases.scores[cases.candidates < 0]).all() and (cases.candidates[:, 2:] == -1).all()
    lists = [json.loads(text)["candidates"] for _, text in records(data, cases, CONFIG)]
    assert [list(one) for one in lists] == [["A", "B"], []]
    changed = reranked(scores_by(0), cases, np.zeros((2, NUM)), 1.0)(np.arange(3))
    np.testing.assert_array_equal(np.sort(changed), np.sort(scores_by(0)(np.arange(3))))


def test_at_most_so_many_cases_of_users_that_a_hash_draws(store: Store) -> None:
    data = Interactions.of(store)
    every = train_cases(data, scores_by(1), CONFIG, NUM, 0)
    some = train_cases(data, scores_by(1), replace(CONFIG, max_cases=7), NUM, 0)
    known = {(int(u), tuple(c)) for u, c in zip(every.users, every.candidates, strict=True)}
    assert len(some) == 7 < len(every)
    assert {(int(u), tuple(c)) for u, c in zip(some.users, some.candidates, strict=True)} <= known
    assert some.users.tolist() != every.users[:7].tolist()


def test_items_without_texts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="item: found 'no texts', expected some, for prompts"):
        item_document(Interactions.of(store_of(tmp_path)))
