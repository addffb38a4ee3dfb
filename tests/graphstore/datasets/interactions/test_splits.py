"""Which pairs are train, validation and test, against rules by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt.graphstore.datasets.interactions.splits import RULES, TEST, TRAIN, VAL, Rule, split_pairs
from netgpt.graphstore.errors import StoreError

SHARES = [(0.8, 0.1, 0.1), (0.7, 0.2, 0.1)]


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
        (lambda u: split_pairs(u, u, u, "time"), "split: found time, expected one of random, user_random"),  # type: ignore[arg-type]
        (lambda u: split_pairs(u, u, u, "last", shares=(0.5, 0.5)), "expected shares of train, validation"),
        (
            lambda u: split_pairs(u // 3, u // 3, u, "last"),
            "split: found a pair that comes again, expected each",
        ),
        (lambda u: split_pairs(u, u, u / 2, "last"), "split: found times of float64, expected whole seconds"),
        (lambda u: split_pairs(u, u, u // 3, "global_time"), "found no pair of validation by global_time"),
        (lambda u: split_pairs(u[:0], u[:0], None, "random"), "found no pair of train by random"),
    ],
)
def test_splits_that_cannot_be_made_are_refused(make: Callable[[np.ndarray], object], words: str) -> None:
    with pytest.raises(StoreError, match=words):
        make(np.arange(5))
