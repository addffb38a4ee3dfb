"""Bootstrap intervals against the theory of a mean, and against how often they hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from netgpt.trainers.tasks.intervals import intervals
from netgpt.trainers.tasks.regression import Regression, RegressionConfig

TASK = Regression(RegressionConfig(name="regression"))


def test_of_a_mean_it_is_nearly_the_normal_one() -> None:
    """MAE is a mean of absolute errors: 1.96 standard errors on each side."""
    rng = np.random.default_rng(1)
    truth, scores = rng.normal(size=3000), rng.normal(size=3000)
    error = np.abs(scores - truth)
    half = 1.96 * error.std() / np.sqrt(len(error))
    low, high = intervals(TASK, scores, truth)["mae"]
    assert low == pytest.approx(error.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(error.mean() + half, abs=0.15 * half)


@pytest.mark.all
def test_it_holds_what_all_examples_would_give() -> None:
    """Of 100 samples some 95 intervals hold the figure of the whole; for a ratio and a correlation too."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=100_000)
    y = x + rng.normal(size=len(x))
    whole = TASK.measure(x, y)
    held = dict.fromkeys(("mae", "nmse", "spearman"), 0)
    for _ in range(100):
        some = rng.integers(0, len(x), 150)
        found = intervals(TASK, x[some], y[some])
        for name in held:
            low, high = found[name]
            held[name] += low <= whole[name] <= high
    assert all(86 <= num <= 100 for num in held.values()), held


def test_what_cannot_be_measured_has_none() -> None:
    """One example; labels that are all one, of which neither nMSE nor a correlation is known; no scores."""
    one = np.ones(1)
    assert intervals(TASK, one, one) == {}
    same = intervals(TASK, np.arange(20.0), np.ones(20))
    assert same.keys() == {"mae", "rmse"}
    assert intervals(TASK, np.full(20, np.nan), np.arange(20.0)) == {}


def test_the_same_examples_give_the_same() -> None:
    rng = np.random.default_rng(3)
    truth, scores = rng.normal(size=50), rng.normal(size=50)
    assert intervals(TASK, scores, truth) == intervals(TASK, scores, truth)
