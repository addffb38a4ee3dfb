"""Losses of pairs of answers to one prompt, from their log-probabilities.

With c the chosen and r the rejected answer, π the policy and π₀ the frozen model that it starts from, a log-
probability being the sum over an answer's tokens, its end among them:

    rc = log π(c) − log π₀(c),  rr = log π(r) − log π₀(r),  D = rc − rr
    dpo        −log σ(β D)                               Rafailov et al. 2023, equation 7
    dpop       −log σ(β (D − λ max(0, −rc)))             Pal et al. 2024 (Smaug), equation 3
    constant   −log σ(β D) + λ max(0, −rc)               Wang et al. 2024 (MultiSmpLLM), equation 12
    idpop      −log σ(β D) + μ max(0, −rc)               the same, with equation 14 in it

where μ = λ / (W(M_c) − W(M_r) + δ) and W(M) = 10 exp(−α M / (M_max − M_min)) of the answers' errors M
(equations 13 and 14): near ties weigh most. max(0, ·) is relu, whose slope at 0 is 0: at the first step rc is
exactly 0, and another choice would make that a step towards the chosen answer.

Shape suffix: P pairs.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import Tensor


def dpo(rc_P: Tensor, rr_P: Tensor, beta: float) -> Tensor:
    """[P] losses."""
    return -F.logsigmoid(beta * (rc_P - rr_P))


def dpop(rc_P: Tensor, rr_P: Tensor, beta: float, lam: float) -> Tensor:
    """[P] losses, with the penalty within the margin."""
    return -F.logsigmoid(beta * (rc_P - rr_P - lam * F.relu(-rc_P)))


def idpop(rc_P: Tensor, rr_P: Tensor, beta: float, mu_P: Tensor | float) -> Tensor:
    """[P] losses, with the penalty beside the margin. mu: of each pair, or one number of all."""
    return dpo(rc_P, rr_P, beta) + mu_P * F.relu(-rc_P)


def error_weights(errors: np.ndarray, alpha: float, spread: float) -> np.ndarray:
    """W(M) of errors, of any shape. spread: M_max − M_min, above 0."""
    return np.asarray(10.0 * np.exp(-alpha * errors / spread))


def pair_weights(
    chosen: np.ndarray, rejected: np.ndarray, *, lam: float, alpha: float, delta: float, mu_max: float = 0.0
) -> np.ndarray:
    """μ of each pair by its answers' errors [P], [P]: [P] float64, at most `mu_max` where that is above 0.

    M_max and M_min are of all errors, chosen and rejected. ValueError where they are one, or where a chosen
    answer has the larger error.
    """
    of_all = np.concatenate([chosen, rejected])
    spread = float(of_all.max() - of_all.min()) if len(of_all) else 0.0
    if not spread > 0:
        raise ValueError("found one error for all answers, expected some that are better")
    if (chosen > rejected).any():
        raise ValueError("found a chosen answer with a larger error than the rejected one's")
    better = error_weights(chosen, alpha, spread) - error_weights(rejected, alpha, spread)
    mu = lam / (better + delta)
    return np.minimum(mu, mu_max) if mu_max > 0 else np.asarray(mu)
