"""Regression: a number of a node, as it is or on a logarithmic scale.

nMSE is the mean squared error divided by the variance of the labels: 1 says nothing, 0 all. Spearman is the
correlation of ranks, ties by their mean. All are on the transformed scale, as popularity is published. The
loss is Smooth L1: its `beta` large for the mean, small for the median. A language model may say the number in
words, of a list of them: then it is measured by the likeliest, by their mean, and by what it writes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.files import Json
from netgpt.graphstore.ranks import rank_correlation
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.tasks.base import Metric, Task, TaskConfig
from netgpt.trainers.tasks.baselines import (
    RIDGE,
    Baseline,
    Measures,
    earlier_means,
    has_numbers,
    link_means,
    nearest_means,
    nearest_types,
    numbers_beside,
    ridge,
    trees,
)

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

TRANSFORMS = ("none", "log2", "log1p")
MAX_SAID = 200
"""A language model is asked how likely each is, of every example."""
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_WHOLE_NUMBER = re.compile(r"(?<![\w.+−-])-?\d+(?:\.\d+)?(?!\w)", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(TaskConfig):
    transform: str = "none"
    """What is predicted and measured: none: the label; log2: its binary logarithm; log1p: ln(1 + label)."""
    said: list[float] = field(default_factory=list)
    """[first, last, step] of the numbers that a language model may answer with, on the transformed scale.
    Without it no response says a number of a list."""
    digits: int = -1
    """Decimals of the numbers that a language model writes freely (objective `number`), on the transformed
    scale; −1: it writes none, and without `said` a head alone predicts one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.transform in TRANSFORMS
        require(ok, "task.transform", self.transform, f"one of {', '.join(TRANSFORMS)}")
        require(-1 <= self.digits <= 6, "task.digits", self.digits, "-1 to 6")
        if self.said or self.digits >= 0:
            words = self.words.response
            no_number = "words without a number, as the answer is one"
            require(not _NUMBER.search(words), "task.words.response", words, no_number)
        if self.said:
            fits = len(self.said) == 3 and all(map(math.isfinite, self.said)) and self.said[2] > 0
            fits = fits and 1 <= (self.said[1] - self.said[0]) / self.said[2] + 1e-9 < MAX_SAID
            require(fits, "task.said", self.said, f"[first, last, step] of 2 to {MAX_SAID} numbers")


