"""Heads of graph models: from states to scores.

Legend: n nodes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BoundedHead(nn.Linear):
    """A linear map to one number, squeezed into (0, most): [n, D] → [n]."""

    def __init__(self, width: int, most: float) -> None:
        super().__init__(width, 1)
        self.most = most

    def forward(self, h_nD: Tensor) -> Tensor:
        return self.most * torch.sigmoid(super().forward(h_nD).squeeze(-1))


class ScaledHead(nn.Linear):
    """A linear map to one number on the scale of the labels that it was fitted to: [n, D] → [n]."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def fit(self, truth_n: Tensor) -> None:
        """Take mean and spread of the train examples' labels."""
        self.mean.copy_(truth_n.mean())
        self.std.copy_(truth_n.std().clamp_min(1e-6) if len(truth_n) > 1 else torch.ones(()))

    def forward(self, h_nD: Tensor) -> Tensor:
        return self.mean + self.std * super().forward(h_nD).squeeze(-1)


class VectorHead(nn.Linear):
    """A linear map to a number for each answer, whose softmax are their chances: [n, D] → [n, answers]."""


class PlainHead(nn.Linear):
    """A linear map to one number: [n, D] → [n]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, h_nD: Tensor) -> Tensor:
        return super().forward(h_nD).squeeze(-1)
