"""Products of float32 stay exact, whoever makes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from netgpt.trainers import processor
from netgpt.trainers.processor import is_exact, onednn_is_ahead, use_cores


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    threads, kind = torch.get_num_threads(), products.fp32_precision
    onednn_is_ahead.cache_clear()
    yield
    torch.set_num_threads(threads)
    products.fp32_precision = kind
    onednn_is_ahead.cache_clear()


def rounded(a: Tensor, b: Tensor) -> Tensor:
    return a.bfloat16().float() @ b.bfloat16().float()


def test_a_product_that_rounds_is_seen() -> None:
    assert is_exact(torch.matmul) and is_exact(lambda a, b: (a.double() @ b.double()).float())
    assert not is_exact(rounded)
    # Also where one shape alone is rounded
    assert not is_exact(lambda a, b: rounded(a, b) if a.dim() == 3 else a @ b)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("amd", [False, True])
def test_onednn_is_asked_where_it_is_ahead_and_exact(
    exact: bool, amd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_is_amd_avx512", lambda: amd)
    monkeypatch.setattr(processor, "is_exact", lambda multiply: exact)
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    use_cores(2)
    assert products.fp32_precision == ("bf16" if exact and amd else before)
    assert torch.get_num_threads() == 2


def test_what_this_machine_multiplies_with_is_exact() -> None:
    use_cores(2)
    assert is_exact(torch.matmul)
    x, weight = torch.randn(700, 333), torch.randn(90, 333)
    expected = x.double() @ weight.double().T
    error = (torch.nn.functional.linear(x, weight) - expected).abs().max() / expected.abs().max()
    assert float(error) < 1e-6


def test_a_fresh_process_has_the_threads_that_it_asked_for() -> None:
    code = "import torch; from netgpt.trainers.processor import use_cores; use_cores(1)"
    code += "; print(torch.get_num_threads())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
