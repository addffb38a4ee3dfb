"""CLSTM (Ghosh et al., 2016) as MMRA's authors ran it: an LSTM of 50 over the tokens of each modality."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import ModalBatch, ModalModel, Shape, is_token

STATES, JOINED = 50, 200


class Clstm(ModalModel):
    title = "CLSTM"

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__(shape, config)
        self.read = nn.ModuleDict(
            {m: nn.LSTM(dim, STATES, batch_first=True) for m, dim in shape.dims.items()}
        )
        # Nothing between the two is bent, as they have it
        self.joined = nn.Linear(STATES * len(shape.dims), JOINED)
        self.out = nn.Linear(JOINED, shape.outputs)

    @property
    def last(self) -> nn.Linear:
        return self.out

    def forward(self, batch: ModalBatch) -> Tensor:
        states = [self._state(m, batch.x[m]) for m in self.shape.modalities]
        return self.scores(self.out(self.joined(torch.cat(states, -1))))

    def _state(self, modality: str, x_BTD: Tensor) -> Tensor:
        """The state after the last token that there is: [B, 50]."""
        there = is_token(x_BTD)
        # Tokens of zeros may lie between others: those that there are go first, in their order
        order = (~there).int().argsort(dim=1, stable=True)
        x_BTD = x_BTD.gather(1, order[..., None].expand_as(x_BTD))
        packed = pack_padded_sequence(x_BTD, there.sum(1).cpu(), batch_first=True, enforce_sorted=False)
        return cast(Tensor, self.read[modality](packed)[1][0][0])
