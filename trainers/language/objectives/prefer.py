"""Preferring: of two of the model's own answers the one that was nearer to the truth (DPO, DPOP, IDPOP).

A sample is a pair, and its label the pair's number. Both answers stay in one pack; the reference is the model
that training starts from, whose log-probabilities were computed before.

Shape suffix: P pairs of a pack.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from netgpt.trainers.config import StageConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.objectives.number import Number
from netgpt.trainers.language.packing import PackedBatch
from netgpt.trainers.language.preference import losses
from netgpt.trainers.language.preference.config import PreferConfig
from netgpt.trainers.tasks.base import Task

if TYPE_CHECKING:
    from netgpt.trainers.language.model.netgpt import PackedLM
    from netgpt.trainers.language.preference.pairs import Pairs
    from netgpt.trainers.language.text.prompt import PromptBuilder


class Prefer(Number):
    per: ClassVar[Literal["sample", "token"]] = "sample"
    predicts: ClassVar[Mapping[str, str]] = {"_generated": "{stage}"}
    of_pairs = True
    watches = ("chosen", "rejected", "right")
    """Means over a step's pairs: log π(c) − log π₀(c), the same of the rejected, and the share with a margin
    above 0."""

    def __init__(self, model: PackedLM, task: Task, builder: PromptBuilder, config: StageConfig) -> None:
        """TrainerError for settings of another stage."""
        super().__init__(model, task, builder, config)
        if not isinstance(config, PreferConfig):
            raise TrainerError("objective: found prefer, expected it in a stage of pairs, such as prefer")
        self.config, self.shares_prompt = config, config.share_prompt
        self.pairs: Pairs | None = None

    def use(self, pairs: Pairs) -> None:
        """The pairs that training learns from. TrainerError where all answers have one error."""
        self.pairs = pairs
        self.reference_P2 = torch.from_numpy(pairs.reference)
        self.mu_P = torch.from_numpy(pairs.weights(self.config)).float()

    def responses(self, truth: float) -> Sequence[np.ndarray]:
        """The chosen and the rejected answer of a pair, by its number."""
        assert self.pairs is not None
        return self.pairs.answers(int(truth))

    def forward(self, batch: PackedBatch, truth_n: Tensor) -> tuple[Tensor, Tensor]:
        log_probs_r, of_r = self.model.response_log_probs(batch)
        number_P = (truth_n if batch.forks is not None else truth_n[::2]).long().cpu()
        sums = torch.zeros(2 * len(number_P), device=log_probs_r.device).index_add(0, of_r, log_probs_r)
        reference_P2 = self.reference_P2[number_P].to(sums.device)
        # float64: the reference's sums are subtracted from numbers as large
        rc_P, rr_P = (sums.view(-1, 2).double() - reference_P2).unbind(1)
        config = self.config
        if config.loss == "dpo":
            loss_P = losses.dpo(rc_P, rr_P, config.beta)
        elif config.loss == "dpop":
            loss_P = losses.dpop(rc_P, rr_P, config.beta, config.lam)
        else:
            loss_P = losses.idpop(rc_P, rr_P, config.beta, self.mu_P[number_P].to(sums.device))
        seen = torch.stack([rc_P, rr_P, (rc_P > rr_P).double()], dim=1).detach()
        return loss_P.sum(), seen
