"""Stages 2 and 3: one loop under DeepSpeed ZeRO-2; the stages differ in what they train and in the loss.

Stage 2 (alignment): language-model loss on the response alone; trains the projector and the markers.
Stage 3 (rating): Smooth L1 of the head's score; trains those, the head and the last decoder layers.

A step is the same at every world size: a fixed number of packs, whose losses are summed and divided by
the step's number of samples (stage 3) or response tokens (stage 2).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainers import checkpoint, distributed
from trainers.config import LanguageConfig, RateConfig, StageConfig
from trainers.errors import TrainerError, require_finite
from trainers.language import snapshots
from trainers.language.model import NetGPT
from trainers.language.packing import PackedBatch, Step, plan
from trainers.language.samples import Samples, expected_level, level_log_probs, score_samples
from trainers.metrics import rating_metrics
from trainers.progress import Progress
from trainers.schedule import learning_rate, seed_of, seed_torch

WEIGHTS = "netgpt.safetensors"
_NOTHING = np.empty(0, np.int64)


@dataclass
class _State:
    """Where training is; all that a checkpoint holds besides tensors."""

    step: int = 0
    loss_sum: float = 0.0  # of this epoch's steps so far
    best_val: float = float("inf")
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)


class _Objective(nn.Module):
    """The module that DeepSpeed wraps: a pack in, its summed loss out."""

    def __init__(self, netgpt: NetGPT, stage: str, beta: float) -> None:
        super().__init__()
        self.netgpt, self.stage, self.beta = netgpt, stage, beta

    def forward(self, batch: PackedBatch, graph_nD: Tensor, levels_n: Tensor) -> Tensor:
        if self.stage == "stage2":
            return -self.netgpt.response_log_probs(batch, graph_nD)[0].sum()
        scores = self.netgpt.scores(batch, graph_nD)
        return F.smooth_l1_loss(scores, levels_n, reduction="sum", beta=self.beta)


class LanguageTrainer:
    """Trains one language stage; `run` returns its history. Needs a torch process group, of one at least."""

    def __init__(
        self,
        stage: str,
        language: LanguageConfig,
        config: StageConfig,
        netgpt: NetGPT,
        train: Samples,
        val: Samples,
        levels: np.ndarray,
        folder: Path,
        *,
        seed: int,
        key: str = "",
    ) -> None:
        self.key = key  # of the stage's inputs: a checkpoint of other inputs is not one of this training
        self.stage, self.language, self.config = stage, language, config
        self.train, self.val, self.levels, self.folder, self.seed = train, val, levels, folder, seed
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        if language.packs_per_step % self.world_size:
            raise TrainerError(
                f"language.packs_per_step: found {language.packs_per_step}, "
                f"expected a multiple of the world size ({self.world_size})"
            )
        self.accumulation = language.packs_per_step // self.world_size
        self.netgpt = netgpt
        num_layers = config.layers if isinstance(config, RateConfig) else 0
        self.trained = netgpt.stage_parameters(stage, num_layers)
        netgpt.train_only(self.trained)
        self.state = _State()
        self.best: dict[str, Tensor] = {}
        self.progress = Progress(folder if self.rank == 0 else None)
        self.lengths = np.array(
            [len(p) + len(self._response(int(v))) for p, v in zip(train.prompts, train.ids, strict=True)]
        )
        self.engine = self._engine()

    def _engine(self) -> Any:
        import deepspeed  # imports slowly and logs at import: only where it is used

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        config = self.config
        # Buckets no larger than what is trained: DeepSpeed's default allocates 2 GB of buffers a step
        # (a power of two: its alignment wants a multiple of the world size)
        bucket = min(2**28, 1 << sum(p.numel() for p in self.trained.values()).bit_length())
        engine, *_ = deepspeed.initialize(
            model=_Objective(self.netgpt, self.stage, config.beta if isinstance(config, RateConfig) else 1.0),
            model_parameters=[p for p in self.netgpt.parameters() if p.requires_grad],
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": self.accumulation,
                "gradient_clipping": config.clip,
                "zero_optimization": {
                    "stage": 2,
                    "reduce_bucket_size": bucket,
                    "allgather_bucket_size": bucket,
                },
                "bf16": {"enabled": self.train.device.type == "cuda"},
                "data_types": {"grad_accum_dtype": "fp32"},
                "optimizer": {
                    "type": "AdamW",
                    "params": {"lr": config.lr, "weight_decay": config.weight_decay, "torch_adam": True},
                },
                "steps_per_print": 10**9,
            },
        )
        return engine

    def _response(self, node: int) -> np.ndarray:
        """What follows a state's prompt in training: its level's response in stage 2, nothing in stage 3."""
        return self.train.builder.response(int(self.levels[node])) if self.stage == "stage2" else _NOTHING

    def _plan(self, epoch: int) -> list[Step]:
        return plan(
            self.lengths,
            budget=self.language.token_budget,
            packs_per_step=self.language.packs_per_step,
            seed=(self.seed, seed_of(self.stage), epoch),
        )

    def run(self) -> dict[str, Any]:
        """Train to the end of the last epoch, from the last checkpoint if there is one."""
        plans = [self._plan(epoch) for epoch in range(self.config.epochs)]
        steps = [(epoch, step) for epoch, steps in enumerate(plans) for step in steps]
        ends = np.cumsum([len(steps) for steps in plans])
        self._resume()
        for number in range(self.state.step, len(steps)):
            epoch, step = steps[number]
            self.state.loss_sum += self._step(step, number, len(steps))
            self.state.step = number + 1
            done = number + 1 - (ends[epoch - 1] if epoch else 0)
            self.progress.update(number + 1, len(steps), "step", loss=self.state.loss_sum / done)
            if number + 1 == ends[epoch]:
                self._end_epoch(epoch, len(plans[epoch]))
            if number + 1 == ends[epoch] or (number + 1) % self.config.checkpoint_steps == 0:
                self._save()
        if not steps:
            self.best = self._weights()
        if self.rank == 0:
            checkpoint.save(self.folder / WEIGHTS, self.best, {"stage": self.stage})
        distributed.barrier()
        return {
            "history": self.state.history,
            "trained_parameters": sum(p.numel() for p in self.trained.values()),
            "steps": len(steps),
        }

    def _step(self, step: Step, number: int, num_steps: int) -> float:
        """One optimiser step; its mean loss."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate(self.config.lr, number, num_steps)
        self.netgpt.train()
        count = (
            sum(len(self._response(int(self.train.ids[i]))) for i in step.samples)
            if self.stage == "stage2"
            else len(step.samples)
        )
        total = torch.zeros((), dtype=torch.float64, device=self.train.device)
        for micro, pack in enumerate(step.of_rank(self.rank, self.world_size)):
            seed_torch(self.seed, self.stage, number, self.rank, micro)
            # A filler runs a sample of the step with weight zero, so that every rank takes part
            chosen = pack or step.samples[:1]
            nodes = self.train.ids[chosen]
            batch = self.train.batch(chosen, [self._response(int(v)) for v in nodes])
            levels = torch.from_numpy(self.levels[nodes].astype(np.float32)).to(self.train.device)
            loss = self.engine(batch, self.train.graph_states(batch), levels) * float(bool(pack))
            total += loss.detach().double()
            # DeepSpeed averages over ranks and accumulation steps; a sum over the step is wanted
            self.engine.backward(loss * (self.world_size * self.accumulation / count))
            self.engine.step()
        mean = float(distributed.sum_across_ranks(total)) / count
        return require_finite(mean, f"loss of step {number}", self.stage)

    def _end_epoch(self, epoch: int, num_steps: int) -> None:
        state = self.state
        metrics = self._validate()
        state.history.append(
            {"epoch": epoch, "step": state.step, "loss": state.loss_sum / num_steps, **metrics}
        )
        state.loss_sum = 0.0
        require_finite(metrics["val_mae"], "validation MAE", self.stage)
        if metrics["val_mae"] < state.best_val:
            state.best_val, state.best_epoch = metrics["val_mae"], epoch
            self.best = self._weights()

    def _validate(self) -> dict[str, float]:
        budget, levels = self.language.token_budget, self.levels[self.val.ids]
        if self.stage == "stage2":
            log_probs = level_log_probs(self.netgpt, self.val, budget)
            truth = log_probs[np.arange(len(levels)), levels] if len(levels) else np.empty(0)
            extra = {"val_response_nll": float(-truth.mean())}
            scores = expected_level(log_probs)
        else:
            extra, scores = {}, score_samples(self.netgpt, self.val, budget)
        found = rating_metrics(scores, levels)
        return {**{f"val_{name}": found[name] for name in ("acc", "mse", "mae")}, **extra}

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach().float().cpu().clone() for name, p in self.trained.items()}

    def _save(self) -> None:
        meta = {"state": self.state.__dict__, "trained": sorted(self.trained), "key": self.key}
        tensors = self.best if self.rank == 0 else {}
        snapshots.save(self.folder / "checkpoints", self.state.step, self.engine, tensors, meta)

    def _resume(self) -> None:
        found = snapshots.load(self.folder / "checkpoints", self.engine, set(self.trained), self.key)
        if found:
            self.best, meta = found
            self.state = _State(**meta["state"])


def load_weights(netgpt: NetGPT, path: Path, stage: str, num_layers: int = 0) -> None:
    """Put a finished stage's weights into the model. TrainerError unless they are exactly the stage's."""
    tensors, _ = checkpoint.load(path)
    wanted = netgpt.stage_parameters(stage, num_layers)
    if set(tensors) != set(wanted):
        odd = sorted(set(tensors) ^ set(wanted))[:3]
        raise TrainerError(f"{path}: found weights of another model ({odd}…), expected those of {stage}")
    netgpt.load_state_dict(tensors, strict=False)
