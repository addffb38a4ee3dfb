"""Variational models of several modalities, as MMRA's authors ran them: HMMVED (Xie et al., 2023) and MASSL.

Each modality says a normal distribution, their product (a product of experts) is the example's, a draw of it
is what the score is of: in training; measured are the scores of its mean. The loss is 0.95 of the squared
error and 0.05 of the Kullback-Leibler divergence from the standard normal distribution.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import VISUAL, ModalBatch, ModalModel, Shape, is_token, token_mean


class Hmmved(ModalModel):
    title = "HMMVED"
    mse_share = 0.95
    latent = 50

    def __init__(self, shape: Shape, config: MultimodalConfig) -> None:
        super().__init__(shape, config)
        self.experts = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(dim, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
                for m, dim in shape.dims.items()
            }
        )
        self.says = nn.ModuleDict({m: nn.Linear(256, 2 * self.latent) for m in shape.dims})
        frames = next((dim for m, dim in shape.dims.items() if m == VISUAL), 0)
        self.frames = _Frames(frames) if frames else None
        self._divergence: Tensor | None = None
        self._decoder()

    def _decoder(self) -> None:
        self.decode = nn.Sequential(nn.Linear(self.latent, 20), nn.ReLU())
        self.out = nn.Linear(20, self.shape.outputs)

    @property
    def last(self) -> nn.Linear:
        return self.out

    def forward(self, batch: ModalBatch) -> Tensor:
        precision, weighed = [], []
        for m in self.shape.modalities:
            x = self.frames(batch.x[m]) if m == VISUAL and self.frames else token_mean(batch.x[m])
            mean, log_variance = self.says[m](self.experts[m](x)).chunk(2, -1)
            precision.append(torch.exp(-log_variance.clamp(-10, 10)))
            weighed.append(mean * precision[-1])
        total = torch.stack(precision).sum(0)
        mean, variance = torch.stack(weighed).sum(0) / total, 1 / total
        self._divergence = 0.5 * (mean**2 + variance - variance.log() - 1).sum()
        z = mean + variance.sqrt() * torch.randn_like(mean) if self.training else mean
        return self.scores(self.out(self.decode(z)))

    def extra(self) -> Tensor | None:
        assert self._divergence is not None
        return (1 - self.mse_share) * self._divergence


class _Frames(nn.Module):
    """One transformer layer over an example's own frames; the state of the last: [B, D]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = next(h for h in (8, 4, 2, 1) if width % h == 0)
        self.layer = nn.TransformerEncoderLayer(width, heads, width, dropout=0.0, batch_first=True)

    def forward(self, x_BTD: Tensor) -> Tensor:
        there = is_token(x_BTD)
        states = self.layer(x_BTD, src_key_padding_mask=~there)
        places = torch.arange(there.shape[1], device=there.device)
        last = (there * places).argmax(1)
        return cast(Tensor, states[torch.arange(len(states), device=there.device), last])


class Massl(Hmmved):
    title = "MASSL"
    latent = 256

    def _decoder(self) -> None:
        """Two linear layers, five convolutions of stride 2 down to 7 numbers."""
        steps: list[nn.Module] = [nn.Linear(self.latent, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU()]
        steps.append(nn.Unflatten(1, (1, 256)))
        for channels in ((1, 8), (8, 8), (8, 8), (8, 8), (8, 1)):
            steps += [nn.Conv1d(*channels, 3, stride=2, padding=1), nn.ReLU()]
        self.decode = nn.Sequential(*steps, nn.AdaptiveAvgPool1d(7), nn.Flatten())
        self.out = nn.Linear(7, self.shape.outputs)
