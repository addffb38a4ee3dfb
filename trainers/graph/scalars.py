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
