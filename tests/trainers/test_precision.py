"""Products of matrices on the CPU in bfloat16: within what that rounds, and no others."""

from __future__ import annotations

import pytest
import torch

from netgpt.trainers.precision import cpu_products

HALF_STEP = 2.0**-9
"""Largest relative error of a number that is rounded to bfloat16."""


def operands() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(256, 300, requires_grad=True), torch.randn(512, 300)


def test_a_product_is_off_by_what_rounding_both_sides_makes_at_most() -> None:
    x, weight = operands()
    with cpu_products("bfloat16"):
        y = torch.nn.functional.linear(x, weight)
        y.backward(torch.ones_like(y))
    assert y.dtype == torch.float32 and x.grad is not None
    x64, w64 = x.detach().double(), weight.double()
    most = (2 * HALF_STEP + HALF_STEP**2) * (x64.abs() @ w64.abs().T) + 1e-4
    assert ((y.double() - x64 @ w64.T).abs() <= most).all()
    most = HALF_STEP * w64.abs().sum(0) + 1e-4
    assert ((x.grad.double() - w64.sum(0)).abs() <= most).all()


@pytest.mark.parametrize("precision", ["auto", "bfloat16"])
def test_what_comes_behind_is_as_before(precision: str) -> None:
    x, weight = operands()
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    expected, before = torch.nn.functional.linear(x, weight), products.fp32_precision
    with pytest.raises(KeyError), cpu_products(precision):
        assert products.fp32_precision == ("bf16" if precision == "bfloat16" else before)
        raise KeyError
    assert products.fp32_precision == before
    assert torch.equal(torch.nn.functional.linear(x, weight), expected)
