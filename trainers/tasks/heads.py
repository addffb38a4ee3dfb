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


class PlainHead(nn.Linear):
    """A linear map to one number: [n, D] → [n]."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, h_nD: Tensor) -> Tensor:
        return super().forward(h_nD).squeeze(-1)
