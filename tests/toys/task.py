"""A toy task: whether a number column of a node is above a bound. A score is the chance that it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from netgpt.graphstore import Graph
from netgpt.trainers.errors import require
from netgpt.trainers.tasks.base import Metric, Task, TaskConfig
from netgpt.trainers.tasks.baselines import Baseline

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AboveConfig(TaskConfig):
    above: float = 4.0
    """A label above it is a yes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(math.isfinite(self.above), "task.above", self.above, "a finite number")


class Above(Task):
    Config: ClassVar[type[TaskConfig]] = AboveConfig
    noun = "answer"
    metrics = (
        Metric("brier", "Brier", "mean squared error of the chance"),
        Metric(
            "auc", "AUC", "chance that a yes is scored above a no; a half for ties", larger_is_better=True
        ),
    )
    chooses = "brier"

    def truth(self, graph: Graph) -> np.ndarray:
        values, config = super().truth(graph), self.config
        assert isinstance(config, AboveConfig)
        return np.where(np.isnan(values), np.nan, values > config.above)

    def head(self, width: int) -> nn.Module:
        from netgpt.trainers.tasks.heads import BoundedHead

        return BoundedHead(width, 1.0)

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        return ((scores_n - truth_n) ** 2).sum()

    @property
    def choices(self) -> tuple[str, ...]:
        return ("no", "yes")

    def choice_of(self, truth: float) -> int:
        return int(truth)

    @property
    def choice_values(self) -> np.ndarray:
        return np.array([0.0, 1.0])

    def parse(self, text: str) -> int | None:
        words = [word.strip(".,:") for word in text.lower().split()]
        found = {word for word in words if word in self.choices}
        return self.choices.index(found.pop()) if len(found) == 1 else None

    def reported(self, scores: np.ndarray) -> np.ndarray:
        return np.clip(scores.astype(np.float64), 0, 1)

    def answers(self, scores: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(scores), -1, self.reported(scores) > 0.5).astype(np.int64)

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
        known = ~np.isnan(scores)
        chance, label = self.reported(scores[known]), truth[known]
        yes, no = chance[label == 1], np.sort(chance[label == 0])
        below, upto = np.searchsorted(no, yes, "left"), np.searchsorted(no, yes, "right")
        return {
            "brier": float(np.mean((chance - label) ** 2)) if len(label) else None,
            "auc": float(np.mean((below + upto) / 2 / len(no))) if len(yes) and len(no) else None,
            "num": len(truth),
            **({} if known.all() else {"unparsed": int((~known).sum())}),
        }

    def answer(self, score: float) -> dict[str, Any]:
        chance = float(self.reported(np.array([score]))[0])
        return {"answer": self.choices[chance > 0.5], "chance": round(chance, 6)}

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        return {"share": Baseline(np.full(len(test), self.truth(graph)[train].mean()))}
