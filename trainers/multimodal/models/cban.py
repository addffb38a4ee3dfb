"""CBAN (Cheung and Lam, 2022) as MMRA's authors ran it: attention by sums between both modalities.

Its weights of tokens are a tanh and are not normalised. Their table of 4 rows for 10 frames is a row for each
token here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import ModalBatch, ModalModel, Shape, is_token


class Cban(ModalModel):
    title = "CBAN"

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__(shape, config)
        width = config.width
        self.others = dict(zip(shape.modalities, reversed(shape.modalities), strict=True))
        several = len(shape.modalities) > 1
        tokens = {"visual": config.visual_tokens, "text": config.text_tokens}
        dims = shape.dims
        self.compared = nn.ModuleDict({m: nn.Linear(dims[m], width) for m in dims if several})
        self.score = nn.Linear(width, 1) if several else None
        self.read = nn.ModuleDict({m: nn.Linear(2 * dims[self.others[m]], width) for m in dims if several})
        self.joined = nn.ModuleDict({m: nn.Linear(dims[m] + (width if several else 0), width) for m in dims})
        self.places = nn.ParameterDict({m: nn.Parameter(0.02 * torch.randn(tokens[m], width)) for m in dims})
        self.weight = nn.ModuleDict({m: nn.Linear(width, 1) for m in dims})
        self.out = nn.Linear(width * len(dims), shape.outputs)

    @property
    def last(self) -> nn.Linear:
        return self.out

    def forward(self, batch: ModalBatch) -> Tensor:
        x, there = batch.x, {m: is_token(batch.x[m]).float() for m in self.shape.modalities}
        alike = {m: torch.tanh(layer(x[m])) for m, layer in self.compared.items()}
        made = []
        for m in self.shape.modalities:
            own, other = x[m], self.others[m]
            if self.score is not None:
                sums = alike[m][:, :, None] + alike[other][:, None]
                scores_BTK = torch.tanh(self.score(sums)[..., 0]) * there[other][:, None]
                read_BTD = scores_BTK @ x[other]
                own = torch.cat([own, torch.tanh(self.read[m](torch.cat([read_BTD, -read_BTD], -1)))], -1)
            own = torch.tanh(self.joined[m](own))
            weights_BT1 = torch.tanh(self.weight[m](own + self.places[m])) * there[m][..., None]
            made.append((weights_BT1 * own).sum(1))
        return self.scores(cast(Tensor, self.out(torch.cat(made, -1))))
