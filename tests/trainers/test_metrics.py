"""Metrics and baselines against scikit-learn and by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.xsvideo.annotation import INDICATORS, level_of
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.trainers.tasks.baselines import lookup
from netgpt.trainers.tasks.evaluate import Judge
from tests.reference import EVALUATION, rating

TASK = rating()


@given(st.lists(st.tuples(st.floats(-5, 15), st.integers(0, 9)), min_size=1, max_size=50))
def test_metrics_equal_scikit_learn(pairs: list[tuple[float, int]]) -> None:
    scores, levels = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    clipped = np.clip(scores, 0, 9)
    found = TASK.measure(scores, levels)
    assert found["acc"] == pytest.approx(accuracy_score(levels, np.floor(clipped + 0.5).astype(int)))
    assert found["mse"] == pytest.approx(mean_squared_error(levels, clipped))
    assert found["mae"] == pytest.approx(mean_absolute_error(levels, clipped))


def test_halves_round_up_and_scores_are_clipped() -> None:
    assert TASK.answers(np.array([-3.0, 0.49, 0.5, 1.5, 2.5, 8.5, 12.0])).tolist() == [0, 0, 1, 2, 3, 9, 9]


@pytest.mark.parametrize(
    ("views", "others", "level"),
    [
        (0, 0, 0),
        (1, 0, 1),
        (0, 1, 1),
        (100, 0, 1),
        (101, 0, 2),
        (0, 10, 1),
        (0, 11, 2),
        (0, 21, 3),
        (100_001, 0, 3),
        (0, 81, 4),
        (1_000_000, 0, 3),
        (1_000_001, 0, 6),
        (0, 301, 5),
        (0, 1001, 6),
        (0, 3001, 7),
        (0, 10_001, 8),
        (200_000_000, 0, 8),
        (200_000_001, 0, 9),
        (0, 50_001, 9),
    ],
)
def test_the_rule_is_the_papers_table(views: int, others: int, level: int) -> None:
    for place in range(1, 5):
        counts = np.zeros((1, 5))
        counts[0, 0], counts[0, place] = views, others
        assert level_of(counts).tolist() == [level]


def test_lookup_by_hand(store: Store) -> None:
    splits, truth = TASK.examples(store), TASK.truth(store)
    counts = {
        n: np.expm1(store.features(n).gather(np.arange(store.num_nodes["video"])))[:, 0] for n in INDICATORS
    }
    table = np.column_stack([np.rint(counts[n]) for n in INDICATORS])
    rule, platform = level_of(table), store.column("video", "platform")
    zero = ~table.any(axis=1)
    found = lookup(store, truth, splits.train, splits.test)
    assert found is not None
    for v, value in zip(splits.test, found, strict=True):
        same = [u for u in splits.train if (rule[u], zero[u], platform[u]) == (rule[v], zero[v], platform[v])]
        like = [u for u in splits.train if rule[u] == rule[v]]
        assert value == np.median(truth[same or like or splits.train])


def test_baselines_on_the_released_sample(sample_path: Path, tmp_path: Path) -> None:
    graphstore.build(sample_path, tmp_path / "s", Config(encoder="hash:8", video_dim=1, time_dim=4))
    store = graphstore.open(str(tmp_path / "s"))
    judge = Judge(store, TASK, TASK.examples(store), EVALUATION)
    found = judge.baseline_metrics()
    assert found["lookup"]["test"]["acc"] == pytest.approx(0.591, abs=0.005)
    assert found["lookup"]["test"]["mae"] == pytest.approx(0.627, abs=0.005)
    best = found["constant (best on test)"]["test"]
    assert (best["acc"], best["mse"], best["mae"]) == pytest.approx((0.29, 2.6, 1.21), abs=0.03)
    apart = judge.is_apart(store.split("test"))
    assert apart is not None and apart.sum() == 312
    assert found["lookup"]["test_age_zero"]["num"] == 312


def judge_of(store: Store, period_days: list[int]) -> Judge:
    return Judge(store, TASK, TASK.examples(store), replace(EVALUATION, period_days=period_days))


def test_metrics_by_platform_and_period(store: Store) -> None:
    """By hand: dates in China, periods of up to 2, 3 to 5 and more days."""
    china = timezone(timedelta(hours=8))
    ids = store.split("train")[5:90]
    scores = np.random.default_rng(0).uniform(-1, 10, len(ids))
    found = judge_of(store, [2, 5]).metrics(ids, scores)
    assert {k: found[k] for k in ("acc", "mse", "mae", "num")} == TASK.measure(scores, store.labels[ids])
    codes, names = store.key("platform")
    groups: dict[tuple[str, str], list[int]] = {}
    for i, v in enumerate(ids):
        post, sampled = (
            datetime.fromtimestamp(int(t[v]), china).date() for t in (store.post_time, store.sampling_time)
        )
        days = (sampled - post).days
        period = "up to 2 days" if days <= 2 else "3 to 5 days" if days <= 5 else "over 5 days"
        groups.setdefault(("period", period), []).append(i)
        groups.setdefault(("platform", names[int(codes[v])]), []).append(i)
    assert len(groups) > 4
    for kind in ("period", "platform"):
        assert set(found[kind]) == {name for k, name in groups if k == kind}
        assert sum(m["num"] for m in found[kind].values()) == len(ids)
    for (kind, name), places in groups.items():
        assert found[kind][name] == TASK.measure(scores[places], store.labels[ids[places]])


def test_periods_are_the_quartiles_of_the_labelled_states(store: Store) -> None:
    ids = np.flatnonzero(np.asarray(store.labels) >= 0)
    found = judge_of(store, []).metrics(ids, np.zeros(len(ids)))["period"]
    ages = sorted(
        (date.fromisoformat(record["当前时间"]) - date.fromisoformat(record["发布时间"][:10])).days
        for record in (json.loads(store.texts[v]) for v in ids.tolist())
    )
    assert sum(m["num"] for m in found.values()) == len(ids) and len(found) == 4
    bounds = [ages[(len(ages) - 1) * k // 4] for k in (1, 2, 3)]
    assert list(found) == [
        f"up to {bounds[0]} days",
        f"{bounds[0] + 1} to {bounds[1]} days",
        f"{bounds[1] + 1} to {bounds[2]} days",
        f"over {bounds[2]} days",
    ]


def test_a_text_without_a_level_is_wrong_and_counted() -> None:
    found = TASK.measure(np.array([np.nan, 3.0, 5.0, np.nan]), np.array([3, 3, 4, 0]))
    assert found == {"acc": 0.25, "mse": 0.5, "mae": 0.5, "num": 4, "unparsed": 2}
    found = TASK.measure(np.array([np.nan]), np.array([3]))
    assert found == {"acc": 0.0, "mse": None, "mae": None, "num": 1, "unparsed": 1}
    assert TASK.answers(np.array([np.nan, 2.5])).tolist() == [-1, 3]
    assert "unparsed" not in TASK.measure(np.array([3.0]), np.array([3]))
