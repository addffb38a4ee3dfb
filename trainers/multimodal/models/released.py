"""MMRA as its code was released, which is another model: the one whose figures outsiders have made again.

The softmax is over queries and not over keys, the negative attention is −α times the positive one (so that
without it the model can say the same), activations are tanh, interactions are products of numbers and the
label's own vector is left out of the head. A text of one token is looked at with weights of 1 by all frames.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, nn

from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import (
    Shape,
    is_token,
    masked_softmax,
)
from netgpt.trainers.multimodal.models.mmra import Mmra, Pooling


class _Branch(nn.Module):
    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__()
        self.modalities, self.width, self.alpha = shape.modalities, config.width, config.alpha
        self.kinds = [kind for kind in ("Pos", "Neg") if kind not in config.without]
        others = dict(zip(self.modalities, reversed(self.modalities), strict=True))
        self.others = {m: other for m, other in others.items() if m != other}
        self.compared = nn.ModuleDict(
            {m: nn.Linear(shape.dims[m], self.width) for m in self.modalities if self.others}
        )
        self.read = nn.ModuleDict(
            {
                m: nn.Linear(len(self.kinds) * shape.dims[other], self.width)
                for m, other in self.others.items()
            }
        )
        self.joined = nn.ModuleDict(
            {
                m: nn.Linear(shape.dims[m] + (self.width if self.others else 0), self.width)
                for m in self.modalities
            }
        )
        self.pool = nn.ModuleDict({m: Pooling(self.width, self.width) for m in self.modalities})

    def forward(self, x: dict[str, Tensor]) -> list[Tensor]:
        there = {m: is_token(x[m]) for m in self.modalities}
        alike = {m: torch.tanh(layer(x[m])) for m, layer in self.compared.items()}
        made = []
        for m in self.modalities:
            own = x[m]
            if m in self.others:
                other = self.others[m]
                scores_BTK = alike[m] @ alike[other].transpose(1, 2) / self.width
                # Over the tokens that look, as the code has it
                weights_BTK = masked_softmax(scores_BTK, there[m][:, :, None], 1)
                read_BTD = (weights_BTK * there[other][:, None]) @ x[other]
                kinds = {"Pos": read_BTD, "Neg": -self.alpha * read_BTD}
                looked = torch.tanh(self.read[m](torch.cat([kinds[kind] for kind in self.kinds], -1)))
                own = torch.cat([own, looked], -1)
            made.append(self.pool[m](torch.tanh(self.joined[m](own)), there[m]))
        return made


class MmraReleased(Mmra):
    title = "MMRA (released code)"
    branch_type = _Branch

    def joined_width(self, num: int, width: int) -> int:
        return (num + num * (num + 1)) * width

    def joined(self, own: list[Tensor], near: list[Tensor], label: Tensor) -> list[Tensor]:
        """The label is in the products alone."""
        return [*near, *(a * b for a, b in product(own, [*near, label]))]
