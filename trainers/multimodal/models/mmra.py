"""MMRA as its paper states it (Zhong et al., SIGIR 2024, section 3; equations by number).

Of an example and, by a network of its own, of what was retrieved for it: each modality is read by the other
with positive attention, which prefers what is alike, and negative attention, which prefers what is not. What
both come to, the retrieved labels, and their inner products go through a head.

Shape suffixes: B examples, T tokens of one modality, K of the other, H hidden width.
"""

from __future__ import annotations

from itertools import product
from typing import ClassVar, cast

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


class Attention(nn.Module):
    """softmax over keys of c · QKᵀ / √H, times V."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale * width**-0.5
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))

    def forward(self, x_BTH: Tensor, other_BKH: Tensor, there_BK: Tensor) -> Tensor:
        scores_BTK = self.query(x_BTH) @ self.key(other_BKH).transpose(1, 2) * self.scale
        weights_BTK = masked_softmax(scores_BTK, there_BK[:, None], -1)
        return cast(Tensor, weights_BTK @ self.value(other_BKH))


class Pooling(nn.Module):
    """A weighted sum of tokens: softmax of (x · w + c) / λ (Sun and Lu, ACL 2020), λ the root of the
    width."""

    def __init__(self, width: int, temperature: float) -> None:
        super().__init__()
        self.weight, self.temperature = nn.Linear(width, 1), temperature

    def forward(self, x_BTH: Tensor, there_BT: Tensor) -> Tensor:
        weights_BT = masked_softmax(self.weight(x_BTH)[..., 0] / self.temperature, there_BT, -1)
        return (weights_BT[..., None] * x_BTH).sum(1)


class _Side(nn.Module):
    """One modality: read by the others with both kinds of attention, and pooled (eqs. 5 to 9)."""

    def __init__(self, config: MultimodalConfig, has_other: bool) -> None:
        super().__init__()
        width, without = config.width, config.without
        scales = {"Pos": config.alpha, "Neg": -(1 - config.alpha)}
        own = [scale for name, scale in scales.items() if has_other and name not in without]
        self.attention = nn.ModuleList(Attention(width, scale) for scale in own)
        self.joined = nn.Linear(len(own) * width, width, bias=False) if own else None
        self.out = nn.Linear(width, width, bias=False)
        self.pool = Pooling(width, width**0.5)

    def forward(self, own: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor] | None) -> Tensor:
        """Tokens and which there are, of this modality and of the other: → [B, H]."""
        x_BTH, there_BT = own
        if self.joined is not None:
            assert other is not None
            # The positive kind reads the other's tokens for each of this one's
            read = [attend(x_BTH, *other) for attend in self.attention]
            x_BTH = x_BTH + self.joined(torch.cat(read, -1))
        return cast(Tensor, self.pool(self.out(x_BTH.relu()), there_BT))


class Branch(nn.Module):
    """A vector of each modality: [B, H] each, in their order."""

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__()
        self.modalities = shape.modalities
        several = len(self.modalities) > 1
        self.inputs = nn.ModuleDict(
            {name: nn.Linear(dim, config.width, bias=False) for name, dim in shape.dims.items()}
        )
        self.sides = nn.ModuleDict({name: _Side(config, several) for name in self.modalities})

    def forward(self, x: dict[str, Tensor]) -> list[Tensor]:
        made = {m: (self.inputs[m](x[m]).relu(), is_token(x[m])) for m in self.modalities}
        others = dict(zip(self.modalities, reversed(self.modalities), strict=True))
        return [self.sides[m](made[m], made[others[m]] if others[m] != m else None) for m in self.modalities]


class Near(nn.Module):
    """What was retrieved, as vectors: of each modality, and of the label. Learnt ones where there is none."""

    def __init__(self, branch: nn.Module, num: int, width: int) -> None:
        super().__init__()
        self.branch, self.label = branch, nn.Linear(1, width)
        self.none = nn.Parameter(torch.zeros(num, width))
        self.no_label = nn.Parameter(torch.zeros(width))

    def forward(self, batch: ModalBatch) -> tuple[list[Tensor], Tensor]:
        near = batch.near
        assert near is not None
        made = self.branch(dict(near.x))
        has_B1, known_B1 = near.has[:, None], near.has_label[:, None]
        vectors = [torch.where(has_B1, one, none) for one, none in zip(made, self.none, strict=True)]
        return vectors, torch.where(known_B1, self.label(near.label[:, None]).relu(), self.no_label)


class Mmra(ModalModel):
    title = "MMRA"
    reads_neighbors = True
    parts = PARTS
    branch_type: ClassVar[type[nn.Module]] = Branch
    """Made of a shape and settings; a vector of each modality."""

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__(shape, config)
        num, width = len(shape.modalities), config.width
        self.branch = self.branch_type(shape, config)
        self.near: Near | None = None
        inputs = num * width
        if self.reads(config):
            branch = self.branch if config.share_branches else self.branch_type(shape, config)
            self.near = Near(branch, num, width)
            inputs += self.joined_width(num, width)
        self.head = head(inputs, config, shape.outputs)

    @property
    def last(self) -> nn.Linear:
        return cast(nn.Linear, self.head[-1])

    def forward(self, batch: ModalBatch) -> Tensor:
        own = self.branch(dict(batch.x))
        joined = list(own)
        if self.near is not None:
            joined += self.joined(own, *self.near(batch))
        return self.scores(self.head(torch.cat(joined, -1)))

    def joined_width(self, num: int, width: int) -> int:
        """Width of what `joined` gives, of so many modalities."""
        return (num + 1) * width + num * (num + 1)

    def joined(self, own: list[Tensor], near: list[Tensor], label: Tensor) -> list[Tensor]:
        """What goes through the head beside an example's own vectors: [B, …] each."""
        found = [*near, label]
        return [*found, *((a * b).sum(-1, keepdim=True) for a, b in product(own, found))]
