"""Losses of pairs against the specification's test vector and float64 formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from netgpt.trainers.language.preference.losses import dpo, dpop, error_weights, idpop, pair_weights

BETA, LAM, ALPHA, DELTA = 0.1, 1.0, 1.0, 0.01
rewards = st.floats(-30, 30, allow_nan=False)


def t(value: float) -> torch.Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def test_the_test_vector() -> None:
    weights = error_weights(np.array([0.5, 1.5]), ALPHA, 5.0)
    np.testing.assert_allclose(weights, [9.04837, 7.40818], atol=5e-6)
    mu = LAM / (weights[0] - weights[1] + DELTA)
    assert mu == pytest.approx(0.605990, abs=1e-6)
    # Errors from 0 to 5 among all pairs: the first pair is the vector's
    both = pair_weights(np.array([0.5, 0.0]), np.array([1.5, 5.0]), lam=LAM, alpha=ALPHA, delta=DELTA)
    assert both[0] == pytest.approx(mu, abs=1e-12)
    rc, rr = t(-0.2), t(-0.5)
    assert dpo(rc, rr, BETA).item() == pytest.approx(0.678260, abs=1e-6)
    assert idpop(rc, rr, BETA, LAM).item() == pytest.approx(0.878260, abs=1e-6)
    loss = idpop(rc, rr, BETA, torch.tensor([mu]))
    assert loss.item() == pytest.approx(0.799458, abs=1e-6)
    assert dpop(rc, rr, BETA, 50.0).item() == pytest.approx(1.291419, abs=1e-6)
    loss.sum().backward()
    assert rc.grad is not None and rr.grad is not None
    assert rc.grad.item() == pytest.approx(-0.655240, abs=1e-6)
    assert rr.grad.item() == pytest.approx(0.0492501, abs=1e-7)


@given(rewards, rewards, st.floats(0.01, 2), st.floats(0, 60))
def test_losses_and_gradients_are_the_formulas(rc: float, rr: float, beta: float, weight: float) -> None:
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))

    def minus_log_sigma(x: float) -> float:
        return math.log1p(math.exp(-x)) if x >= 0 else -x + math.log1p(math.exp(x))

    lacks, d = max(0.0, -rc), rc - rr
    inside = beta * (d - weight * lacks)
    is_less = float(rc < 0)
    expected = {
        "dpo": (minus_log_sigma(beta * d), -beta * sigma(-beta * d), beta * sigma(-beta * d)),
        "idpop": (
            minus_log_sigma(beta * d) + weight * lacks,
            -beta * sigma(-beta * d) - weight * is_less,
            beta * sigma(-beta * d),
        ),
        "dpop": (
            minus_log_sigma(inside),
            -beta * (1 + weight * is_less) * sigma(-inside),
            beta * sigma(-inside),
        ),
    }
    for name, (value, of_c, of_r) in expected.items():
        c, r = t(rc), t(rr)
        made = {"dpo": dpo(c, r, beta), "idpop": idpop(c, r, beta, weight), "dpop": dpop(c, r, beta, weight)}
        made[name].sum().backward()
        assert made[name].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert c.grad is not None and c.grad.item() == pytest.approx(of_c, rel=1e-9, abs=1e-12)
        assert r.grad is not None and r.grad.item() == pytest.approx(of_r, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0, 400.0])
def test_the_first_step_is_ln_2_and_no_penalty_pulls(weight: float) -> None:
    for make in (
        lambda c, r: dpo(c, r, BETA),
        lambda c, r: idpop(c, r, BETA, weight),
        lambda c, r: dpop(c, r, BETA, weight),
    ):
        c, r = t(0.0), t(0.0)
        loss = make(c, r)
        assert loss.item() == pytest.approx(math.log(2), abs=1e-15)
        loss.sum().backward()
        assert c.grad is not None and r.grad is not None
        assert c.grad.item() == -BETA / 2 and r.grad.item() == BETA / 2


def test_near_ties_weigh_most_and_no_pair_more_than_the_most() -> None:
    chosen, rejected = np.array([0.1, 0.1, 0.1, 0.0]), np.array([0.1, 0.2, 3.0, 5.0])
    mu = pair_weights(chosen, rejected, lam=LAM, alpha=ALPHA, delta=DELTA)
    assert mu[0] == pytest.approx(LAM / DELTA) and (np.diff(mu) < 0).all()
    assert pair_weights(chosen, rejected, lam=0.0, alpha=ALPHA, delta=DELTA).tolist() == [0.0] * 4
    capped = pair_weights(chosen, rejected, lam=LAM, alpha=ALPHA, delta=DELTA, mu_max=2.0)
    assert capped.tolist() == np.minimum(mu, 2.0).tolist()


def test_what_has_no_weight_is_refused() -> None:
    one = np.array([1.0, 1.0])
    with pytest.raises(ValueError, match="one error for all answers"):
        pair_weights(one, one, lam=LAM, alpha=ALPHA, delta=DELTA)
    with pytest.raises(ValueError, match="one error for all answers"):
        pair_weights(one[:0], one[:0], lam=LAM, alpha=ALPHA, delta=DELTA)
    with pytest.raises(ValueError, match="larger error than the rejected"):
        pair_weights(np.array([2.0, 0.0]), np.array([1.0, 1.0]), lam=LAM, alpha=ALPHA, delta=DELTA)
