"""MMRA as its code was released, which is another model: the one whose figures outsiders have made again.

The softmax is over queries and not over keys, the negative attention is −α times the positive one (so that
without it the model can say the same), activations are tanh, interactions are products of numbers and the
label's own vector is left out of the head. A text of one token is looked at with weights of 1 by all frames.
"""

from __future__ import annotations

from itertools import product
from typing import cast

import torch
from torch import Tensor, nn

from netgpt.trainers.multimodal.config import PARTS, MultimodalConfig
from netgpt.trainers.multimodal.models.base import (
    ModalBatch,
    ModalModel,
    Shape,
    head,
    is_token,
    masked_softmax,
)
from netgpt.trainers.multimodal.models.mmra import Near, Pooling


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


class MmraReleased(ModalModel):
    title = "MMRA (released code)"
    reads_neighbors = True
    parts = PARTS

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__(shape, config)
        num, width = len(shape.modalities), config.width
        self.branch = _Branch(shape, config)
        self.near: Near | None = None
        vectors = num
        if "RE" not in config.without:
            branch = self.branch if config.share_branches else _Branch(shape, config)
            self.near = Near(branch, num, width)
            vectors += num + num * (num + 1)
        self.head = head(vectors * width, config, shape.outputs)

    @property
    def last(self) -> nn.Linear:
        return cast(nn.Linear, self.head[-1])

    def forward(self, batch: ModalBatch) -> Tensor:
        own = self.branch(dict(batch.x))
        joined = list(own)
        if self.near is not None:
            near, label = self.near(batch)
            joined += [*near, *(a * b for a, b in product(own, [*near, label]))]
        return self.scores(self.head(torch.cat(joined, -1)))
