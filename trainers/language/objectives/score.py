"""Scoring: the task's loss on a head over the last hidden state of the prompt ("NetGPT", section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from netgpt.trainers.config import RateConfig, StageConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.objectives.base import NOTHING, Objective, judged_metrics
from netgpt.trainers.language.packing import PackedBatch
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.tasks.base import Task
from netgpt.trainers.tasks.baselines import Measures

if TYPE_CHECKING:
    from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
    from netgpt.trainers.language.samples import Samples
    from netgpt.trainers.language.text.prompt import PromptBuilder


class Score(Objective):
    scores_steps = True

    def __init__(self, model: PackedLM, task: Task, builder: PromptBuilder, config: StageConfig) -> None:
        super().__init__(model, task, builder, config)
        self.beta = config.beta if isinstance(config, RateConfig) else 1.0

    @property
    def scoring(self) -> NetGPT:
        """The model, which must be one with a head."""
        from netgpt.trainers.language.model.netgpt import NetGPT

        if not isinstance(self.model, NetGPT):
            raise TrainerError("objective: found score, expected answer for a model without graph and head")
        return self.model

    def responses(self, truth: float) -> Sequence[np.ndarray]:
        return [NOTHING]

    def forward(self, batch: PackedBatch, truth_n: Tensor) -> tuple[Tensor, Tensor]:
        scores_n = self.scoring.scores(batch)
        return self.task.loss(scores_n, truth_n, self.beta), scores_n.detach()

    def judge(self, samples: Samples, truth: np.ndarray, budget: int) -> Measures:
        from netgpt.trainers.language.scoring import score_samples

        return judged_metrics(self.task, score_samples(self.scoring, samples, budget), truth)

    def predict(
        self, samples: Samples, generated: Samples, budget: int, progress: OnProgress
    ) -> dict[str, np.ndarray]:
        from netgpt.trainers.language.scoring import score_samples

        return {"": score_samples(self.scoring, samples, budget, progress)}
