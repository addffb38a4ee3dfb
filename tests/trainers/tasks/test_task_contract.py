"""Our tasks, and the smallest guest, keep the contract of tasks."""

from __future__ import annotations

import numpy as np

from netgpt.trainers.tasks.base import WordsConfig
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


class TestToy(TaskTests):
    words = WordsConfig(request="Is its level above 4? ", response="The answer is ")
    task = Above(AboveConfig(name="tests.toys.task:Above", label="label", split=TASK.split, words=words))

    def naive(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
        pairs = [(min(max(s, 0.0), 1.0), t) for s, t in zip(scores.tolist(), truth.tolist(), strict=True)]
        wins = [(a > b) + (a == b) / 2 for a, yes in pairs if yes for b, no in pairs if not no]
        return {"brier": sum((s - t) ** 2 for s, t in pairs) / len(pairs), "auc": sum(wins) / len(wins)}
