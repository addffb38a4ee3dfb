"""TMALL (Chen et al., ACM MM 2016) as MMRA's authors ran it: all modalities in one space, and a linear score.

The original's Laplacian term looks at test examples too, and in their script it holds inputs alone, so that
nothing is learnt from it: it is left out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import ModalBatch, ModalModel, Shape, token_mean

SPACE = 256


class Tmall(ModalModel):
    title = "TMALL"

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__(shape, config)
        self.space = nn.Linear(sum(shape.dims.values()), SPACE, bias=False)
        self.out = nn.Linear(SPACE, shape.outputs)

    @property
    def last(self) -> nn.Linear:
        return self.out

    def forward(self, batch: ModalBatch) -> Tensor:
        x = torch.cat([token_mean(batch.x[m]) for m in self.shape.modalities], -1)
        return self.scores(self.out(self.space(x)))
