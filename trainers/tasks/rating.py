"""Rating: a level from 0 up to a largest one, predicted as a score that may lie between levels.

ACC is of the rounded score, MSE and MAE of the clipped, unrounded one ("Short-video Propagation Influence
Rating", section 5). The graph model's head is largest · sigmoid; the loss is Smooth L1. Of the head
`ordinal`, chances of levels, it is two proper scores.
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
from netgpt.trainers.tasks.base import TINY, Metric, Task, TaskConfig, log_chances
from netgpt.trainers.tasks.baselines import Baseline, Measures, constants, lookup, trees

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

LOG_SHARE = 0.1
"""Weight of the logarithmic score beside the ranked probability score in the loss of `ordinal`."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


@dataclass(frozen=True, kw_only=True)
class RatingConfig(TaskConfig):
    levels: int = 10
    """Levels 0 to levels − 1."""
    head: str = "score"
    """score: a model gives one number; ordinal: the chance of each level, of which ACC takes the likeliest
    level, MAE the median and MSE the mean."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.levels >= 2, "task.levels", self.levels, "at least 2")
        require(self.head in ("score", "ordinal"), "task.head", self.head, "score or ordinal")


class Rating(Task):
    Config: ClassVar[type[TaskConfig]] = RatingConfig
    noun = "level"
    metrics = (
        Metric("acc", "ACC", "examples whose rounded score is their level", larger_is_better=True),
        Metric("mse", "MSE", "mean squared error of the score, in levels squared"),
        Metric("mae", "MAE", "mean absolute error of the score, in levels"),
    )
    chooses = "mae"
    has_means = True

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        assert isinstance(config, RatingConfig)
        self.most = config.levels - 1
        self.is_ordinal = config.head == "ordinal"

    @property
    def width(self) -> int:
        return self.most + 1 if self.is_ordinal else 1

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
        from netgpt.trainers.tasks.heads import BoundedHead, VectorHead

        return VectorHead(width, self.width) if self.is_ordinal else BoundedHead(width, float(self.most))

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        from torch.nn.functional import smooth_l1_loss

        if scores_n.ndim == 2:
            return _ordinal_loss(scores_n, truth_n)
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
        """Clipped to the levels there are: [n] float64; of chances their mean."""
        if scores.ndim == 2:
            return np.exp(log_chances(scores)) @ self.choice_values
        return np.clip(scores.astype(np.float64), 0, self.most)

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """The level of a score: clipped, halves rounded up; of chances the likeliest; −1 for NaN: [n] int."""
        known = self.known(scores)
        if scores.ndim == 2:
            return np.where(known, np.where(known[:, None], scores, 0).argmax(1), -1)
        clipped = self.reported(np.where(known, scores, 0))
        return np.where(known, np.floor(clipped + 0.5), -1).astype(np.int64)

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> Measures:
        """acc of the rounded score; mse and mae of the clipped, unrounded score. Of chances acc is of the
        likeliest level, mse of the mean, and mae of the median.

        An example whose score is NaN counts as wrong in acc and not in mse and mae, and their number is
        `unparsed`, which is there only where it is not zero. None where there are no examples.
        """
        known = self.known(scores)
        unparsed = {"unparsed": int((~known).sum())} if not known.all() else {}
        if len(truth) == 0:
            return {"acc": None, "mse": None, "mae": None, "num": 0}
        error = self.reported(scores[known]) - truth[known]
        absolute = np.abs(error if scores.ndim == 1 else self.medians(scores[known]) - truth[known])
        return {
            "acc": float(np.mean(self.answers(scores) == truth)),
            "mse": float(np.mean(error**2)) if known.any() else None,
            "mae": float(np.mean(absolute)) if known.any() else None,
            "num": len(truth),
            **unparsed,
        }

    def medians(self, scores: np.ndarray) -> np.ndarray:
        """The least level up to which the chances make a half: [n, levels] → [n] float64."""
        below = np.cumsum(np.exp(log_chances(scores)), axis=1)
        return np.minimum((below < 0.5).sum(1), self.most).astype(np.float64)

    def columns(self, name: str, scores: np.ndarray) -> dict[str, np.ndarray]:
        made = {
            f"{name}_score": self.reported(scores),
            f"{name}_level": self.answers(scores).astype(np.int8),
        }
        if scores.ndim == 2:
            chances = np.exp(log_chances(scores))
            made |= {f"{name}_median": self.medians(scores)}
            made |= {f"{name}_chance_{level}": chances[:, level] for level in range(self.most + 1)}
        return made

    def scores_from(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        chances = [columns[key] for one in self.choices if (key := f"{name}_chance_{one}") in columns]
        if not chances and f"{name}_median" in columns:
            raise KeyError(f"{name}_chance_0")  # of a version that kept no chances
        if not chances:
            return super().scores_from(name, columns)
        return np.log(np.maximum(np.stack(chances, axis=1).astype(np.float64), TINY))

    def truth_column(self, truth: np.ndarray) -> tuple[str, np.ndarray]:
        return "level", truth.astype(np.int8)

    def answer(self, score: float | np.ndarray) -> Json:
        one = np.asarray(score)[None]
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


def _ordinal_loss(scores_nK: Tensor, truth_n: Tensor) -> Tensor:
    """The ranked probability score (Epstein, J. Appl. Meteorol. 8, 1969), and `LOG_SHARE` of the logarithmic
    one, of "the level is at most k" for every k but the last: a chance that lies far from the label costs
    more than one that lies near. Proper, as each of its parts is. The first is bounded, so that examples of
    mere chance do not rule a small training set; the second still pulls where a model is sure and wrong."""
    import torch

    scores_nK = scores_nK.float()
    num = scores_nK.shape[1]
    levels_K = torch.arange(num, device=scores_nK.device)
    is_above_kK = levels_K > levels_K[:-1, None]
    parts_nkK = scores_nK[:, None, :].expand(-1, num - 1, -1)
    all_n1 = scores_nK.logsumexp(1, keepdim=True)
    below_nk = parts_nkK.masked_fill(is_above_kK, -torch.inf).logsumexp(2) - all_n1
    above_nk = parts_nkK.masked_fill(~is_above_kK, -torch.inf).logsumexp(2) - all_n1
    is_below_nk = truth_n[:, None] <= levels_K[:-1]
    right_nk = torch.where(is_below_nk, below_nk, above_nk)
    wrong_nk = torch.where(is_below_nk, above_nk, below_nk)
    return (2 * wrong_nk).exp().sum() - LOG_SHARE * right_nk.sum()
