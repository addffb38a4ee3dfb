"""The contract of a language objective. It knows no data set and no Ray.

Importing an objective's module must be cheap: tables and reports ask it for titles alone. What imports
transformers is imported where it runs.

Shape suffixes: n samples of a pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from netgpt.trainers.config import DrawnConfig, StageConfig
from netgpt.trainers.language.packing import PackedBatch
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.tasks.base import Task
from netgpt.trainers.tasks.baselines import Measures

if TYPE_CHECKING:
    from netgpt.trainers.language.model.netgpt import PackedLM
    from netgpt.trainers.language.samples import Samples
    from netgpt.trainers.language.text.prompt import PromptBuilder

NOTHING = np.empty(0, np.int64)
OF_JUDGED = ("_generated", "_drawn")
"""Suffixes of what is predicted of validation and test examples alone."""


class Objective(nn.Module):
    """What a stage learns of its samples. As a module it is what an engine wraps: a pack in, its loss out."""

    per: ClassVar[Literal["sample", "token"]] = "sample"
    """What a step's mean is over: samples, or the tokens of their responses."""
    says_choices: ClassVar[bool] = False
    """Whether responses are the task's choices: then it cannot learn tasks whose answers are no list."""
    writes_numbers: ClassVar[bool] = False
    """Whether responses are numbers of no list: then it cannot learn tasks that let none be written."""
    of_pairs: ClassVar[bool] = False
    """Whether a sample is a pair of answers."""
    watches: ClassVar[tuple[str, ...]] = ()
    """Names of what `forward` gives of each sample in place of scores [n, watched]: the training curve has
    the means."""
    shares_prompt: bool = False
    """Whether the two responses of a sample follow one prompt, which is then computed once."""
    scores_steps: ClassVar[bool] = False
    """Whether `forward` gives scores, so that a training curve can show errors by group."""
    predicts: ClassVar[Mapping[str, str]] = {"": "{stage}"}
    """Suffixes of what `predict` gives, the reported answer first, and their titles: {stage} is the stage's,
    {noun} what the task calls an answer."""

    def __init__(self, model: PackedLM, task: Task, builder: PromptBuilder, config: StageConfig) -> None:
        """config: the settings of the stage that it is the objective of."""
        super().__init__()
        self.model, self.task, self.builder = model, task, builder
        self.drawn = DrawnConfig()
        """What an evaluation draws beside greedy answers; the stage sets it."""

    @classmethod
    def titles(cls, drawn: int) -> Mapping[str, str]:
        """Of what it predicts, where so many answers are drawn."""
        return cls.predicts

    def responses(self, truth: float) -> Sequence[np.ndarray]:
        """Tokens that follow the prompt of a sample with this label in training: one sequence, or several,
        which stay in one pack."""
        raise NotImplementedError

    def forward(self, batch: PackedBatch, truth_n: Tensor) -> tuple[Tensor, Tensor]:
        """Summed loss of a pack, and its samples' scores [n], what is watched, or none of them [0]."""
        raise NotImplementedError

    def judge(self, samples: Samples, truth: np.ndarray, budget: int) -> Measures:
        """Metrics of the validation samples, by name; every rank calls this, and all get the same."""
        raise NotImplementedError

    def predict(
        self, samples: Samples, generated: Samples, budget: int, progress: OnProgress
    ) -> dict[str, np.ndarray]:
        """Scores by suffix: "" and others of all `samples` [n]; those of OF_JUDGED of those of
        `generated`, NaN where a text states none. Every rank calls this, and all get the same."""
        raise NotImplementedError


def judged_metrics(task: Task, scores: np.ndarray, truth: np.ndarray) -> Measures:
    """The task's metrics alone, named val_…"""
    measured = task.measure(scores, truth)
    return {f"val_{metric.name}": measured[metric.name] for metric in task.metrics}
