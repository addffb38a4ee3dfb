"""Stage 1: pretraining of a graph encoder on the levels of the train split.

Runs in one process, or in each of several under a torch process group. It resumes from its last
checkpoint at the exact batch: randomness is a function of (seed, step, rank), so nothing but
weights, optimiser state and position is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from netgpt.graphstore import Store
from netgpt.graphstore.files import write_json
from netgpt.sampler import NeighborLoader, SamplingEngine, SamplingOptions
from netgpt.trainers import checkpoint, distributed
from netgpt.trainers.config import EvaluationConfig, GraphConfig, SamplerConfig
from netgpt.trainers.errors import TrainerError, require, require_finite
from netgpt.trainers.evaluate import evaluation_parts, grouped_metrics
from netgpt.trainers.graph.ablation import Ablation
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.model import NUM_LAYERS, Degrees, GraphModel, ModelShape
from netgpt.trainers.graph.steps import SampledSteps, Step, Steps, WholeSteps
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.progress import Progress
from netgpt.trainers.schedule import learning_rate, seed_torch
from netgpt.trainers.splits import Splits

MODEL, CHECKPOINT, SAMPLED = "model.safetensors", "checkpoint.safetensors", "sampled.safetensors"
BAD_BATCH = "bad_batch.json"
TENSORBOARD = "tensorboard"
SHOWN_IDS = 5


@dataclass
class _State:
    """Where training is; all that a checkpoint holds besides tensors."""

    epoch: int = 0
    next_batch: int = 0
    loss_sum: float = 0.0  # of this epoch's batches so far
    best_mae: float = float("inf")  # of the epoch whose weights are kept
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)


class GraphTrainer:
    """Trains one model; `run` returns the metrics of its best epoch."""

    def __init__(
        self,
        config: GraphConfig,
        sampling: SamplerConfig,
        store: Store,
        splits: Splits,
        folder: Path,
        *,
        seed: int,
        evaluation: EvaluationConfig | None = None,
        key: str = "",
        device: torch.device | None = None,
        engine: SamplingEngine | None = None,
    ) -> None:
        self.config, self.store, self.splits, self.folder, self.seed = config, store, splits, folder, seed
        self.evaluation = evaluation or EvaluationConfig()
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.device = device or torch.device("cpu")
        self.key = key  # of the stage's inputs: a checkpoint of other inputs is not one of this training
        ablation = Ablation.of(store, config.ablation)
        self.sampling = sampling_options(store, config, sampling, seed)
        for name in config.keep_features:
            known = store.node_types
            require(name in known, "graph.keep_features", name, f"one of {', '.join(known)}")
        seed_torch(seed, "rgcn")
        shape = ModelShape.of(
            store,
            hidden=config.hidden,
            without=ablation.relations,
            hidden_types=tuple(sorted(ablation.features)),
            encoder=config.encoder,
            heads=config.heads,
            num_bases=config.num_bases,
            scalar_bins=config.scalar_bins,
            thresholds=config.thresholds,
        )
        self.tables = FeatureTables(
            store,
            self.device,
            max_bytes=int(config.tables_gb * 1e9),
            node_types=shape.node_types,
            hidden_types=ablation.features,
        )
        self.model = GraphModel(shape, config.dropout, config.feature_dropout, config.keep_features)
        self.model.to(self.device)
        self.model.fit_scalars(self.tables, splits.train)
        self.best: dict[str, Tensor] = {}
        self.state = _State()
        degrees = Degrees(store, shape.edge_types, self.device) if self.model.uses_degrees else None
        self.sampled = SampledSteps(
            self.model,
            self.tables,
            NeighborLoader(
                store,
                splits.train,
                batch_size=config.batch_size,
                rank=self.rank,
                world_size=self.world_size,
                engine=engine,
                **vars(self.sampling),
            ),
            degrees,
        )
        self.steps: Steps = self.sampled
        if config.neighbors == "all":
            require(
                self.world_size == 1, "graph.neighbors", "all", "sampled, where there are several workers"
            )
            self.steps = WholeSteps(self.model, self.tables, splits.train)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.progress = Progress(folder if self.rank == 0 else None)

    @property
    def _precision(self) -> torch.dtype:
        wanted = self.config.precision
        on = wanted == "bfloat16" or (wanted == "auto" and self.device.type == "cuda")
        return torch.bfloat16 if on else torch.float32

    def run(self) -> dict[str, Any]:
        self._resume()
        state, num = self.state, len(self.steps)
        for left in (BAD_BATCH, SAMPLED):
            (self.folder / left).unlink(missing_ok=True)
        writer = None
        if self.rank == 0:  # what a killed run wrote behind its checkpoint is written again
            at = state.epoch * num + state.next_batch
            writer = SummaryWriter(str(self.folder / TENSORBOARD), purge_step=at)
        try:
            self._train(writer)
        finally:
            if writer:
                writer.close()
        done = state.epoch * num  # early stopping: what was planned behind it is not to come
        self.progress.update(done, done, "step", val_mae=state.best_mae)
        if self.rank == 0:
            save_model(self.folder, self.model, self.best, self.store)
        distributed.barrier()
        best = state.history[state.best_epoch]
        return {"best": best, "epochs": state.epoch, "history": state.history, **self._evaluate()}

    def _train(self, writer: SummaryWriter | None) -> None:
        """Epochs up to the last, or until no better one comes."""
        config, state, num = self.config, self.state, len(self.steps)
        while state.epoch < config.epochs and state.epoch - state.best_epoch <= config.patience:
            for one in self.steps.stream(state.epoch, state.next_batch):
                number = state.epoch * num + state.next_batch
                loss = self._step(one, number)
                state.loss_sum += loss
                state.next_batch += 1
                shown = {"loss": state.loss_sum / state.next_batch, "val_mae": state.best_mae}
                self.progress.update(number + 1, config.epochs * num, "step", **shown)
                if writer:
                    writer.add_scalar("train/loss", loss, number)
                    writer.add_scalar("train/lr", self.optimizer.param_groups[0]["lr"], number)
                if (number + 1) % config.checkpoint_steps == 0 and state.next_batch < num:
                    self._save()
            self._end_epoch(writer)

    def _step(self, one: Step, number: int) -> float:
        """One optimiser step; returns the mean loss over the global batch."""
        config = self.config
        seed_torch(self.seed, "dropout", number, self.rank)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(config.lr, number, config.epochs * len(self.steps))
        levels = torch.from_numpy(np.asarray(self.store.labels)[one.seeds].astype(np.float32)).to(self.device)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._precision == torch.bfloat16):
            scores = one.forward()
        loss = F.smooth_l1_loss(scores, levels, reduction="sum", beta=config.beta) / len(one.global_seeds)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # every relation and type takes part in every batch: no gradient is missing
        distributed.sum_gradients(self.model.parameters())
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip))
        mean = float(distributed.sum_across_ranks(loss.detach().clone()))
        # Before the weights change: all ranks see the same two numbers
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise self._not_finite(mean, norm, one, number)
        self.optimizer.step()
        return mean

    def _not_finite(self, loss: float, norm: float, one: Step, number: int) -> TrainerError:
        """Says which batch it was; all its ids are in a file, and the last checkpoint stays."""
        ids = [self.store.ids[v] for v in one.global_seeds.tolist()]
        path = self.folder / BAD_BATCH
        if self.rank == 0:
            write_json(path, {"step": number, "loss": str(loss), "gradient_norm": str(norm), "ids": ids})
        shown = ", ".join(ids[:SHOWN_IDS]) + (", …" if len(ids) > SHOWN_IDS else "")
        return TrainerError(
            f"loss of step {number} (epoch {self.state.epoch}, batch {self.state.next_batch}): found {loss}, "
            f"gradient norm {norm}, expected finite numbers; its {len(ids)} ids: {shown} (all in {path}); "
            "lower graph.lr or graph.clip"
        )

    def _end_epoch(self, writer: SummaryWriter | None) -> None:
        state = self.state
        # One rank evaluates: the weights are the same everywhere
        metrics = distributed.broadcast_object(self._validate() if self.rank == 0 else None)
        loss = state.loss_sum / len(self.steps)
        state.history.append({"epoch": state.epoch, "loss": loss, **metrics})
        require_finite(metrics["val_mae"], "validation MAE", "graph")
        if writer:
            for name in ("acc", "mse", "mae"):
                step = (state.epoch + 1) * len(self.steps) - 1
                writer.add_scalar(f"val/{name}", metrics[f"val_{name}"], step)
        if self.config.select == "last" or metrics["val_mae"] < state.best_mae:
            state.best_mae, state.best_epoch = metrics["val_mae"], state.epoch
            self.best = {name: t.detach().cpu().clone() for name, t in self.model.state_dict().items()}
        state.epoch, state.next_batch, state.loss_sum = state.epoch + 1, 0, 0.0
        self._save()

    def _scores(self) -> np.ndarray:
        """Of all target nodes, under exact inference: [N]."""
        memory_bytes = self.config.inference_bytes
        return embed(self.model, self.tables, memory_bytes=memory_bytes, scratch=self.folder)[1]

    def _metrics(self, ids: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
        return grouped_metrics(self.store, ids, scores, self.evaluation.period_days)

    def _validate(self) -> dict[str, Any]:
        """Metrics of the validation split: overall, by platform and by observation period."""
        val = self.splits.val
        found = self._metrics(val, self._scores()[val])
        return {f"val_{name}": value for name, value in found.items() if name != "num"}

    def _evaluate(self) -> dict[str, Any]:
        """The best weights under exact inference; and scores of val and test over sampled neighbours, as in
        training, in a file."""
        if self.best:
            self.model.load_state_dict(self.best)
        if self.config.neighbors == "sampled":
            sampled = self._sampled_scores()  # by all ranks
            if self.rank == 0:
                checkpoint.save(self.folder / SAMPLED, {"score": torch.from_numpy(sampled)}, {})
        if self.rank != 0:
            return {}
        exact, parts = self._scores(), evaluation_parts(self.store, self.splits)
        return {"exact": {name: self._metrics(ids, exact[ids]) for name, ids in parts.items()}}

    @torch.no_grad()
    def _sampled_scores(self) -> np.ndarray:
        """Of the val and test nodes over a sample of their neighbours, each rank a part: [N]."""
        self.model.eval()
        ids = np.concatenate([self.splits.val, self.splits.test])
        mine = np.array_split(ids, self.world_size)[self.rank]
        loader = NeighborLoader(
            self.store, mine, batch_size=self.config.batch_size, shuffle=False, **vars(self.sampling)
        )
        found = torch.zeros(self.store.num_nodes[self.model.target], device=self.device)
        for one in SampledSteps(self.model, self.tables, loader, self.sampled.degrees).stream(0, 0):
            found[torch.from_numpy(one.seeds).to(self.device)] = one.forward().float()
        return distributed.sum_across_ranks(found).cpu().numpy()

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


def sampling_options(
    store: Store, config: GraphConfig, sampling: SamplerConfig, seed: int
) -> SamplingOptions:
    """What stage 1 samples: for whoever does it."""
    without = Ablation.of(store, config.ablation).relations
    return SamplingOptions(fanout=sampling.fanout, hops=NUM_LAYERS, exclude=sorted(without), seed=seed)


def sampled_scores(folder: Path) -> np.ndarray | None:
    """Scores over sampled neighbours that a finished stage 1 left: [N], of val and test nodes; or None."""
    path = folder / SAMPLED
    return checkpoint.load(path)[0]["score"].double().numpy() if path.exists() else None


def save_model(folder: Path, model: GraphModel, weights: dict[str, Tensor], store: Store) -> None:
    """Write the trained model: weights, shape, and the digest of the store that it was trained on."""
    meta = {"shape": model.shape.to_dict(), "store": store.digest}
    checkpoint.save(folder / MODEL, weights, meta)


def load_model(folder: Path, store: Store, device: torch.device) -> GraphModel:
    """The trained model of a stage-1 folder, for evaluation. TrainerError where it is of another store."""
    path = folder / MODEL
    tensors, meta = checkpoint.load(path)
    if meta.get("store") != store.digest:
        found = str(meta.get("store"))[:12]
        raise TrainerError(
            f"{path}: found a model of the store {found}, expected {store.digest[:12]} ({store.path}); "
            "run again: netgpt pretrain"
        )
    model = GraphModel(ModelShape.from_dict(meta["shape"]))
    model.load_state_dict(tensors)
    return model.to(device).eval()
