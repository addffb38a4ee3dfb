"""What a process multiplies matrices with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

PRECISIONS = ("auto", "bfloat16")


@contextmanager
def cpu_products(precision: str) -> Iterator[None]:
    """With bfloat16 oneDNN multiplies the CPU's float32 matrices, and may round both to bfloat16 where the
    CPU multiplies those faster (AMX); sums are float32.

    Weights, what is between products, attention and sums of gradients stay float32. Backward too, where it
    runs within. On a CPU that it rounds nothing on it may still be ahead of torch's own kernel: 1.6 times
    on AMD's Zen 5.
    """
    import torch  # not above: settings name precisions before anything is computed

    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "bf16" if precision == "bfloat16" else before
    try:
        yield
    finally:
        products.fp32_precision = before