class Regression(Task):
    Config: ClassVar[type[TaskConfig]] = RegressionConfig
    noun = "number"
    metrics = (
        Metric("nmse", "nMSE", "mean squared error, divided by the variance of the labels"),
        Metric("mae", "MAE", "mean absolute error"),
        Metric("rmse", "RMSE", "root of the mean squared error"),
        Metric("spearman", "Spearman", "correlation of ranks", larger_is_better=True),
    )
    chooses = "mae"
    has_means = True
    unparsed_said = "they are in none of its figures"

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        assert isinstance(config, RegressionConfig)
        self._values, self._said = np.empty(0), tuple[str, ...]()
        if config.said:
            first, last, step = config.said
            start, size = Decimal(repr(first)), Decimal(repr(step))
            numbers = [start + i * size for i in range(math.floor((last - first) / step + 1e-9) + 1)]
            digits = max(
                0, -int(size.normalize().as_tuple().exponent), -int(start.normalize().as_tuple().exponent)
            )
            self._said = tuple(f"{one:.{digits}f}" for one in numbers)
            self._values = np.array([float(one) for one in self._said])

    def truth(self, graph: Graph) -> np.ndarray:
        assert isinstance(self.config, RegressionConfig)
        values, transform = super().truth(graph), self.config.transform
        if transform == "none":
            return values
        least = 0.0 if transform == "log2" else -1.0
        if len(wrong := values[values <= least]):
            raise TrainerError(
                f"task.label: column {self.config.label!r}: found {wrong[0]:g}, expected numbers above "
                f"{least:g} (task.transform={transform})"
            )
        return np.log2(values) if transform == "log2" else np.log1p(values)

    def head(self, width: int) -> nn.Module:
        from netgpt.trainers.tasks.heads import ScaledHead

        return ScaledHead(width)

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        from torch.nn.functional import smooth_l1_loss

        return smooth_l1_loss(scores_n, truth_n, reduction="sum", beta=beta)

    @property
    def choices(self) -> tuple[str, ...]:
        return self._said

    @property
    def choice_values(self) -> np.ndarray:
        return self._values

    def choice_of(self, truth: float) -> int:
        """The nearest of the numbers that are said."""
        return int(np.abs(self._values - truth).argmin())

    def choices_said(self, values: np.ndarray) -> np.ndarray:
        return np.array([-1 if np.isnan(v) else self.choice_of(v) for v in values.tolist()], np.int64)

    def parse(self, text: str) -> int | None:
        """The one number of a text, as the nearest that is said; None where it is none that rounds to one."""
        numbers = _NUMBER.findall(text)
        if len(numbers) != 1:
            return None
        nearest = self.choice_of(number := float(numbers[0]))
        step = self._values[1] - self._values[0]
        return nearest if abs(self._values[nearest] - number) <= step / 2 else None

    @property
    def digits(self) -> int:
        assert isinstance(self.config, RegressionConfig)
        return self.config.digits

    @property
    def writes(self) -> bool:
        return self.digits >= 0

    @property
    def longest_written(self) -> str:
        return self.written(-88888.888888)

    def written(self, truth: float) -> str:
        return f"{truth:.{self.digits}f}"

    def read(self, text: str) -> float | None:
        """The one number of a text; None where there are more, or none, or digits that are part of a word."""
        numbers = _WHOLE_NUMBER.findall(text)
        digits = sum(one.isdigit() for one in text)
        whole = len(numbers) == 1 and digits == sum(one.isdigit() for one in numbers[0])
        return number if whole and math.isfinite(number := float(numbers[0])) else None

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> Measures:
        """An example whose score is NaN counts in none of the metrics but in `unparsed`. nmse is None where
        all labels are one, spearman also where all scores are."""
        known = ~np.isnan(scores)
        unparsed = {"unparsed": int((~known).sum())} if not known.all() else {}
        if not known.any():
            return {**dict.fromkeys((m.name for m in self.metrics), None), "num": len(truth), **unparsed}
        reported, label = self.reported(scores[known]), truth[known]
        error = reported - label
        mse, variance = float(np.mean(error**2)), float(np.var(label))
        return {
            "nmse": mse / variance if variance > 0 else None,
            "mae": float(np.mean(np.abs(error))),
            "rmse": math.sqrt(mse),
            "spearman": rank_correlation(reported, label),
            "num": len(truth),
            **unparsed,
        }

    def told_numbers(self, graph: Graph) -> tuple[str, ...]:
        return numbers_beside(graph, self.config.label)

    def answer(self, score: float | np.ndarray) -> Json:
        return {"number": round(float(score), 6)}

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        truth = self.truth(graph)
        made = {
            "constant (mean)": Baseline(np.full(len(test), truth[train].mean())),
            "constant (median)": Baseline(np.full(len(test), np.median(truth[train]))),
        }
        columns = self.told_numbers(graph)
        if has_numbers(graph, columns):
            scores = trees(graph, truth, train, test, loss="squared_error", columns=columns)
            made["trees on the numbers"] = Baseline(scores)
        if (scores_of_texts := ridge(graph, truth, train, test)) is not None:
            made[RIDGE] = Baseline(scores_of_texts)
        if (found := link_means(graph, truth, train, test)) is not None:
            made[f"means by {', '.join(found[0])}"] = Baseline(found[1])
        for edge_type in nearest_types(graph):
            name = f"mean of the nearest ({edge_type[1]})"
            made[name] = Baseline(nearest_means(graph, edge_type, truth, train, test))
        for edge_type in told_by(graph, self.config.label):
            name = f"mean of earlier ({edge_type[1]})"
            made[name] = Baseline(earlier_means(graph, edge_type, truth, train, test))
        return made


def told_by(graph: Graph, label: str) -> tuple[EdgeType, ...]:
    """Groups of the target whose heads tell the label."""
    groups = (r.edge_type for r in graph.schema.relations if r.rule == "group")
    return tuple(e for e in groups if e[0] != e[2] and label in graph.schema.node_type(e[0]).inputs)
