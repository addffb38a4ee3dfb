"""Examples by part: at random, as a column says; regression on a table, and its baselines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.dataset import BuildConfig
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.tasks.evaluate import Judge
from netgpt.trainers.tasks.regression import Regression, RegressionConfig
from netgpt.trainers.tasks.split import SplitConfig

WORDS = ("calm", "loud", "red", "blue", "fast", "slow", "old", "new")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Things whose price follows from a word of their title and from their weight; some have none."""
    folder, rng = tmp_path_factory.mktemp("shop"), np.random.default_rng(0)
    lines = ["thing,title,weight,price,part,when,balance"]
    for i in range(400):
        words, weight = rng.choice(WORDS, 3), rng.uniform(0, 4)
        price = "" if i % 40 == 7 else f"{2 ** (3 * ('red' in words) + weight + rng.normal() / 10):.4f}"
        part = ("train", "Train", "TEST", "val", "", "other")[int(rng.integers(6))]
        lines.append(f"t{i},{' '.join(words)},{weight:.3f},{price},{part},{1_000_000 + i * 86_400},{i - 2}")
    (folder / "things.csv").write_text("\n".join(lines))
    (folder / "graph.yaml").write_text(
        "tables:\n  thing:\n    path: things.csv\n    key: thing\n    time: when\n"
        "    columns: {title: text, weight: number, price: number, part: category, balance: number}\n"
    )
    graphstore.build(folder / "graph.yaml", folder / "store", BuildConfig(encoder="hash:16"))
    return graphstore.open(str(folder / "store"))


def regression(split: dict[str, Any], val_share: float = 0.1, transform: str = "log2") -> Regression:
    config = RegressionConfig(
        name="regression", label="price", transform=transform, val_share=val_share, split=SplitConfig(**split)
    )
    return Regression(config)


def test_a_test_period_ends_with_its_day(shop: Store) -> None:
    by_time = {"by": "time", "column": "when", "until": "1970-08-01", "utc_offset_h": 0}
    whole = regression(by_time).examples(shop)
    part = regression({**by_time, "test_until": "1970-08-20"}).examples(shop)
    np.testing.assert_array_equal(part.train, whole.train)
    np.testing.assert_array_equal(part.val, whole.val)
    times, end = np.asarray(shop.column("thing", "when")), 232 * 86_400  # seconds of 1970 before August 21
    np.testing.assert_array_equal(part.test, whole.test[times[whole.test] < end])
    assert 0 < len(part.test) < len(whole.test)
    assert "test_until" not in regression(by_time).config.to_dict()["split"]
    with pytest.raises(TrainerError, match=r"test_until: found '1970-08-01', expected a day behind"):
        regression({**by_time, "test_until": "1970-08-01"})
    with pytest.raises(TrainerError, match=r"test_until: found 'soon', expected a date"):
        regression({**by_time, "test_until": "soon"})


@pytest.mark.parametrize(("seed", "test_share", "val_share"), [(9, 0.1, 0.1), (0, 0.3, 0.05), (3, 0.2, 0.5)])
def test_a_random_split_is_scikit_learns(shop: Store, seed: int, test_share: float, val_share: float) -> None:
    task = regression({"by": "random", "seed": seed, "test_share": test_share}, val_share)
    examples, known = task.examples(shop), [v for v in range(400) if v % 40 != 7]
    train, rest = train_test_split(known, test_size=test_share + val_share, random_state=seed)
    share = val_share / (test_share + val_share)
    test, val = train_test_split(rest, test_size=share, random_state=2 * seed)
    for part, expected in (("train", train), ("val", val), ("test", test)):
        np.testing.assert_array_equal(examples.named()[part], sorted(expected))
    assert len(examples.test) / len(known) == pytest.approx(test_share, abs=0.01)
    other = regression({"by": "random", "seed": seed + 1, "test_share": test_share}, val_share).examples(shop)
    assert other.test.tolist() != examples.test.tolist()


def test_a_column_says_the_parts(shop: Store) -> None:
    examples = regression({"by": "column", "column": "part"}).examples(shop)
    codes, values = shop.category("thing", "part")
    known = ~np.isnan(examples.truth)
    for part, nodes in examples.named().items():
        said = [v for v in range(400) if known[v] and codes[v] >= 0 and values[codes[v]].lower() == part]
        assert nodes.tolist() == said and said


def test_what_cannot_be_split_is_said_in_one_line(shop: Store) -> None:
    for split, val_share, words in (
        (
            {"by": "column", "column": "title"},
            0.1,
            r"^task\.split\.column: found 'title', expected a category",
        ),
        ({"by": "random", "test_share": 0.6}, 0.4, r"^task\.val_share: found 0\.4, expected below 0\.4"),
        ({"by": "time", "column": "when"}, 0.1, r"^task\.split\.until: found ''"),
    ):
        with pytest.raises(TrainerError, match=words) as caught:
            regression(split, val_share).examples(shop)
        assert "\n" not in str(caught.value)
    for bad, words in (
        ({"by": "luck"}, r"^task\.split\.by: found 'luck', expected one of time, random, column"),
        ({"test_share": 1.0}, r"^task\.split\.test_share: found 1\.0"),
        ({"seed": -1}, r"^task\.split\.seed: found -1"),
    ):
        with pytest.raises(TrainerError, match=words):
            SplitConfig(**bad)


def test_truth_is_transformed_or_refused(shop: Store) -> None:
    price = np.asarray(shop.column("thing", "price"))
    for transform, formula in (("none", float), ("log2", math.log2), ("log1p", math.log1p)):
        truth = regression({"by": "random"}, transform=transform).truth(shop)
        expected = [math.nan if math.isnan(x) else formula(x) for x in price.tolist()]
        np.testing.assert_allclose(truth, expected)
    task = Regression(RegressionConfig(name="regression", label="balance", transform="log2"))
    with pytest.raises(TrainerError, match=r"column 'balance': found -2, expected numbers above 0 \(task.tr"):
        task.truth(shop)
    with pytest.raises(TrainerError, match=r"^task\.transform: found 'sqrt', expected one of none, log2"):
        RegressionConfig(name="regression", transform="sqrt")


def test_baselines_read_numbers_and_texts_and_learn_from_train(shop: Store) -> None:
    task = regression({"by": "random", "seed": 1, "test_share": 0.3})
    examples = task.examples(shop)
    found = Judge(shop, task, examples, EvaluationConfig()).baseline_metrics()
    measured = {name: of_parts["test"] for name, of_parts in found.items()}
    truth, train = examples.truth[examples.test], examples.truth[examples.train]
    constant = measured["constant (mean)"]
    assert constant["nmse"] == pytest.approx(np.mean((train.mean() - truth) ** 2) / truth.var())
    assert constant["spearman"] is None
    assert measured["constant (median)"]["mae"] == pytest.approx(np.abs(np.median(train) - truth).mean())
    # One knows the weight, the other the word: each explains something, and no more than it can know
    numbers, texts = measured["trees on the numbers"]["nmse"], measured["ridge on the texts"]["nmse"]
    share = np.corrcoef(np.asarray(shop.column("thing", "weight"))[examples.test], truth)[0, 1] ** 2
    assert 1 - share - 0.1 < numbers < 0.9 and share - 0.1 < texts < 0.9
