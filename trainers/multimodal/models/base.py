"""What a model of modalities reads, and what all of them share.

Shape suffixes: B examples, T tokens (frames, words), D width of a modality, H hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from netgpt.trainers.multimodal.config import MultimodalConfig

VISUAL, TEXT = "visual", "text"
HEAD = (800, 200)
"""Hidden widths of the head, as MMRA's code has them."""


@dataclass(frozen=True)
class Retrieved:
    """What was retrieved for some examples, weighed by the softmax of the scores."""

    x: Mapping[str, Tensor]
    """By modality [B, T, D]: the weighted sum of the neighbours' features."""
    has: Tensor
    """[B] bool: whether there are neighbours."""
    label: Tensor
    """[B] float32: the weighted mean of the labels that are known; 0 where none is."""
    has_label: Tensor
    """[B] bool."""


@dataclass(frozen=True)
class ModalBatch:
    """Some examples."""

    x: Mapping[str, Tensor]
    """By modality [B, T, D] float32; tokens of zeros are none."""
    near: Retrieved | None
    """None for a model that reads no neighbours."""

    def __len__(self) -> int:
        return len(next(iter(self.x.values())))


@dataclass(frozen=True)
class Shape:
    """What a model is made for."""

    dims: Mapping[str, int]
    """Width of a token by modality, of those that there are: visual before text."""
    outputs: int = 1
    """Numbers in a score."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.dims)


class ModalModel(nn.Module):
    """A model: `forward` gives scores [B], or [B, outputs]."""

    title: ClassVar[str] = ""
    reads_neighbors: ClassVar[bool] = False
    parts: ClassVar[tuple[str, ...]] = ("V", "T")
    """What it can do without, of `PARTS`."""
    mse_share: ClassVar[float] = 1.0
    """Of the loss; the rest is `extra`'s."""

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__()
        self.shape, self.config = shape, config

    @classmethod
    def reads(cls, config: MultimodalConfig) -> bool:
        """Whether with these settings it reads neighbours."""
        return cls.reads_neighbors and "RE" not in config.without

    @property
    def last(self) -> nn.Linear:
        """The layer whose bias a fresh model starts at."""
        raise NotImplementedError

    def start(self, score: float | Tensor) -> None:
        """Let the fresh model say a constant, such as the mean of the train labels, before it has learnt."""
        with torch.no_grad():
            self.last.bias.copy_(torch.as_tensor(score, dtype=torch.float32).expand_as(self.last.bias))

    def forward(self, batch: ModalBatch) -> Tensor:
        raise NotImplementedError

    def extra(self) -> Tensor | None:
        """A further term of the last forward's loss, summed over its examples."""
        return None

    def scores(self, values_BO: Tensor) -> Tensor:
        return values_BO[:, 0] if self.shape.outputs == 1 else values_BO


def head(inputs: int, config: MultimodalConfig, outputs: int) -> nn.Sequential:
    """Two hidden layers with ReLU."""
    first, second = HEAD
    layers = [nn.Linear(inputs, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU()]
    return nn.Sequential(nn.Dropout(config.dropout), *layers, nn.Linear(second, outputs))


def is_token(x_BTD: Tensor) -> Tensor:
    """Which tokens there are, [B, T] bool: those that are not zero; of an example without any the first."""
    there = x_BTD.ne(0).any(-1)
    first = torch.zeros_like(there)
    first[:, 0] = True
    return there | (first & ~there.any(1, keepdim=True))


def masked_softmax(scores: Tensor, there: Tensor, dim: int) -> Tensor:
    """A softmax over what is there; zeros elsewhere. there: of a shape that broadcasts."""
    return torch.where(there, scores, scores.new_tensor(-torch.inf)).softmax(dim).where(there, 0.0)


def token_mean(x_BTD: Tensor) -> Tensor:
    """The mean of the tokens that there are: [B, D]."""
    there_BT1 = is_token(x_BTD)[:, :, None].float()
    return (x_BTD * there_BT1).sum(1) / there_BT1.sum(1)
