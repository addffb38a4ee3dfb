"""Rating: a level from 0 up to a largest one, predicted as a score that may lie between levels.

ACC is of the rounded score, MSE and MAE of the clipped, unrounded one ("Short-video Propagation Influence
Rating", section 5). The graph model's head is largest · sigmoid; the loss is Smooth L1.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.graphstore import Graph
from netgpt.graphstore.files import Json
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.tasks.base import Metric, Task, TaskConfig
from netgpt.trainers.tasks.baselines import Baseline, Measures, constants, lookup, trees

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


@dataclass(frozen=True, kw_only=True)
class RatingConfig(TaskConfig):
    levels: int = 10
    """Levels 0 to levels − 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.levels >= 2, "task.levels", self.levels, "at least 2")


class Rating(Task):
    Config: ClassVar[type[TaskConfig]] = RatingConfig
    noun = "level"
    metrics = (
        Metric("acc", "ACC", "examples whose rounded score is their level", larger_is_better=True),
        Metric("mse", "MSE", "mean squared error of the score, in levels squared"),
        Metric("mae", "MAE", "mean absolute error of the score, in levels"),
    )
    chooses = "mae"

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        assert isinstance(config, RatingConfig)
        self.most = config.levels - 1

    def truth(self, graph: Graph) -> np.ndarray:
        truth = super().truth(graph)
        known = truth[~np.isnan(truth)]
        wrong = known[(known < 0) | (known > self.most) | (known != np.floor(known))]
        if len(wrong):
            raise TrainerError(
                f"task.label: column {self.config.label!r}: found {wrong[0]:g}, expected levels 0 to "
                f"{self.most} (task.levels={self.most + 1})"
            )
        return truth

    def head(self, width: int) -> nn.Module:
        from netgpt.trainers.tasks.heads import BoundedHead

        return BoundedHead(width, float(self.most))

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        from torch.nn.functional import smooth_l1_loss

        return smooth_l1_loss(scores_n, truth_n, reduction="sum", beta=beta)

    @property
    def choices(self) -> tuple[str, ...]:
        return tuple(str(level) for level in range(self.most + 1))

    def choice_of(self, truth: float) -> int:
        return int(truth)

    @property
    def choice_values(self) -> np.ndarray:
        return np.arange(self.most + 1, dtype=np.float64)

    def parse(self, text: str) -> int | None:
        """The one number of a text, if it is a level."""
        numbers = _NUMBER.findall(text)
        return self.choices.index(numbers[0]) if len(numbers) == 1 and numbers[0] in self.choices else None

    def reported(self, scores: np.ndarray) -> np.ndarray:
        """Clipped to the levels there are: [n] float64."""
        return np.clip(scores.astype(np.float64), 0, self.most)

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """The level of a score: clipped, halves rounded up; −1 for NaN. [n] → [n] int64."""
        known = ~np.isnan(scores)
        clipped = self.reported(np.where(known, scores, 0))
        return np.where(known, np.floor(clipped + 0.5), -1).astype(np.int64)

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> Measures:
        """acc of the rounded score; mse and mae of the clipped, unrounded score.

        An example whose score is NaN counts as wrong in acc and not in mse and mae, and their number is
        `unparsed`, which is there only where it is not zero. None where there are no examples.
        """
        known = ~np.isnan(scores)
        unparsed = {"unparsed": int((~known).sum())} if not known.all() else {}
        if len(truth) == 0:
            return {"acc": None, "mse": None, "mae": None, "num": 0}
        error = self.reported(scores[known]) - truth[known]
        return {
            "acc": float(np.mean(self.answers(scores) == truth)),
            "mse": float(np.mean(error**2)) if known.any() else None,
            "mae": float(np.mean(np.abs(error))) if known.any() else None,
            "num": len(truth),
            **unparsed,
        }

    def columns(self, name: str, scores: np.ndarray) -> dict[str, np.ndarray]:
        return {
            f"{name}_score": self.reported(scores),
            f"{name}_level": self.answers(scores).astype(np.int8),
        }

    def truth_column(self, truth: np.ndarray) -> tuple[str, np.ndarray]:
        return "level", truth.astype(np.int8)

    def answer(self, score: float) -> Json:
        one = np.array([score])
        return {"level": int(self.answers(one)[0]), "score": round(float(self.reported(one)[0]), 6)}

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        truth = self.truth(graph)
        made = constants(self, truth[train], truth[test])
        made["trees (squared loss)"] = Baseline(trees(graph, truth, train, test, loss="squared_error"))
        made["trees (absolute loss)"] = Baseline(trees(graph, truth, train, test, loss="absolute_error"))
        scores = lookup(graph, truth, train, test)
        if scores is not None:
            made["lookup"] = Baseline(scores)
        return made
