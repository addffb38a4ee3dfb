"""Regression: a number of a node, as it is or on a logarithmic scale.

nMSE is the mean squared error divided by the variance of the labels: 1 says nothing, 0 all. Spearman is the
correlation of ranks, ties by their mean. All are on the transformed scale, as popularity is published. The
loss is Smooth L1: its `beta` large for the mean, small for the median.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.files import Json
from netgpt.graphstore.ranks import rank_correlation
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.tasks.base import Metric, Task, TaskConfig
from netgpt.trainers.tasks.baselines import (
    Baseline,
    Measures,
    earlier_means,
    has_numbers,
    link_means,
    numbers_beside,
    ridge,
    trees,
)

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

TRANSFORMS = ("none", "log2", "log1p")


@dataclass(frozen=True, kw_only=True)
class RegressionConfig(TaskConfig):
    transform: str = "none"
    """What is predicted and measured: none: the label; log2: its binary logarithm; log1p: ln(1 + label)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        ok = self.transform in TRANSFORMS
        require(ok, "task.transform", self.transform, f"one of {', '.join(TRANSFORMS)}")


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

    def answer(self, score: float | np.ndarray) -> Json:
        return {"number": round(float(score), 6)}

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        truth = self.truth(graph)
        made = {
            "constant (mean)": Baseline(np.full(len(test), truth[train].mean())),
            "constant (median)": Baseline(np.full(len(test), np.median(truth[train]))),
        }
        columns = numbers_beside(graph, self.config.label)
        if has_numbers(graph, columns):
            scores = trees(graph, truth, train, test, loss="squared_error", columns=columns)
            made["trees on the numbers"] = Baseline(scores)
        if (scores_of_texts := ridge(graph, truth, train, test)) is not None:
            made["ridge on the texts"] = Baseline(scores_of_texts)
        if (found := link_means(graph, truth, train, test)) is not None:
            made[f"means by {', '.join(found[0])}"] = Baseline(found[1])
        for edge_type in told_by(graph, self.config.label):
            name = f"mean of earlier ({edge_type[1]})"
            made[name] = Baseline(earlier_means(graph, edge_type, truth, train, test))
        return made


def told_by(graph: Graph, label: str) -> tuple[EdgeType, ...]:
    """Groups of the target whose heads tell the label."""
    groups = (r.edge_type for r in graph.schema.relations if r.rule == "group")
    return tuple(e for e in groups if e[0] != e[2] and label in graph.schema.node_type(e[0]).inputs)
