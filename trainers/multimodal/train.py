"""Training of a model of modalities: steps over train examples, validation on the whole part, scores of all
nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import Store
from netgpt.graphstore.files import Json
from netgpt.graphstore.mixing import seed_of
from netgpt.trainers import distributed, weights
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.engine import AdamWEngine
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.loop import Loop, LoopConfig, StepResult
from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.names import model_class
from netgpt.trainers.multimodal.rows import ModalRows
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.tasks.base import Examples, Task
from netgpt.trainers.tasks.baselines import Measures, ridge_of_others
from netgpt.trainers.tasks.evaluate import Judge

MODEL, SCORES = "model.safetensors", "scores.safetensors"
AT_ONCE = 1024
"""Nodes that are scored together, where nothing is learnt."""


class MultimodalTrainer:
    """Trains a model to its end, in one process or in each of several; a kind of `Steps` of the loop."""

    def __init__(
        self,
        config: MultimodalConfig,
        seed: int,
        store: Store,
        task: Task,
        evaluation: EvaluationConfig,
        folder: Path,
        *,
        key: str = "",
        device: torch.device | None = None,
    ) -> None:
        """key: of the stage's inputs."""
        self.config, self.seed, self.store, self.task, self.folder = config, seed, store, task, folder
        self.device = device or torch.device("cpu")
        self.examples = task.examples(store)
        self.judging = Judge(store, task, self.examples, evaluation)
        kind = model_class(config.model)
        self.offset = offset_of(store, config, task, self.examples)
        self.left = replace(self.examples, truth=self.examples.truth - self.offset)
        """The examples with what is left of their labels."""
        self.rows = ModalRows(store, config, self.left, near=kind.reads(config))
        seed_torch(seed, "multimodal")
        self.model = kind(self.rows.shape(task.width), config).to(self.device)
        start = task.start(self.left.truth[self.left.train])
        self.model.start(torch.as_tensor(start, dtype=torch.float32))
        self.optimizer = AdamWEngine(
            self.model, lr=config.lr, weight_decay=config.weight_decay, clip=config.clip
        )
        larger = next(m.larger_is_better for m in task.metrics if m.name == task.chooses)
        how = LoopConfig(
            section="multimodal",
            lr=config.lr,
            chooses=task.chooses,
            larger_is_better=larger,
            select=config.select,
            patience=config.patience,
            checkpoint_steps=config.checkpoint_steps,
            shows_best=True,
            warmup=0.0,
            decays=False,
        )
        self.loop = Loop(self, self.optimizer, how, folder, key=key)

    def run(self) -> Json:
        self.loop.run()
        state = self.loop.state
        self.model.load_state_dict(distributed.broadcast_object(self.loop.best))
        scores = self._scores(np.arange(self.store.num_nodes[self.examples.node_type]))
        if distributed.rank() == 0:
            meta = {"store": self.store.digest, "model": self.config.model}
            weights.save(self.folder / MODEL, self.loop.best, meta)
            weights.save(self.folder / SCORES, {"score": torch.from_numpy(scores)}, meta)
        distributed.barrier()
        best = state.history[state.best_epoch]
        return {"best": best, "epochs": len(state.history), "history": state.history}

    def lengths(self) -> list[int]:
        return [-(-len(self.examples.train) // self.config.batch_size)] * self.config.epochs

    def stream(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """Node numbers of each step, of all workers together: a function of (seed, epoch)."""
        rng = np.random.default_rng(seed_of("multimodal", self.seed, epoch))
        order, size = rng.permutation(self.examples.train), self.config.batch_size
        for begin in range(first * size, len(order), size):
            yield order[begin : begin + size]

    def train(self, step: np.ndarray, number: int) -> StepResult:
        """One optimiser step; the mean loss over all workers' examples."""
        rank, world_size = distributed.rank(), distributed.world_size()
        seed_torch(self.seed, "dropout", number, rank)
        self.model.train()
        mine = step[rank::world_size]
        total = self._loss(mine) if len(mine) else self._nothing()
        self.optimizer.backward(total, len(step))
        mean = float(distributed.sum_across_ranks(total.detach() / len(step)))

        def check(norm: float) -> None:
            if not (math.isfinite(mean) and math.isfinite(norm)):
                raise TrainerError(
                    f"loss of step {number}: found {mean}, gradient norm {norm}, expected finite numbers; "
                    "lower multimodal.lr or multimodal.clip"
                )

        self.optimizer.step(check)
        return StepResult(mean)

    def _loss(self, nodes: np.ndarray) -> Tensor:
        """Summed over nodes: of a number the squared error, else the task's."""
        truth = torch.from_numpy(self.left.truth[nodes].astype(np.float32)).to(self.device)
        scores = self.model(self.rows.batch(nodes, self.device))
        own = ((scores - truth) ** 2).sum() if self.task.width == 1 else self.task.loss(scores, truth, 1.0)
        total = self.model.mse_share * own
        extra = self.model.extra()
        return total if extra is None else total + extra

    def _nothing(self) -> Tensor:
        """A loss of 0 that every weight takes part in: for a worker without an example in a last step."""
        return torch.stack([0.0 * p.sum() for p in self.model.parameters()]).sum()

    def judge(self) -> Measures:
        """Metrics of the validation part; one rank judges, the weights are the same everywhere."""
        metrics: Measures = distributed.broadcast_object(self._judged() if distributed.rank() == 0 else None)
        return metrics

    def _judged(self) -> Measures:
        val = self.examples.val
        metrics = self.judging.metrics(val, self._scores(val))
        return {f"val_{name}": value for name, value in metrics.items() if name != "num"}

    @torch.no_grad()
    def _scores(self, nodes: np.ndarray) -> np.ndarray:
        """Scores of some nodes: [n] or [n, width] float32."""
        self.model.eval()
        parts = [
            self.model(self.rows.batch(nodes[begin : begin + AT_ONCE], self.device)).float().cpu().numpy()
            for begin in range(0, len(nodes), AT_ONCE)
        ]
        scores = np.concatenate(parts)
        return scores + self.offset[nodes].astype(np.float32) if self.config.over else scores


def offset_of(store: Store, config: MultimodalConfig, task: Task, examples: Examples) -> np.ndarray:
    """What the model's scores are added to: [N] float64, zeros where it learns all of the label. TrainerError
    for texts that there are not."""
    if not config.over:
        return np.zeros(len(examples.truth))
    require(task.width == 1, "multimodal.over", config.over, "nothing, as the task's scores are no numbers")
    found = distributed.broadcast_object(
        ridge_of_others(store, examples.truth, examples.train) if distributed.rank() == 0 else None
    )
    require(found is not None, "multimodal.over", config.over, "nothing, as the target has too few texts")
    return np.asarray(found, np.float64)


def load_scores(folder: Path, store: Store) -> np.ndarray:
    """Scores of all nodes of the target that a finished stage left: [N] or [N, width] float64. TrainerError
    where they are of another store."""
    return weights.load_of(folder / SCORES, store.digest, "scores")["score"].double().numpy()
