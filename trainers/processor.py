"""How this process uses its CPU: with how many threads, and whose float32 products."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from functools import cache

import numba
import torch
from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
LARGEST_KEPT = 1 << 25
"""Bytes of a block that is kept at most: glibc's own limit."""
MOST_KEPT = 1 << 29
"""Free bytes at the heap's end that are kept at most."""
KEPT_SIZES = 128
"""Sizes of products whose compiled code oneDNN keeps."""
EXACT = 1e-5
"""Relative error of a float32 product of a few hundred terms at most; rounded to bfloat16 it is near 1e-3."""


def use_cores(num: int) -> None:
    """Threads of torch's operations and of compiled kernels that run in parallel, and the library that
    multiplies. Results depend on torch's threads and the CPU's kind alone."""
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, min(num, most)))
    torch.set_num_threads(num)  # behind it: the start of numba's threads sets those of OpenMP to all cores
    # Batches differ in size, and oneDNN would keep code and memory for a thousand sizes: over a gigabyte
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, str(KEPT_SIZES))
    if onednn_is_ahead():
        # Allowed to round to bfloat16, torch asks oneDNN, which on these CPUs rounds nothing
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"  # type: ignore[attr-defined]
    keep_freed_memory()


@cache
def keep_freed_memory() -> None:
    """Let glibc keep some of what is freed: fresh pages cost more than what is computed in them. Other C
    libraries do as they do."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


@cache
def onednn_is_ahead() -> bool:
    """Whether oneDNN multiplies float32 faster than MKL here, and without rounding: on AMD's CPUs with
    AVX-512, on which MKL uses half of their width (415 and 215 GFLOP/s on two cores of Zen 5)."""
    if not torch.backends.mkldnn.is_available() or not _is_amd_avx512():  # type: ignore[no-untyped-call]
        return False
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        return is_exact(torch.matmul)
    finally:
        products.fp32_precision = before


def is_exact(multiply: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether products of several shapes are those of float32."""
    generator = torch.Generator().manual_seed(0)
    for a_shape, b_shape in (((1, 300), (300, 70)), ((500, 129), (129, 128)), ((3, 90, 64), (3, 64, 200))):
        a, b = (1 + torch.rand(shape, generator=generator) / 64 for shape in (a_shape, b_shape))
        expected = a.double() @ b.double()
        for found in (multiply(a, b), multiply(b.mT, a.mT).mT):
            if float(((found - expected) / expected).abs().max()) > EXACT:
                return False
    return True


def _is_amd_avx512() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return False
    said: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        said.setdefault(name.strip(), value.strip())
    return said.get("vendor_id") == "AuthenticAMD" and "avx512f" in said.get("flags", "").split()
