"""Stage 1's steps: pretraining of a graph encoder on the labels of the train examples.

A `Steps` of the training loop: sampled mini-batches, or one exact step an epoch over the whole graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import Store
from netgpt.graphstore.files import Json, write_json
from netgpt.sampler import NeighborLoader, SamplingEngine, SamplingOptions
from netgpt.trainers import distributed, weights
from netgpt.trainers.engine import AdamWEngine
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.model import Degrees, GraphModel
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.steps import GraphStep, GraphSteps, SampledSteps, WholeSteps
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.without import Without
from netgpt.trainers.loop import Loop, LoopConfig, StepResult
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.settings import Settings
from netgpt.trainers.tasks.base import Examples, Task
from netgpt.trainers.tasks.baselines import Measures
from netgpt.trainers.tasks.evaluate import Judge
from netgpt.trainers.tasks.heads import ScaledHead

MODEL, SAMPLED = "model.safetensors", "sampled.safetensors"
BAD_BATCH = "bad_batch.json"
SHOWN_IDS = 5


class GraphTrainer:
    """Trains one model; `run` returns the metrics of its best epoch."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        task: Task,
        folder: Path,
        *,
        examples: Examples | None = None,
        key: str = "",
        device: torch.device | None = None,
        engine: SamplingEngine | None = None,
    ) -> None:
        """examples: by default the task's. key: of the stage's inputs. engine: who samples; by default this
        process."""
        self.settings, self.store, self.task, self.folder = settings, store, task, folder
        self.config, self.seed = settings.graph, settings.seed
        self.examples = examples or task.examples(store)
        self.judging = Judge(store, task, self.examples, settings.evaluation)
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.device = device or torch.device("cpu")
        self.sampling = sampling_options(store, settings)
        self.model, self.tables = self._model()
        config = self.config
        self.sampled = SampledSteps(self.model, self.tables, self._loader(engine), self._degrees)
        self.steps: GraphSteps = self.sampled
        if config.neighbors == "all":
            require(
                self.world_size == 1, "graph.neighbors", "all", "sampled, where there are several workers"
            )
            self.steps = WholeSteps(self.model, self.tables, self.examples.train)
        self.optimizer = AdamWEngine(
            self.model, lr=config.lr, weight_decay=config.weight_decay, clip=config.clip
        )
        how = LoopConfig(
            section="graph",
            lr=config.lr,
            chooses=task.chooses,
            select=config.select,
            patience=config.patience,
            checkpoint_steps=config.checkpoint_steps,
            shows_best=True,
        )
        self.loop = Loop(self, self.optimizer, how, folder, key=key)

    def _model(self) -> tuple[GraphModel, FeatureTables]:
        """A model with fresh weights, a function of the seed, and the features that it reads."""
        config, store = self.config, self.store
        without = Without.of(store.schema, self.settings.without, self.settings.ablation)
        for name in config.keep_features:
            known = store.node_types
            require(name in known, "graph.keep_features", name, f"one of {', '.join(known)}")
        seed_torch(self.seed, "rgcn")
        shape = ModelShape.configured(store.schema, store.feature_dims, store.num_nodes, config, without)
        tables = FeatureTables.of(store, self.device, shape, max_bytes=int(config.tables_gb * 1e9))
        model = GraphModel(
            shape, self.task.head, config.dropout, config.feature_dropout, config.keep_features
        )
        model.to(self.device)
        model.fit_scalars(tables, self.examples.train)
        if isinstance(model.predictor, ScaledHead):
            truth = self.examples.truth[self.examples.train].astype(np.float32)
            model.predictor.fit(torch.from_numpy(truth).to(self.device))
        return model, tables

    @cached_property
    def _degrees(self) -> Degrees | None:
        return Degrees(self.store, self.model.shape, self.device) if self.model.uses_degrees else None

    def _loader(self, engine: SamplingEngine | None) -> NeighborLoader:
        return NeighborLoader(
            self.store,
            self.examples.train,
            batch_size=self.config.batch_size,
            rank=self.rank,
            world_size=self.world_size,
            engine=engine,
            **vars(self.sampling),
        )

    @property
    def precision(self) -> torch.dtype:
        wanted = self.config.precision
        on = wanted == "bfloat16" or (wanted == "auto" and self.device.type == "cuda")
        return torch.bfloat16 if on else torch.float32

    def run(self) -> Json:
        for left in (BAD_BATCH, SAMPLED):
            (self.folder / left).unlink(missing_ok=True)
        self.loop.run()
        state = self.loop.state
        if self.rank == 0:
            save_model(self.folder, self.model, self.loop.best, self.store)
        distributed.barrier()
        best = state.history[state.best_epoch]
        return {"best": best, "epochs": len(state.history), "history": state.history, **self._evaluate()}

    def lengths(self) -> list[int]:
        return [len(self.steps)] * self.config.epochs

    def stream(self, epoch: int, first: int) -> Iterator[GraphStep]:
        return self.steps.stream(epoch, first)

    def train(self, step: GraphStep, number: int) -> StepResult:
        """One optimiser step; the mean loss over the global batch."""
        seed_torch(self.seed, "dropout", number, self.rank)
        truth = self.examples.truth[step.seeds].astype(np.float32)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
            scores = step.forward()
        total = self.task.loss(scores, torch.from_numpy(truth).to(self.device), self.config.beta)
        count = len(step.global_seeds)
        self.optimizer.backward(total, count)  # every relation and type takes part: no gradient is missing
        mean = float(distributed.sum_across_ranks(total.detach() / count))

        def check(norm: float) -> None:
            # Before the weights change: all ranks see the same two numbers
            if not (math.isfinite(mean) and math.isfinite(norm)):
                raise self._not_finite(mean, norm, step, number)

        self.optimizer.step(check)
        return StepResult(mean)

    def _not_finite(self, loss: float, norm: float, step: GraphStep, number: int) -> TrainerError:
        """Says which batch it was; all its ids are in a file, and the last checkpoint stays."""
        names = self.store.node_names(self.examples.node_type)
        ids = [names[v] for v in step.global_seeds.tolist()]
        path = self.folder / BAD_BATCH
        if self.rank == 0:
            write_json(path, {"step": number, "loss": str(loss), "gradient_norm": str(norm), "ids": ids})
        shown = ", ".join(ids[:SHOWN_IDS]) + (", …" if len(ids) > SHOWN_IDS else "")
        epoch, batch = divmod(number, len(self.steps))
        return TrainerError(
            f"loss of step {number} (epoch {epoch}, batch {batch}): found {loss}, gradient norm {norm}, "
            f"expected finite numbers; its {len(ids)} ids: {shown} (all in {path}); "
            "lower graph.lr or graph.clip"
        )

    def judge(self) -> Measures:
        """Metrics of the validation part under exact inference, by each group too."""
        # One rank evaluates: the weights are the same everywhere
        metrics: Measures = distributed.broadcast_object(self._judged() if self.rank == 0 else None)
        return metrics

    def _judged(self) -> Measures:
        val = self.examples.val
        metrics = self.judging.metrics(val, self._scores()[val])
        return {f"val_{name}": value for name, value in metrics.items() if name != "num"}

    def _scores(self) -> np.ndarray:
        """Scores of all target nodes, under exact inference: [N], or [N, width]."""
        memory_bytes = self.config.inference_bytes
        return embed(self.model, self.tables, memory_bytes=memory_bytes, scratch=self.folder)[1]

    def _evaluate(self) -> Measures:
        """The best weights under exact inference; and scores of val and test over sampled neighbours, as in
        training, in a file."""
        if self.loop.best:
            self.model.load_state_dict(self.loop.best)
        if self.config.neighbors == "sampled":
            sampled = self._sampled_scores()  # by all ranks
            if self.rank == 0:
                weights.save(self.folder / SAMPLED, {"score": torch.from_numpy(sampled)}, {})
        if self.rank != 0:
            return {}
        exact = self._scores()
        parts = self.judging.parts()
        return {"exact": {name: self.judging.metrics(ids, exact[ids]) for name, ids in parts.items()}}

    @torch.no_grad()
    def _sampled_scores(self) -> np.ndarray:
        """Scores of the val and test nodes over a sample of their neighbours, a part a rank: [N]."""
        self.model.eval()
        ids = np.concatenate([self.examples.val, self.examples.test])
        mine = np.array_split(ids, self.world_size)[self.rank]
        loader = NeighborLoader(
            self.store, mine, batch_size=self.config.batch_size, shuffle=False, **vars(self.sampling)
        )
        num, width = self.store.num_nodes[self.model.target], self.task.width
        scores = torch.zeros((num, width) if width > 1 else num, device=self.device)
        for step in SampledSteps(self.model, self.tables, loader, self._degrees).stream(0, 0):
            scores[torch.from_numpy(step.seeds).to(self.device)] = step.forward().float()
        return distributed.sum_across_ranks(scores).cpu().numpy()


