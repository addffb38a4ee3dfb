"""Our tasks, and the smallest guest, keep the contract of tasks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.tasks.base import WordsConfig
from netgpt.trainers.tasks.classification import Classification, ClassificationConfig
from netgpt.trainers.tasks.regression import Regression, RegressionConfig
from tests.contracts.task import TaskTests
from tests.reference import TASK, rating
from tests.toys.task import Above, AboveConfig


class TestRating(TaskTests):
    task = rating()

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        clipped = [min(max(s, 0.0), 9.0) for s in scores.tolist()]
        pairs = list(zip(clipped, truth.tolist(), strict=True))
        return {
            "acc": sum(int(s + 0.5) == t for s, t in pairs) / len(pairs),
            "mse": sum((s - t) ** 2 for s, t in pairs) / len(pairs),
            "mae": sum(abs(s - t) for s, t in pairs) / len(pairs),
        }


class TestRegression(TaskTests):
    task = Regression(RegressionConfig(name="regression", label="label", split=TASK.split))

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        pairs = list(zip(scores.tolist(), truth.tolist(), strict=True))
        mean = sum(t for _, t in pairs) / len(pairs)
        variance = sum((t - mean) ** 2 for _, t in pairs) / len(pairs)
        mse = sum((s - t) ** 2 for s, t in pairs) / len(pairs)

        def ranks(values: list[float]) -> list[float]:
            return [sum(b < a for b in values) + (values.count(a) + 1) / 2 for a in values]

        a, b = ranks([s for s, _ in pairs]), ranks([t for _, t in pairs])
        flat = len(set(a)) == 1 or len(set(b)) == 1
        return {
            "nmse": mse / variance,
            "mae": sum(abs(s - t) for s, t in pairs) / len(pairs),
            "rmse": mse**0.5,
            "spearman": None if flat else float(np.corrcoef(a, b)[0, 1]),
        }


class TestSaidNumbers(TestRegression):
    """A regression whose numbers a language model says."""

    bounded = False
    task = Regression(
        RegressionConfig(
            name="regression",
            label="label",
            split=TASK.split,
            said=[0, 9, 0.5],
            words=WordsConfig(request="How high?", response="It is "),
        )
    )

    @pytest.mark.parametrize(
        "said", [[-2.0, 3.0, 0.25], [0.0, 20.0, 1.0], [1.5, 9.9, 0.7], [0.0, 1e-4, 1e-5], [-0.9, 0.9, 0.3]]
    )
    def test_a_number_is_said_as_the_nearest(self, said: list[float]) -> None:
        task = Regression(RegressionConfig(name="regression", label="label", split=TASK.split, said=said))
        first, last, step = (Fraction(repr(one)) for one in said)
        grid = [first + i * step for i in range(int((last - first) / step) + 1)]
        assert (
            [Fraction(choice) for choice in task.choices]
            == grid
            == [Fraction(repr(v)) for v in task.choice_values.tolist()]
        )
        rng = np.random.default_rng(0)
        for number in rng.uniform(said[0] - said[2], said[1] + said[2], 300).tolist():
            distances = [abs(one - Fraction(number)) for one in grid]
            nearest = distances.index(min(distances))
            assert task.choice_of(number) == nearest
            expected = nearest if min(distances) <= step / 2 else None
            assert task.parse(f"about {number:.12f} or so") == expected
        values = np.array([np.nan, said[0] - 1, said[1] + 1])
        assert task.choices_said(values).tolist() == [-1, 0, len(grid) - 1]

    @pytest.mark.parametrize(
        "said",
        [
            [0.0],
            [1.0, 0.0, 0.5],
            [0.0, 1.0, 0.0],
            [0.0, 1.0, 3.0],
            [0.0, 1.0, 0.001],
            [0.0, 1.0, 1e-320],
            [0.0, math.inf, 1.0],
            [-math.inf, 0.0, math.inf],
        ],
    )
    def test_lists_that_are_none_are_refused(self, said: list[float]) -> None:
        with pytest.raises(TrainerError, match=r"task\.said: found .*, expected \[first, last, step\]"):
            RegressionConfig(name="regression", label="label", split=TASK.split, said=said)

    def test_words_with_a_number_are_refused(self) -> None:
        """No text could be read: its one number is not the answer alone."""
        words = WordsConfig(request="How high is log2?", response="Its log2 is ")
        with pytest.raises(
            TrainerError, match=r"task\.words\.response: found 'Its log2 is ', expected words"
        ):
            RegressionConfig(name="regression", label="label", split=TASK.split, said=[0, 9, 1], words=words)
        RegressionConfig(name="regression", label="label", split=TASK.split, words=words)


class TestOrdinal(TaskTests):
    """A rating whose scores are chances of levels: each metric by the answer that is best for it."""

    task = rating(head="ordinal")

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        if scores.ndim == 1:
            return TestRating().naive(scores, truth)
        right, squares, distances = 0, 0.0, 0.0
        for row, t in zip(scores.tolist(), truth.tolist(), strict=True):
            weights = [math.exp(s - max(row)) for s in row]
            chances = [w / sum(weights) for w in weights]
            right += row.index(max(row)) == t
            squares += (sum(k * p for k, p in enumerate(chances)) - t) ** 2
            median = next(k for k in range(len(row)) if sum(chances[: k + 1]) >= 0.5)
            distances += abs(median - t)
        num = len(truth)
        return {"acc": right / num, "mse": squares / num, "mae": distances / num}

    def test_its_loss_is_two_proper_scores_of_each_bound(self) -> None:
        scores = self.some_scores(40)
        truth = np.random.default_rng(0).integers(0, 10, 40)
        expected = 0.0
        for row, t in zip(scores, truth, strict=True):
            chances = np.exp(row) / np.exp(row).sum()
            for k in range(9):
                right = chances[: k + 1].sum() if t <= k else chances[k + 1 :].sum()
                expected += (1 - right) ** 2 - 0.1 * math.log(right)
        found = self.task.loss(torch.from_numpy(scores), torch.from_numpy(truth), 1.0)
        assert found.item() == pytest.approx(expected, rel=1e-5)


class TestClassification(TaskTests):
    task = Classification(
        ClassificationConfig(
            name="classification", label="label", split=TASK.split, classes=[str(i) for i in range(10)]
        )
    )

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        wide = scores.ndim == 2
        said = scores.argmax(1) if wide else np.array([min(max(int(s + 0.5), 0), 9) for s in scores.tolist()])
        f1, areas = [], []
        for one in sorted(set(truth.tolist())):
            hits = sum(s == one == t for s, t in zip(said.tolist(), truth.tolist(), strict=True))
            precision = hits / max(1, int(sum(said == one)))
            recall = hits / int(sum(truth == one))
            f1.append(2 * precision * recall / (precision + recall) if hits else 0.0)
            if wide:
                logs = scores[:, int(one)] - np.log(np.exp(scores).sum(1))
                yes, no = logs[truth == one], logs[truth != one]
                if len(no):
                    wins = [(a > b) + (a == b) / 2 for a in yes for b in no]
                    areas.append(sum(wins) / len(wins))
        nll = None
        if wide:
            chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
            nll = float(-np.mean([math.log(row[int(t)]) for row, t in zip(chances, truth, strict=True)]))
        return {
            "acc": float(np.mean(said == truth)),
            "f1": float(np.mean(f1)),
            "auroc": float(np.mean(areas)) if areas else None,
            "nll": nll,
        }


def classifying(label: str, classes: list[str]) -> Classification:
    return Classification(ClassificationConfig(name="classification", label=label, classes=classes))


def test_classes_are_a_categorys_values(store: Store) -> None:
    """In the recipe's order; a value that it does not name is said with all that there are."""
    columns = store.schema.node_type(store.schema.target).columns
    made = [(c.name, *store.category(store.schema.target, c.name)) for c in columns if c.kind == "category"]
    name, codes, values = min(made, key=lambda one: len(one[2]))
    used = sorted({values[code] for code in np.asarray(codes).tolist() if code >= 0})
    classes = used[::-1]
    truth = classifying(name, classes).truth(store)
    named = [values[code] if code >= 0 else None for code in np.asarray(codes).tolist()]
    assert [None if np.isnan(t) else classes[int(t)] for t in truth.tolist()] == named
    for wrong in (classes[1:], []):
        with pytest.raises(TrainerError, match=r"^task\.classes: found .*, expected the values of") as raised:
            classifying(name, wrong).truth(store)
        assert all(repr(value) in str(raised.value) for value in used[:20])
    with pytest.raises(TrainerError, match=r"^task\.classes: found \['a', 'a'\], expected the label's"):
        classifying(name, ["a", "a"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("The label is short.", 0),
        ("short film", 1),
        ("a SHORT FILM it is", 1),
        ("short, or a short film", None),
        ("shorts", None),
        ("c++", 2),
        ("", None),
    ],
)
def test_a_text_names_one_class(text: str, said: int | None) -> None:
    classes = ["short", "short film", "c++"]
    assert classifying("kind", classes).parse(text) == said


class TestToy(TaskTests):
    words = WordsConfig(request="Is its level above 4? ", response="The answer is ")
    task = Above(AboveConfig(name="tests.toys.task:Above", label="label", split=TASK.split, words=words))

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        pairs = [(min(max(s, 0.0), 1.0), t) for s, t in zip(scores.tolist(), truth.tolist(), strict=True)]
        wins = [(a > b) + (a == b) / 2 for a, yes in pairs if yes for b, no in pairs if not no]
        return {"brier": sum((s - t) ** 2 for s, t in pairs) / len(pairs), "auc": sum(wins) / len(wins)}
