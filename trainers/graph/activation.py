"""ReLU and dropout between layers in one pass each way; on CPUs compiled, with draws that are hashes.

torch draws dropout's masks one after the other on one core: at width 128 they cost more than a layer's
products.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numba import njit
from torch import Tensor

from netgpt.graphstore.mixing import GOLDEN
from netgpt.sampler.kernels.generator import mix
from netgpt.trainers.graph.bags import in_parts, is_compiled

_LOW, _S32 = np.uint64(0xFFFFFFFF), np.uint64(32)


@njit(cache=True, nogil=True)
def _relu_dropout(x, seed, share, first, last, out):  # type: ignore[no-untyped-def]
    """For the numbers [first, last): of two one has the low half of their hash, the other one the high."""
    hidden = np.uint64(share * 4294967296.0)
    scale = x.dtype.type(1.0 / (1.0 - share))
    zero = x.dtype.type(0)
    for pair in range(first // 2, (last + 1) // 2):
        bits = mix(seed + np.uint64(pair + 1) * GOLDEN)
        i = 2 * pair
        out[i] = x[i] * scale if x[i] > zero and (bits & _LOW) >= hidden else zero
        if i + 1 < last:
            out[i + 1] = x[i + 1] * scale if x[i + 1] > zero and (bits >> _S32) >= hidden else zero


@njit(cache=True, nogil=True)
def _back(g, out, share, first, last, grad):  # type: ignore[no-untyped-def]
    scale = g.dtype.type(1.0 / (1.0 - share))
    zero = g.dtype.type(0)
    for i in range(first, last):
        grad[i] = g[i] * scale if out[i] > zero else zero


class _ReluDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, share: float) -> Tensor:  # type: ignore[override]
        seed = np.uint64(int(torch.randint(1 << 62, ())))
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        flat, made = x.detach().contiguous().view(-1).numpy(), out.view(-1).numpy()
        in_parts(lambda a, b: _relu_dropout(flat, seed, share, a, b, made), flat.size, 4 * flat.size, 2)
        ctx.save_for_backward(out)
        ctx.share = share
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (out,) = ctx.saved_tensors
        g, kept = gradients[0].contiguous().view(-1).numpy(), out.view(-1).numpy()
        grad = torch.empty_like(out)
        made = grad.view(-1).numpy()
        in_parts(lambda a, b: _back(g, kept, ctx.share, a, b, made), g.size, g.size, 2)
        return grad, None


def relu_dropout(x: Tensor, share: float, training: bool) -> Tensor:
    """max(x, 0), and while training so large a share of it zero and the rest scaled up by 1 / (1 − share).

    What is zero is a function of the state of torch's generator.
    """
    if training and share > 0 and is_compiled(x):
        out: Tensor = _ReluDropout.apply(x, share)
        return out
    return F.dropout(F.relu(x), share, training)
