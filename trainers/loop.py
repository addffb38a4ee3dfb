"""The one training loop: steps, epochs, the best weights, the curve, checkpoints, and where to go on.

Graph and language stages are two kinds of `Steps` of it. It runs in one process, or in each of several under
a torch process group. Randomness is a function of (seed, step, rank), so that nothing but weights, optimiser
state and position is kept: a training that is killed anywhere and started again ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from netgpt.trainers import checkpoint, distributed
from netgpt.trainers.curve import NO_GROUPS, Curve, Groups
from netgpt.trainers.engine import Engine
from netgpt.trainers.errors import require_finite
from netgpt.trainers.progress import Progress
from netgpt.trainers.schedule import WARMUP_SHARE, learning_rate

CHECKPOINTS, TENSORBOARD = "checkpoints", "tensorboard"


@dataclass(frozen=True)
class StepResult:
    """What a step came to, the same on every rank: its mean loss, sums by group [G, 3], and means that are
    watched."""

    loss: float
    sums: np.ndarray = field(default_factory=lambda: np.zeros((0, 3)))
    watched: dict[str, float] = field(default_factory=dict)


class Steps(Protocol):
    """What a stage trains on, and how it is judged."""

    def lengths(self) -> Sequence[int]:
        """Steps of each epoch."""
        ...

    def stream(self, epoch: int, first: int) -> Iterator[Any]:
        """The steps of an epoch from number `first` on, as `train` takes them."""
        ...

    def train(self, step: Any, number: int) -> StepResult:
        """Forward, backward and optimiser of step `number`. TrainerError for a loss that is not finite."""
        ...

    def judge(self) -> Mapping[str, Any]:
        """Metrics of the validation part, named val_…; every rank calls this, and all get the same."""
        ...


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What a loop takes from a stage's settings."""

    section: str
    """Name of the settings, for advice such as `lower stage2.lr`."""
    lr: float
    chooses: str = "mae"
    """Metric of the validation part by which the best epoch is chosen."""
    larger_is_better: bool = False
    select: str = "best"
    """best: keep the weights of the epoch that is judged best; last: the last's."""
    patience: int = 0
    """Epochs without a better one before training stops; 0: never."""
    checkpoint_steps: int = 50
    log_steps: int = 0
    """Steps that make one point of the curve; 0: there is no curve."""
    shows_best: bool = False
    """Whether progress shows the best validation so far."""
    warmup: float = WARMUP_SHARE
    """Share of all steps in which the rate rises to `lr`."""
    decays: bool = True
    """Whether it falls to zero behind that, by half a cosine; else it stays."""
    counts_steps: bool = False
    """Whether an epoch's entry in the history says its last step."""


@dataclass
class State:
    """Where training is; all that a checkpoint holds besides tensors."""

    step: int = 0
    loss_sum: float = 0.0  # of this epoch's steps so far
    best: float | None = None  # of the epoch whose weights are kept
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)


