"""Numbers as inputs of a network: centred and scaled, as places between quantiles, and as steps.

A linear map of log(1 + n) can say "more is better" but not "above 10,000", which is how levels are
defined. Piecewise linear encoding gives each stretch between two quantiles a place of its own
(Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", eq. 1).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ScalarEncoding(nn.Module):
    """[n, 1] → [n, 1 + bins + thresholds]: the number, centred and scaled, its share of every bin, and
    whether it is above each threshold."""

    mean: Tensor
    std: Tensor
    edges: Tensor
    steps: Tensor

    def __init__(self, bins: int, thresholds: Sequence[float] = ()) -> None:
        """thresholds: counts that a number log(1 + n) is told to be above, or not."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("std", torch.ones(1))
        self.register_buffer("edges", torch.zeros(bins + 1 if bins else 0))
        # Half a count above: counts are whole, so "above, not at" whichever way the logarithm was rounded
        self.register_buffer(
            "steps", torch.log1p(torch.tensor(thresholds, dtype=torch.float64) + 0.5).float()
        )

    @property
    def dim(self) -> int:
        return max(1, len(self.edges)) + len(self.steps)

    def fit(self, x: Tensor) -> None:
        """Take mean, spread and quantiles from [n, 1] numbers.

        Quantiles of the distinct numbers: half of a crawl may be zeros, and all edges would lie there.
        """
        self.mean.copy_(x.mean(0))
        self.std.copy_(x.std(0).clamp_min(1e-3) if len(x) > 1 else torch.ones(1))
        if len(self.edges):
            share = torch.linspace(0, 1, len(self.edges), dtype=torch.float64, device=x.device)
            self.edges.copy_(torch.quantile(torch.unique(x).double(), share))

    def forward(self, x: Tensor) -> Tensor:
        scaled: Tensor = (x - self.mean) / self.std
        parts = [scaled, (x > self.steps).to(x.dtype)]
        if len(self.edges):
            width = (self.edges[1:] - self.edges[:-1]).clamp_min(1e-3)
            parts.insert(1, ((x - self.edges[:-1]) / width).clamp(0, 1))
        return torch.cat(parts, dim=1)


class NumberEncoding(nn.Module):
    """[n, 3k] → [n, 3k]: of k numbers the value and its logarithm, centred and scaled, and whether it is
    known; where it is not, zeros, which are the mean."""

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim // 3, 2))
        self.register_buffer("std", torch.ones(dim // 3, 2))

    def fit(self, x: Tensor) -> None:
        """Take mean and spread of the known ones, in float64."""
        x = x.double().view(len(x), -1, 3)
        known = x[:, :, 2:]
        num = known.sum(0).clamp_min(1)
        mean = (x[:, :, :2] * known).sum(0) / num
        std = (((x[:, :, :2] - mean) * known) ** 2).sum(0).div(num).sqrt()
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * mean.abs().clamp_min(1e-6), std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(len(x), -1, 3)
        known = x[:, :, 2:]
        scaled = (x[:, :, :2] - self.mean) / self.std * known
        return torch.cat([scaled, known], dim=2).flatten(1)
