"""Numbers written freely: the language model's loss on the response, and what it writes, read strictly.

A response is the task's words and the number with its decimals ("MultiSmpLLM", section 3.3). Measured by
greedy generation; where a text states no number, or more than one, there is no prediction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from torch import Tensor

from netgpt.trainers.language.objectives.base import Objective, judged_metrics
from netgpt.trainers.language.packing import PackedBatch
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.tasks.baselines import Measures

if TYPE_CHECKING:
    from netgpt.trainers.language.samples import Samples


class Number(Objective):
    per: ClassVar[Literal["sample", "token"]] = "token"
    writes_numbers = True
    predicts: ClassVar[Mapping[str, str]] = {"_generated": "{stage}"}

    @classmethod
    def titles(cls, drawn: int) -> Mapping[str, str]:
        more = {"_drawn": f"{{stage}}, mean of {drawn} drawn"} if drawn else {}
        return {**cls.predicts, **more}

    def responses(self, truth: float) -> Sequence[np.ndarray]:
        return [self.builder.written(self.task.written(truth))]

    def forward(self, batch: PackedBatch, truth_n: Tensor) -> tuple[Tensor, Tensor]:
        return -self.model.response_log_probs(batch)[0].sum(), truth_n[:0]

    def judge(self, samples: Samples, truth: np.ndarray, budget: int) -> Measures:
        """Where nothing is stated the mean of the labels stands in, so that an epoch is chosen among all."""
        from netgpt.trainers.language.generation import written_numbers

        scores = written_numbers(self.model, self.task, samples, budget)
        parsed = ~np.isnan(scores)
        filled = np.where(parsed, scores, truth.mean() if len(truth) else 0.0)
        return {**judged_metrics(self.task, filled, truth), "val_parsed": float(parsed.mean())}

    def predict(
        self, samples: Samples, generated: Samples, budget: int, progress: OnProgress
    ) -> dict[str, np.ndarray]:
        from netgpt.trainers.language.generation import mean_numbers, written_numbers
        from netgpt.trainers.language.nucleus import Nucleus

        made = {"_generated": written_numbers(self.model, self.task, generated, budget, progress)}
        if self.drawn.num:
            draws = Nucleus(self.drawn, generated.ids, self.builder.seed, self.drawn.num, key="drawn")
            made["_drawn"] = mean_numbers(self.model, self.task, generated, budget, draws, progress)
        return made
