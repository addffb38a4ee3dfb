"""Language stages: one loop under DeepSpeed ZeRO-2; they differ in what they train and in the loss.

stage2 (alignment): language-model loss on the response alone; trains the projector and the markers.
stage3 (rating): Smooth L1 of the head's score; trains those, the head and the last decoder layers.
lora (baseline): language-model loss on the response alone; trains adapters of a model without graph.

A step is the same at every world size: a fixed number of packs, whose losses are summed and divided by
the step's number of samples (stage 3) or response tokens (the others).
"""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from netgpt.trainers import checkpoint, distributed
from netgpt.trainers.config import LanguageConfig, RateConfig, StageConfig
from netgpt.trainers.errors import TrainerError, require_finite
from netgpt.trainers.language import snapshots
from netgpt.trainers.language.curve import NO_GROUPS, Curve, Groups, group_sums, sums_tensor
from netgpt.trainers.language.memory import named_out_of_memory
from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
from netgpt.trainers.language.packing import PackedBatch, Step, plan
from netgpt.trainers.language.samples import Samples
from netgpt.trainers.language.scoring import expected_level, level_log_probs, score_samples
from netgpt.trainers.language.text.fields import FREE_FIELDS, hidden_fields
from netgpt.trainers.metrics import rating_metrics
from netgpt.trainers.progress import Progress
from netgpt.trainers.schedule import learning_rate, seed_of, seed_torch

WEIGHTS = "netgpt.safetensors"
TENSORBOARD = "tensorboard"
SHOWN_IDS = 5
_NOTHING = np.empty(0, np.int64)


@dataclass
class _State:
    """Where training is; all that a checkpoint holds besides tensors."""

    step: int = 0
    loss_sum: float = 0.0  # of this epoch's steps so far
    best_val: float = float("inf")  # of the epoch whose weights are kept
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)


class _Objective(nn.Module):
    """The module that DeepSpeed wraps: a pack in, its summed loss and its scores out."""

    def __init__(self, model: PackedLM, rates: bool, beta: float) -> None:
        super().__init__()
        self.model, self.rates, self.beta = model, rates, beta

    def forward(self, batch: PackedBatch, levels_n: Tensor) -> tuple[Tensor, Tensor]:
        if not self.rates:
            return -self.model.response_log_probs(batch)[0].sum(), levels_n[:0]
        assert isinstance(self.model, NetGPT)
        scores = self.model.scores(batch)
        return F.smooth_l1_loss(scores, levels_n, reduction="sum", beta=self.beta), scores.detach()