def sampling_options(store: Store, settings: Settings) -> SamplingOptions:
    """What stage 1 samples: for whoever does it."""
    without = Without.of(store.schema, settings.without, settings.ablation).relations
    return SamplingOptions(
        fanout=settings.sampler.fanout,
        hops=settings.graph.layers,
        exclude=sorted(without),
        seed=settings.seed,
    )


def sampled_scores(folder: Path) -> np.ndarray | None:
    """Scores over sampled neighbours that a finished stage 1 left: [N], of val and test nodes; or None."""
    path = folder / SAMPLED
    return weights.load(path)[0]["score"].double().numpy() if path.exists() else None


def save_model(folder: Path, model: GraphModel, best: dict[str, Tensor], store: Store) -> None:
    """Write the trained model: weights, shape, and the digest of the store that it was trained on."""
    meta = {"shape": model.shape.to_dict(), "store": store.digest}
    weights.save(folder / MODEL, best, meta)


def load_model(folder: Path, store: Store, task: Task, device: torch.device) -> GraphModel:
    """The trained model of a stage-1 folder, for evaluation. TrainerError where it is of another store."""
    path = folder / MODEL
    tensors, meta = weights.load(path)
    if meta.get("store") != store.digest:
        found = str(meta.get("store"))[:12]
        raise TrainerError(
            f"{path}: found a model of the store {found}, expected {store.digest[:12]} ({store.path}); "
            "run again: netgpt pretrain"
        )
    model = GraphModel(ModelShape.from_dict(meta["shape"]), task.head)
    model.load_state_dict(tensors)
    return model.to(device).eval()
