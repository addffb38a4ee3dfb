"""Answering: the language model's loss on the response alone ("NetGPT", section 4.2).

Measured by the likeliest choice, by the mean over choices, and by greedy generation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from netgpt.trainers.language.objectives.base import Objective, judged_metrics
from netgpt.trainers.language.packing import PackedBatch
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.tasks.baselines import Measures

if TYPE_CHECKING:
    from netgpt.trainers.language.samples import Samples


class Answer(Objective):
    per = "token"
    says_choices = True
    predicts: ClassVar[Mapping[str, str]] = {
        "": "{stage}, likeliest {noun}",
        "_mean": "{stage}, mean {noun}",
        "_generated": "{stage}, generated",
    }

    def responses(self, truth: float) -> Sequence[np.ndarray]:
        return [self.builder.response(self.task.choice_of(truth))]

    def forward(self, batch: PackedBatch, truth_n: Tensor) -> tuple[Tensor, Tensor]:
        return -self.model.response_log_probs(batch)[0].sum(), truth_n[:0]

    def judge(self, samples: Samples, truth: np.ndarray, budget: int) -> Measures:
        from netgpt.trainers.language.scoring import choice_log_probs, expected_value

        log_probs = choice_log_probs(self.model, samples, budget)
        choices = [self.task.choice_of(t) for t in truth.tolist()]
        of_truth = log_probs[np.arange(len(choices)), choices] if choices else np.empty(0)
        scores = log_probs if self.task.width > 1 else expected_value(log_probs, self.task.choice_values)
        return {**judged_metrics(self.task, scores, truth), "val_response_nll": float(-of_truth.mean())}

    def predict(
        self, samples: Samples, generated: Samples, budget: int, progress: OnProgress
    ) -> dict[str, np.ndarray]:
        from netgpt.trainers.language.generation import UNPARSED, generated_choices
        from netgpt.trainers.language.scoring import choice_log_probs, expected_value

        values = self.task.choice_values
        log_probs = choice_log_probs(self.model, samples, budget, progress)
        choices = generated_choices(self.model, self.task, generated, budget, progress)
        if self.task.width > 1:  # its scores are chances, as these are
            likeliest = {"": log_probs}
        else:
            likeliest = {"": values[log_probs.argmax(1)], "_mean": expected_value(log_probs, values)}
        return {**likeliest, "_generated": np.where(choices == UNPARSED, np.nan, values[choices])}
