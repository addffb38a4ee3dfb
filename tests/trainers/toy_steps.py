"""Steps of a training that is over in milliseconds: a small network learns a line through noisy points.

They stand for both kinds of stages: with a curve and groups, as language stages have, or without.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from netgpt.trainers.curve import NO_GROUPS, Groups
from netgpt.trainers.engine import AdamWEngine, Engine, ZeroEngine
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.loop import Loop, LoopConfig, StepResult
from netgpt.trainers.schedule import seed_torch

EPOCHS, POINTS, BATCH, PACKS = 3, 40, 8, 2
GROUPS = Groups(np.arange(POINTS, dtype=np.int32) % 3 - 1, ["odd", "even"], "kind")


def points() -> tuple[Tensor, Tensor]:
    """x [n, 3], y [n]."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(POINTS, 3, generator=generator)
    return x, x @ torch.tensor([1.0, -2.0, 0.5]) + 0.1 * torch.randn(POINTS, generator=generator)


class Network(nn.Module):
    """[n, 3] → [n], with dropout: what is drawn in a step must be drawn again after a stop."""

    def __init__(self) -> None:
        super().__init__()
        seed_torch("network")
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x).squeeze(-1)
        return found


def make_engine(kind: str, network: Network, lr: float = 0.02) -> Engine:
    """adamw or zero."""
    options: dict[str, Any] = {"lr": lr, "weight_decay": 0.01, "clip": 1.0}
    if kind == "adamw":
        return AdamWEngine(network, **options)
    trained = dict(network.named_parameters())
    return ZeroEngine(network, trained, **options, accumulation=PACKS, bfloat16=False)


@dataclass
class ToySteps:
    """Steps of BATCH points each; under ZeRO-2 a step is PACKS calls of `backward`."""

    network: Network
    engine: Engine
    scored: bool = False
    """Whether steps give sums by group."""
    spoilt: int = -1
    """Step whose loss is no number."""
    stop: int = -1
    """Step before which the process is killed."""
    taken: list[int] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    judged: list[float] = field(default_factory=list)
    """What validation is to find, epoch by epoch; empty: the network's own error."""

    def lengths(self) -> list[int]:
        return [POINTS // BATCH] * EPOCHS

    def stream(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        order = np.random.default_rng([0, epoch]).permutation(POINTS)
        yield from order.reshape(-1, BATCH)[first:]

    def train(self, step: np.ndarray, number: int) -> StepResult:
        if number == self.stop:
            raise KilledError
        self.taken.append(number)
        self.rates.append(rate_of(self.engine))
        self.network.train()
        x, y = points()
        total, scores = 0.0, []
        num_packs = PACKS if isinstance(self.engine, ZeroEngine) else 1
        for pack, part in enumerate(np.split(step, num_packs)):
            seed_torch(number, pack)
            call = self.engine.forward if isinstance(self.engine, ZeroEngine) else self.network
            found = call(x[part])
            loss = ((found - y[part]) ** 2).sum() * (float("nan") if number == self.spoilt else 1.0)
            self.engine.backward(loss, BATCH, last=pack + 1 == num_packs)
            total += float(loss.detach())
            scores.append(found.detach())
        mean = total / BATCH

        def check(norm: float) -> None:
            if not np.isfinite([mean, norm]).all():
                raise TrainerError(f"loss of step {number}: found {mean}, expected a finite number")

        self.engine.step(check)
        self.losses.append(mean)
        return (
            StepResult(mean, sums_of(step, torch.cat(scores), y[step])) if self.scored else StepResult(mean)
        )

    @torch.no_grad()
    def judge(self) -> dict[str, Any]:
        self.network.eval()
        if self.judged:
            return {"val_mae": self.judged.pop(0)}
        x, y = points()
        return {"val_mae": float((self.network(x) - y).abs().mean()), "val_of": {"odd": 1}}


class KilledError(Exception):
    pass


def sums_of(step: np.ndarray, scores: Tensor, truth: Tensor) -> np.ndarray:
    """[G, 3], one example after the other: number, right ones (to the nearest whole), squared errors."""
    sums = np.zeros((len(GROUPS.names), 3))
    for v, score, y in zip(step.tolist(), scores.tolist(), truth.tolist(), strict=True):
        if (code := int(GROUPS.codes[v])) >= 0:
            sums[code] += [1, float(round(score) == round(y)), (score - y) ** 2]
    return sums


def rate_of(engine: Engine) -> float:
    if isinstance(engine, AdamWEngine):
        return engine.rate
    assert isinstance(engine, ZeroEngine)
    return float(engine.engine.optimizer.param_groups[0]["lr"])


def make_loop(folder: Path, kind: str = "adamw", *, key: str = "", **changes: Any) -> Loop:
    """A loop over ToySteps. kind: of the engine. changes: fields of ToySteps, others of LoopConfig."""
    folder.mkdir(exist_ok=True)
    network = Network()
    engine = make_engine(kind, network)
    of_steps = {k: changes.pop(k) for k in ("scored", "spoilt", "stop", "judged") if k in changes}
    steps = ToySteps(network, engine, **of_steps)
    config = LoopConfig(**{"section": "toy", "lr": 0.02, "checkpoint_steps": 2, **changes})
    return Loop(steps, engine, config, folder, key=key, groups=GROUPS if steps.scored else NO_GROUPS)


def steps_of(loop: Loop) -> ToySteps:
    assert isinstance(loop.steps, ToySteps)
    return loop.steps
