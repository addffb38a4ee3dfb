"""Baselines of the labels that a prompt shows, numbers read from texts, splits without a validation part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt.graphstore import Store
from netgpt.graphstore.datasets import names as datasets
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.tasks.evaluate import Judge
from netgpt.trainers.tasks.history import histories, shown_labels, statistics
from netgpt.trainers.tasks.regression import Regression, RegressionConfig
from netgpt.trainers.tasks.split import SplitConfig
from tests.smpd import SCALE, built, named, plain_posts

CONFIG = RegressionConfig(
    name="regression",
    label="score",
    digits=2,
    val_share=0.3,
    split=SplitConfig(by="column", column="part"),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smpd") / "files"
    datasets.load("smpd").write_synthetic(folder, 4 * SCALE, 0)
    return folder


@pytest.fixture(scope="module")
def posts(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return built(source, tmp_path_factory.mktemp("store") / "store", users=25, shots=3)


def test_histories_are_the_users_own_earlier_scores(posts: Store, source: Path) -> None:
    task = Regression(CONFIG)
    truth, test = task.truth(posts), task.examples(posts).test
    heads = shown_labels(posts, posts.schema.document("post"), "score")
    assert heads is not None
    by_pid = {post["Pid"]: (user, post["label"]) for user, own in plain_posts(source).items() for post in own}
    made, few = histories(heads, truth, test, -1.0), statistics(heads, truth, test)
    pids, seen = posts.ids, 0
    for i, v in enumerate(test.tolist()):
        user, label = by_pid[pids[v]]
        latest = [post["label"] for post in plain_posts_of(source)[user]][-5:]
        assert label == pytest.approx(latest[-1], abs=1e-6)
        shown = latest[:4]  # three shots, and the post that training asks
        assert made["last"][i] == pytest.approx(shown[-1], abs=1e-5)
        assert made["mean"][i] == pytest.approx(np.mean(shown), abs=1e-5)
        assert made["median"][i] == pytest.approx(np.median(shown), abs=1e-5)
        np.testing.assert_allclose(few[i], [4, shown[-1], np.mean(shown), min(shown), max(shown)], atol=1e-5)
        seen += 1
    assert seen == 75  # main and two further sets


_READ: dict[Path, dict[str, list[dict[str, float]]]] = {}


def plain_posts_of(source: Path) -> dict[str, list[dict[str, float]]]:
    if source not in _READ:
        _READ[source] = plain_posts(source)
    return _READ[source]


def test_baselines_with_the_history_are_ahead_of_the_constant(posts: Store) -> None:
    task = Regression(CONFIG)
    examples = task.examples(posts)
    made = Judge(posts, task, examples, EvaluationConfig()).baselines
    truth = examples.truth[examples.test]
    mae = {
        name: task.measure(one.scores, truth)["mae"] for name, one in made.items() if one.scores is not None
    }
    assert mae["mean of the history"] < 0.9 * mae["constant (median)"]
    assert mae["median of the history"] < 0.9 * mae["constant (median)"]
    assert {"last of the history", "trees with the history", "trees on the numbers"} <= set(mae)
    # Both directions of a link are one
    assert [name for name in mae if name.startswith("means by")] == [
        "means by published, is_category_of, is_subcategory_of, is_concept_of"
    ]


def test_a_node_without_a_history_gets_what_stands_in(posts: Store) -> None:
    heads = shown_labels(posts, posts.schema.document("post"), "score")
    assert heads is not None and shown_labels(posts, posts.schema.document("post"), "tags") is None
    first = np.array([v for v in range(posts.num_nodes["post"]) if not heads(v)])[:5]
    made = histories(heads, np.ones(posts.num_nodes["post"]), first, 7.5)
    assert all(values.tolist() == [7.5] * 5 for values in made.values())


def test_validation_is_drawn_of_train_where_the_column_names_none(posts: Store) -> None:
    parts = np.array(named(posts, "part"))
    found = Regression(CONFIG).examples(posts)
    train = np.flatnonzero(parts == "train")
    assert sorted([*found.train, *found.val]) == train.tolist()
    assert len(found.val) == round(0.3 * len(train)) and not set(found.train) & set(found.val)
    assert found.test.tolist() == np.flatnonzero(parts == "test").tolist()
    again = Regression(CONFIG).examples(posts)
    assert again.val.tolist() == found.val.tolist()


@given(st.floats(-99999, 99999, allow_nan=False), st.integers(0, 4))
def test_what_is_written_is_read(truth: float, digits: int) -> None:
    task = Regression(RegressionConfig(name="regression", label="score", digits=digits))
    text = task.written(truth)
    assert task.read(text) == pytest.approx(truth, abs=0.5000001 * 10**-digits)
    assert len(text) <= len(task.longest_written)
    assert task.read(f"The score is {text}.") == task.read(text)


@pytest.mark.parametrize(
    "text", ["", "none", "7.5 or 8", "1.2.3", "7,5", "5a", "ics.2", "１２", "1e5", "12 13", "v2"]
)
def test_nothing_is_guessed(text: str) -> None:
    assert Regression(CONFIG).read(text) is None


def test_digits_beyond_reason_are_refused() -> None:
    for digits in (-2, 7):
        with pytest.raises(TrainerError, match=r"task.digits: found .*, expected -1 to 6"):
            RegressionConfig(name="regression", label="score", digits=digits)