class LanguageTrainer:
    """Trains one language stage; `run` returns its history. Needs a torch process group, of one at least."""

    def __init__(
        self,
        stage: str,
        language: LanguageConfig,
        config: StageConfig,
        model: PackedLM,
        trained: dict[str, nn.Parameter],
        train: Samples,
        val: Samples,
        levels: np.ndarray,
        folder: Path,
        *,
        seed: int,
        key: str = "",
        groups: Groups = NO_GROUPS,
    ) -> None:
        """trained: the model's parameters that the stage trains, by name; all others are frozen.

        levels [N]: by node number. groups: that stage 3's curve tells apart. key: of the stage's inputs;
        a checkpoint of other inputs is not one of this training.
        """
        self.stage, self.language, self.config, self.key = stage, language, config, key
        self.rates = stage == "stage3"
        self.groups = groups if self.rates else NO_GROUPS
        self.train, self.val, self.levels, self.folder, self.seed = train, val, levels, folder, seed
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        if language.packs_per_step % self.world_size:
            raise TrainerError(
                f"language.packs_per_step: found {language.packs_per_step}, "
                f"expected a multiple of the world size ({self.world_size})"
            )
        self.accumulation = language.packs_per_step // self.world_size
        self.model, self.trained = model, trained
        model.train_only(trained)
        if language.activation_checkpointing:
            model.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.state, self.curve = _State(), Curve()
        self.best: dict[str, Tensor] = {}
        self.progress = Progress(folder if self.rank == 0 else None)
        self._responses = [len(self._response(int(v))) for v in train.ids]
        self._free = hidden_fields(FREE_FIELDS)
        self._epoch_of_samples, self._samples = -1, train
        with self._named_out_of_memory(0):
            self.engine = self._engine()
        self._check_trained()

    def _engine(self) -> Any:
        import deepspeed  # imports slowly and logs at import: only where it is used

        logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
        # A sum over CPU ranks for inference, which no stage calls: its first use would compile it for minutes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        config = self.config
        # Buckets no larger than what is trained: DeepSpeed's default allocates 2 GB of buffers a step
        # (a power of two: its alignment wants a multiple of the world size)
        bucket = min(2**28, 1 << sum(p.numel() for p in self.trained.values()).bit_length())
        beta = config.beta if isinstance(config, RateConfig) else 1.0
        engine, *_ = deepspeed.initialize(
            model=_Objective(self.model, self.rates, beta),
            model_parameters=list(self.trained.values()),
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

    def _check_trained(self) -> None:
        """That the model and the optimiser train exactly what the stage names; says what, with counts."""
        asks = {name for name, p in self.model.named_parameters() if p.requires_grad}
        holds = sum(p.numel() for group in self.engine.optimizer.bit16_groups for p in group)
        counts = trained_counts(self.trained)
        if asks != set(self.trained) or holds != sum(counts.values()):
            odd = sorted(asks ^ set(self.trained))[:3]
            raise RuntimeError(f"{self.stage}: trains {holds} parameters and {odd}, expected {counts}")
        parts = ", ".join(f"{name} {num:,}" for name, num in counts.items())
        frozen = sum(p.numel() for p in self.model.parameters()) - holds
        self.progress.note(f"{self.stage} trains {holds:,} parameters ({parts}); {frozen:,} are frozen")

    def _response(self, node: int) -> np.ndarray:
        """What follows a state's prompt in training: its level's response, in stage 3 nothing."""
        return _NOTHING if self.rates else self.train.builder.response(int(self.levels[node]))

    def _samples_of(self, epoch: int) -> Samples:
        """The train samples as an epoch sees them."""
        if epoch != self._epoch_of_samples:
            seed = (self.seed, seed_of(self.stage, "text"), epoch)
            self._samples = self.train.hiding(self._free, self.config.text_dropout, seed)
            self._epoch_of_samples = epoch
        return self._samples

    def _plan(self, epoch: int) -> list[Step]:
        samples, extra = self._samples_of(epoch), np.array(self._responses)
        samples.check_fit(self.language.token_budget, max(self._responses, default=0))
        return plan(
            samples.lengths + extra,
            budget=self.language.token_budget,
            packs_per_step=self.language.packs_per_step,
            seed=(self.seed, seed_of(self.stage), epoch),
        )

    def _plans(self) -> list[list[Step]]:
        """The steps of each epoch; the last one ends early where the steps are limited."""
        plans: list[list[Step]] = []
        for epoch in range(self.config.epochs):
            plans.append(self._plan(epoch))
            left = self.config.max_steps - sum(len(steps) for steps in plans[:-1])
            if self.config.max_steps and len(plans[-1]) >= left:
                return [*plans[:-1], plans[-1][:left]]
        return plans

    def run(self) -> dict[str, Any]:
        """Train to the end of the last epoch, from the last checkpoint if there is one."""
        plans = self._plans()
        steps = [(epoch, step) for epoch, steps in enumerate(plans) for step in steps]
        ends = np.cumsum([len(steps) for steps in plans])
        self._resume()
        state = self.state
        with closing(self._writer()) if self.rank == 0 else nullcontext() as writer:
            for number in range(state.step, len(steps)):
                epoch, step = steps[number]
                lr = learning_rate(self.config.lr, number, len(steps))
                state.loss_sum += self._step(step, number, epoch, lr)
                state.step = number + 1
                done = number + 1 - (ends[epoch - 1] if epoch else 0)
                self.progress.update(number + 1, len(steps), "step", loss=state.loss_sum / done)
                ended = number + 1 == ends[epoch]
                if ended or (number + 1) % self.config.log_steps == 0:
                    self._end_point(lr, writer)
                if ended:
                    self._end_epoch(epoch, len(plans[epoch]), writer)
                if ended or (number + 1) % self.config.checkpoint_steps == 0:
                    self._save()
        if not steps:
            self.best = {name: p.detach().float().cpu().clone() for name, p in self.trained.items()}
        if self.rank == 0:
            checkpoint.save(self.folder / WEIGHTS, self.best, {"stage": self.stage})
        distributed.barrier()
        return {
            "history": state.history,
            "curve": self.curve.points,
            "trained_parameters": trained_counts(self.trained),
            "steps": len(steps),
        }

    def _writer(self) -> SummaryWriter:
        return SummaryWriter(str(self.folder / TENSORBOARD), purge_step=self.state.step)

    def _step(self, step: Step, number: int, epoch: int, lr: float) -> float:
        """One optimiser step; its mean loss. TrainerError before the weights change if that is not finite."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.model.train()
        samples, device = self._samples_of(epoch), self.train.device
        count = len(step.samples) if self.rates else sum(self._responses[i] for i in step.samples)
        loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        sums = sums_tensor(self.groups, device)
        packs = step.of_rank(self.rank, self.world_size)
        mean = float("nan")
        for micro, pack in enumerate(packs):
            # By the pack and not by the rank, so that every world size drops the same
            seed_torch(self.seed, self.stage, number, micro * self.world_size + self.rank)
            # A filler runs a sample of the step with weight zero, so that every rank takes part
            chosen = pack or step.samples[:1]
            nodes = self.train.ids[chosen]
            batch = samples.batch(chosen, [self._response(int(v)) for v in nodes])
            levels = torch.from_numpy(self.levels[nodes].astype(np.float32)).to(device)
            with self._named_out_of_memory(sum(batch.lengths)):
                loss, scores = self.engine(batch, levels)
                loss = loss * float(bool(pack))
                loss_sum += loss.detach().double()
                if pack and self.groups.names:
                    found = group_sums(self.groups, nodes, scores.cpu().numpy(), self.levels[nodes])
                    sums += torch.from_numpy(found).to(device)
                # DeepSpeed averages over ranks and accumulation steps; a sum over the step is wanted
                self.engine.backward(loss * (self.world_size * self.accumulation / count))
            if micro + 1 == len(packs):
                total = (
                    distributed.sum_across_ranks(torch.cat([loss_sum[None], sums.flatten()])).cpu().numpy()
                )
                mean = self._finite(float(total[0]) / count, step, number, "loss")
                self.curve.add(mean, total[1:].reshape(-1, 3))
            with self._named_out_of_memory(sum(batch.lengths)):
                self.engine.step()
        # Of a gradient that is not finite the weights are spoilt now, but no checkpoint has them
        self._finite(float(self.engine.get_global_grad_norm() or 0.0), step, number, "gradient norm")
        return mean

    def _finite(self, value: float, step: Step, number: int, what: str) -> float:
        if not np.isfinite(value):
            ids = self.train.ids[step.samples[:SHOWN_IDS]].tolist()
            raise TrainerError(
                f"{what} of step {number}: found {value}, expected a finite number; its nodes are {ids}"
                f"{'…' if len(step.samples) > SHOWN_IDS else ''}; lower {self.stage}.lr or {self.stage}.clip"
            )
        return value

    def _named_out_of_memory(self, num_tokens: int) -> AbstractContextManager[None]:
        budget = self.language.token_budget
        return named_out_of_memory(self.stage, num_tokens, budget, self.language)

    def _end_point(self, lr: float, writer: SummaryWriter | None) -> None:
        step = self.state.step
        point = self.curve.close(step, lr, self.groups)
        if writer and point:
            for name in ("loss", "lr", "train_acc", "train_mse"):
                if name in point:
                    writer.add_scalar(f"train/{name.removeprefix('train_')}", point[name], step)
            for platform, found in point.get("platform", {}).items():
                writer.add_scalar(f"train_acc/{platform}", found["train_acc"], step)
                writer.add_scalar(f"train_mse/{platform}", found["train_mse"], step)

    def _end_epoch(self, epoch: int, num_steps: int, writer: SummaryWriter | None) -> None:
        state = self.state
        metrics = self._validate()
        state.history.append(
            {"epoch": epoch, "step": state.step, "loss": state.loss_sum / num_steps, **metrics}
        )
        state.loss_sum = 0.0
        require_finite(metrics["val_mae"], "validation MAE", self.stage)
        if writer:
            for name in ("acc", "mse", "mae"):
                writer.add_scalar(f"val/{name}", metrics[f"val_{name}"], state.step)
        if self.config.select == "last" or metrics["val_mae"] < state.best_val:
            state.best_val, state.best_epoch = metrics["val_mae"], epoch
            self.best = snapshots.trained_values(self.trained)

    def _validate(self) -> dict[str, float]:
        budget, levels = self.language.token_budget, self.levels[self.val.ids]
        if self.rates:
            assert isinstance(self.model, NetGPT)
            extra, scores = {}, score_samples(self.model, self.val, budget)
        else:
            log_probs = level_log_probs(self.model, self.val, budget)
            truth = log_probs[np.arange(len(levels)), levels] if len(levels) else np.empty(0)
            extra = {"val_response_nll": float(-truth.mean())}
            scores = expected_level(log_probs)
        found = rating_metrics(scores, levels)
        return {**{f"val_{name}": found[name] for name in ("acc", "mse", "mae")}, **extra}

    def _save(self) -> None:
        position = {"state": asdict(self.state), "curve": asdict(self.curve)}
        meta = {**position, "trained": sorted(self.trained), "key": self.key}
        best = self.best if self.rank == 0 else {}
        snapshots.save(self.folder / "checkpoints", self.state.step, self.trained, best, meta)

    def _resume(self) -> None:
        found = snapshots.load(self.folder / "checkpoints", self.engine, self.trained, self.key)
        if found:
            self.best, meta = found
            self.state, self.curve = _State(**meta["state"]), Curve(**meta["curve"])


def trained_counts(trained: dict[str, nn.Parameter]) -> dict[str, int]:
    """Parameters by part: projector, markers, head, decoder layers, adapters."""
    counts: dict[str, int] = {}
    for name, p in trained.items():
        part = name.split(".")[0].removesuffix("_2H")
        if part == "base":
            part = "adapters" if ".lora_" in name else "decoder layers"
        counts[part] = counts.get(part, 0) + p.numel()
    return counts


def load_weights(model: PackedLM, path: Path, trained: dict[str, nn.Parameter]) -> None:
    """Put a finished stage's weights into the model. TrainerError unless they are exactly the stage's."""
    tensors, _ = checkpoint.load(path)
    if set(tensors) != set(trained):
        odd = sorted(set(tensors) ^ set(trained))[:3]
        raise TrainerError(f"{path}: found weights of another model ({odd}…), expected those of the stage")
    for name, p in trained.items():
        if tensors[name].shape != p.shape:
            raise TrainerError(
                f"{path}: found {name} of shape {tuple(tensors[name].shape)}, expected {tuple(p.shape)}"
            )
    model.load_state_dict(tensors, strict=False)
