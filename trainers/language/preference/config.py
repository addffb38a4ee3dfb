"""Settings of preference training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from netgpt.trainers.config import DrawConfig, StageConfig
from netgpt.trainers.errors import require

LOSSES = ("idpop", "constant", "dpop", "dpo")


@dataclass(frozen=True, kw_only=True)
class PairsConfig(DrawConfig):
    """Pairs of answers that the tuned model draws, the nearer to the truth the chosen one."""

    section: ClassVar[str] = "pairs"

    column: str = ""
    """A category of the target that says whose answers are drawn; empty: those of the train examples."""
    value: str = ""
    """Its value. Labels of these examples say which answer is better, so that none may be a test example;
    those of validation are left out."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.column) == bool(self.value), "pairs.value", self.value, "one with pairs.column")


@dataclass(frozen=True, kw_only=True)
class PreferConfig(StageConfig):
    """Alignment on the pairs, from the tuned weights."""

    section: ClassVar[str] = "prefer"

    objective: str = "prefer"
    """What is learnt: prefer, or package.module:Name."""
    loss: str = "idpop"
    """idpop: the margin, and a penalty for a chosen answer that is less likely than at the start, by how near
    the answers' errors are; constant: with one weight for all; dpop: the penalty within the margin; dpo:
    without."""
    beta: float = 0.1
    """How strongly the margin is tied to the start."""
    lam: float = 1.0
    """Weight of the penalty."""
    alpha: float = 1.0
    """Of idpop: how fast an answer's weight falls with its error."""
    delta: float = 0.01
    """Of idpop: added to the difference of weights, which may be 0."""
    mu_max: float = 0.0
    """Of idpop: a pair's weight at most; 0: as the paper has it, none."""
    share_prompt: bool = True
    """A pair's prompt is computed once, for both answers: the same numbers but for rounding."""
    lr: float = 5e-6
    """Peak learning rate; warm-up over the first 5% of steps, then cosine to zero."""
    epochs: int = 3
    """Passes over the pairs; 0 skips training and keeps the weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        why = "0: the reference has seen whole prompts"
        self.require(self.text_dropout == 0, "text_dropout", why)
        self.require(self.loss in LOSSES, "loss", f"one of {', '.join(LOSSES)}")
        self.require(0 < self.beta < math.inf, "beta", "above 0")
        for name in ("lam", "alpha", "mu_max"):
            self.require(0 <= getattr(self, name) < math.inf, name, "at least 0")
        self.require(0 < self.delta < math.inf, "delta", "above 0")
