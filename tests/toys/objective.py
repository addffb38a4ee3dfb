"""A toy objective: the right answer is to be likelier than a wrong one, whatever else is said."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netgpt.trainers.language.objectives.answer import Answer
from netgpt.trainers.language.packing import PackedBatch


class Contrast(Answer):
    """−log σ(log p(right) − log p(wrong)): two sequences a sample, the wrong one the next choice's."""

    per = "sample"

    def responses(self, truth: float) -> Sequence[np.ndarray]:
        right = self.task.choice_of(truth)
        return [self.builder.response(c % self.builder.num_choices) for c in (right, right + 1)]

    def forward(self, batch: PackedBatch, truth_n: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, sequence = self.model.response_log_probs(batch)
        total = torch.zeros(len(batch.lengths), device=log_probs.device).index_add(0, sequence, log_probs)
        return -F.logsigmoid(total[0::2] - total[1::2]).sum(), truth_n[:0]