class Loop:
    """One training; `run` takes it to its end, and `best` are the weights that are kept."""

    def __init__(
        self,
        steps: Steps,
        engine: Engine,
        config: LoopConfig,
        folder: Path,
        *,
        key: str = "",
        groups: Groups = NO_GROUPS,
        progress: Progress | None = None,
    ) -> None:
        """key: of the stage's inputs; a checkpoint of other inputs is not one of this training.

        groups: that the curve tells apart.
        """
        self.steps, self.engine, self.config, self.folder, self.key = steps, engine, config, folder, key
        self.groups = groups
        self.rank = distributed.rank()
        self.progress = progress or Progress(folder if self.rank == 0 else None)
        self.state, self.curve = State(), Curve()
        self.best: dict[str, Tensor] = {}

    def run(self) -> None:
        """Train from the last checkpoint, if there is one, to the end of the last epoch."""
        ends = np.cumsum(self.steps.lengths()).tolist()
        total = ends[-1] if ends else 0
        self._resume()
        state = self.state
        with closing(self._writer()) if self.rank == 0 else nullcontext() as writer:
            config = self.config
            while state.step < total and not self._out_of_patience(ends):
                epoch = int(np.searchsorted(ends, state.step, side="right"))
                begin = ends[epoch - 1] if epoch else 0
                for step in self.steps.stream(epoch, state.step - begin):
                    lr = learning_rate(
                        config.lr, state.step, total, warmup_share=config.warmup, decays=config.decays
                    )
                    self.engine.set_rate(lr)
                    result = self.steps.train(step, state.step)
                    state.step += 1
                    state.loss_sum += result.loss
                    self._show(state.step - begin, total)
                    ended = state.step == ends[epoch]
                    self._note(result, lr, ended, writer)
                    if ended:
                        self._end_epoch(epoch, state.step - begin, writer)
                    if ended or state.step % self.config.checkpoint_steps == 0:
                        self._save()
        if state.step < total:  # early stopping: what was planned behind it is not to come
            self._show(0, state.step)
        distributed.barrier()

    def _out_of_patience(self, ends: Sequence[int]) -> bool:
        """Whether as many epochs as that have passed without a better one."""
        epoch = int(np.searchsorted(ends, self.state.step, side="right"))
        patience = self.config.patience
        return bool(patience) and epoch - self.state.best_epoch > patience

    def _show(self, done_of_epoch: int, total: int) -> None:
        state, values = self.state, {}
        if done_of_epoch:
            values["loss"] = state.loss_sum / done_of_epoch
        if self.config.shows_best and state.best is not None:
            values[f"val_{self.config.chooses}"] = state.best
        self.progress.update(state.step, total, "step", **values)

    def _note(self, result: StepResult, lr: float, ended: bool, writer: SummaryWriter | None) -> None:
        """A point of the curve where one is due; without a curve each step is one of TensorBoard's."""
        step, every = self.state.step, self.config.log_steps
        if not every:
            if writer:
                writer.add_scalar("train/loss", result.loss, step - 1)
                writer.add_scalar("train/lr", lr, step - 1)
            return
        self.curve.add(result.loss, result.sums, result.watched)
        if not ended and step % every:
            return
        point = self.curve.close(step, lr, self.groups)
        if writer and point:
            for name in ("loss", "lr", "train_acc", "train_mse", *result.watched):
                if name in point:
                    writer.add_scalar(f"train/{name.removeprefix('train_')}", point[name], step)
            for group, rates in point.get(self.groups.key, {}).items():
                writer.add_scalar(f"train_acc/{group}", rates["train_acc"], step)
                writer.add_scalar(f"train_mse/{group}", rates["train_mse"], step)

    def _end_epoch(self, epoch: int, num_steps: int, writer: SummaryWriter | None) -> None:
        state, config = self.state, self.config
        metrics = dict(self.steps.judge())
        place = {"step": state.step} if config.counts_steps else {}
        state.history.append({"epoch": epoch, **place, "loss": state.loss_sum / num_steps, **metrics})
        state.loss_sum = 0.0
        judged = metrics[f"val_{config.chooses}"]
        require_finite(judged, f"validation {config.chooses.upper()}", config.section)
        if writer:
            for name, value in metrics.items():
                if isinstance(value, float):
                    # Of an epoch without a curve TensorBoard has the number of its last step
                    writer.add_scalar(f"val/{name[4:]}", value, state.step - (not config.log_steps))
        sign = -1 if config.larger_is_better else 1
        if config.select == "last" or state.best is None or sign * judged < sign * state.best:
            state.best, state.best_epoch = judged, epoch
            self.best = self.engine.values()

    def _writer(self) -> SummaryWriter:
        # What a killed run wrote behind its checkpoint is written again. A curve's points have the number of
        # steps that were made, so that of the checkpoint itself stays
        first = self.state.step + bool(self.config.log_steps)
        return SummaryWriter(str(self.folder / TENSORBOARD), purge_step=first)

    def _save(self) -> None:
        position = {"state": asdict(self.state), "curve": asdict(self.curve)}
        meta = {**position, "trained": sorted(self.engine.trained), "key": self.key}
        best = self.best if self.rank == 0 else {}
        checkpoint.save(self.folder / CHECKPOINTS, self.state.step, self.engine.share(), best, meta)

    def _resume(self) -> None:
        saved = checkpoint.open_newest(self.folder / CHECKPOINTS, self.key)
        if saved:
            self.engine.load(saved)
            self.best = saved.best
            self.state, self.curve = State(**saved.meta["state"]), Curve(**saved.meta["curve"])
        distributed.barrier()  # nobody writes the next checkpoint before all have read this one
