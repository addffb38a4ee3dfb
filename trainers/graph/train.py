"""Stage 1: RGCN pretraining on the levels of the train split.

Runs in one process, or in each of several under a torch process group. It resumes from its last
checkpoint at the exact batch: randomness is a function of (seed, step, rank), so nothing but
weights, optimiser state and position is kept.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from graphstore import Store
from graphstore.files import file_digest
from sampler import NeighborLoader, SamplingEngine
from trainers import checkpoint, distributed
from trainers.config import GraphConfig, SamplerConfig
from trainers.errors import require_finite
from trainers.graph.inference import embed
from trainers.graph.model import RGCN, FeatureTables, RGCNShape
from trainers.metrics import rating_metrics
from trainers.progress import Progress
from trainers.schedule import learning_rate, seed_torch
from trainers.splits import Splits

MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"


@dataclass
class _State:
    """Where training is; all that a checkpoint holds besides tensors."""

    epoch: int = 0
    next_batch: int = 0
    loss_sum: float = 0.0  # of this epoch's batches so far
    best_mae: float = float("inf")
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)


class GraphTrainer:
    """Trains one RGCN; `run` returns the metrics of its best epoch."""

    def __init__(
        self,
        config: GraphConfig,
        sampling: SamplerConfig,
        store: Store,
        splits: Splits,
        folder: Path,
        *,
        seed: int,
        key: str = "",
        device: torch.device | None = None,
        engine: SamplingEngine | None = None,
    ) -> None:
        self.config, self.store, self.splits, self.folder, self.seed = config, store, splits, folder, seed
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.device = device or torch.device("cpu")
        self.key = key  # of the stage's inputs: a checkpoint of other inputs is not one of this training
        self.tables = FeatureTables(store, self.device)
        seed_torch(seed, "rgcn")
        shape = RGCNShape.of(store, config.hidden, config.scalar_bins)
        self.model = RGCN(shape, config.dropout, config.feature_dropout)
        self.model.to(self.device)
        self.model.fit_scalars(self.tables, splits.train)
        self.best: dict[str, torch.Tensor] = {}
        self.state = _State()
        self.loader = NeighborLoader(
            store,
            splits.train,
            batch_size=config.batch_size,
            fanout=sampling.fanout,
            hops=self.model.shape.num_layers,
            seed=seed,
            rank=self.rank,
            world_size=self.world_size,
            engine=engine,
        )
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.progress = Progress(folder if self.rank == 0 else None)

    def run(self) -> dict[str, Any]:
        self._resume()
        config, state, num = self.config, self.state, len(self.loader)
        while state.epoch < config.epochs and state.epoch - state.best_epoch <= config.patience:
            self.loader.load_state_dict({"epoch": state.epoch, "next_batch": state.next_batch})
            for batch in self.loader:
                step = state.epoch * num + state.next_batch
                state.loss_sum += self._step(batch, step)
                state.next_batch += 1
                shown = {"loss": state.loss_sum / state.next_batch, "val_mae": state.best_mae}
                self.progress.update(step + 1, config.epochs * num, "step", **shown)
                if (step + 1) % config.checkpoint_steps == 0 and state.next_batch < num:
                    self._save()
            self._end_epoch()
        done = state.epoch * num  # early stopping: what was planned behind it is not to come
        self.progress.update(done, done, "step", val_mae=state.best_mae)
        if self.rank == 0:
            shape = {"hidden": config.hidden, "scalar_bins": config.scalar_bins}
            checkpoint.save(self.folder / MODEL, self.best, shape)
        distributed.barrier()
        best = state.history[state.best_epoch]
        return {"best": best, "epochs": state.epoch, "history": state.history}

    def _step(self, batch: Any, step: int) -> float:
        """One optimiser step; returns the mean loss over the global batch."""
        config = self.config
        seed_torch(self.seed, "dropout", step, self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.lr, step, config.epochs * len(self.loader))
        seeds = batch.nodes[self.model.target][: batch.num_seeds]
        levels = torch.from_numpy(np.asarray(self.store.labels)[seeds].astype(np.float32)).to(self.device)
        num_global = len(self.loader.global_seeds(self.state.epoch, self.state.next_batch))
        self.model.train()
        scores, _ = self.model(batch, self.tables)
        loss = F.smooth_l1_loss(scores, levels, reduction="sum", beta=config.beta) / num_global
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # every relation and type takes part in every batch: no gradient is missing
        distributed.sum_gradients(self.model.parameters())
        nn.utils.clip_grad_norm_(self.model.parameters(), config.clip)
        self.optimizer.step()
        mean = float(distributed.sum_across_ranks(loss.detach().clone()))
        return require_finite(mean, f"loss of step {step}", "graph")

    def _end_epoch(self) -> None:
        state = self.state
        # One rank evaluates: the weights are the same everywhere
        metrics = distributed.broadcast_object(self._validate() if self.rank == 0 else None)
        state.history.append({"epoch": state.epoch, "loss": state.loss_sum / len(self.loader), **metrics})
        require_finite(metrics["val_mae"], "validation MAE", "graph")
        if metrics["val_mae"] < state.best_mae:
            state.best_mae, state.best_epoch = metrics["val_mae"], state.epoch
            self.best = {name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()}
        state.epoch, state.next_batch, state.loss_sum = state.epoch + 1, 0, 0.0
        self._save()

    def _validate(self) -> dict[str, float]:
        """Metrics of the validation split under exact inference."""
        _, scores = embed(self.model, self.store, self.device)
        val = self.splits.val
        found = rating_metrics(scores[val], np.asarray(self.store.labels)[val])
        return {f"val_{name}": found[name] for name in ("acc", "mse", "mae")}

    def _save(self) -> None:
        if self.rank != 0:
            return
        tensors = checkpoint.with_prefix("model.", self.model.state_dict())
        tensors |= checkpoint.with_prefix("best.", self.best)
        tensors |= checkpoint.with_prefix("optimizer.", checkpoint.optimizer_tensors(self.optimizer))
        checkpoint.save(self.folder / CHECKPOINT, tensors, {"key": self.key, "state": self.state.__dict__})

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT
        found = checkpoint.load(path) if path.exists() else None
        # Rank 0 decides for all: a process of a killed run may still replace the file
        position = distributed.broadcast_object(found and [found[1]["key"], found[1]["state"]])
        if position and position[0] == self.key:
            if not found or [found[1]["key"], found[1]["state"]] != position:
                raise RuntimeError(f"{path}: changed while it was read; start again")
            tensors, meta = found
            self.model.load_state_dict(checkpoint.strip_prefix("model.", tensors))
            self.best = checkpoint.strip_prefix("best.", tensors)
            checkpoint.load_optimizer_tensors(self.optimizer, checkpoint.strip_prefix("optimizer.", tensors))
            self.state = _State(**meta["state"])
        distributed.barrier()  # nobody writes the next checkpoint before all have read this one


def cache_digests(folder: Path, store: Store) -> dict[str, str]:
    """What an embedding cache is of: the store's digest and that of the stage-1 folder's weights."""
    return {"store": store.digest, "checkpoint": file_digest(folder / MODEL)}


def load_model(folder: Path, store: Store, device: torch.device) -> RGCN:
    """The trained model of a stage-1 folder, in evaluation mode."""
    tensors, meta = checkpoint.load(folder / MODEL)
    model = RGCN(RGCNShape.of(store, meta["hidden"], meta["scalar_bins"]))
    model.load_state_dict(tensors)
    return model.to(device).eval()
