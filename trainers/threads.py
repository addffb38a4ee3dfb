"""How many threads the kernels of this process use."""

from __future__ import annotations

import numba
import torch


def set_threads(num: int) -> None:
    """Of torch's operations and of compiled kernels that run in parallel. Results depend on torch's alone."""
    torch.set_num_threads(num)
    most: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    numba.set_num_threads(max(1, min(num, most)))
