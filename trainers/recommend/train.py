"""Training of a recommender: steps over triples, validation by full ranking, and its vectors at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import Store
from netgpt.graphstore.files import Json
from netgpt.sampler import SamplingEngine
from netgpt.trainers import distributed, weights
from netgpt.trainers.engine import AdamWEngine
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.loop import Loop, LoopConfig, StepResult
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.judge import measured
from netgpt.trainers.recommend.models.names import model_class
from netgpt.trainers.recommend.ranking import ScoresOf, full_ranking
from netgpt.trainers.recommend.sampled import SampledLoader, SampledStep
from netgpt.trainers.recommend.triples import TripleLoader, Triples
from netgpt.trainers.schedule import seed_torch
from netgpt.trainers.tasks.ranking import RankingConfig

MODEL, VECTORS = "model.safetensors", "vectors.safetensors"


class RecommenderTrainer:
    """Trains a model to its end, in one process or in each of several; a kind of `Steps` of the loop."""

    def __init__(
        self,
        config: RecommenderConfig,
        seed: int,
        store: Store,
        task: RankingConfig,
        folder: Path,
        *,
        key: str = "",
        device: torch.device | None = None,
        engine: SamplingEngine | None = None,
    ) -> None:
        """key: of the stage's inputs. engine: who samples; by default this process. TrainerError for a store
        without held pairs, or without validation."""
        self.config, self.seed, self.store, self.folder = config, seed, store, folder
        self.device = device or torch.device("cpu")
        self.data = Interactions.of(store)
        require(len(self.data.val) > 0, "validation", "no pair", "some, to choose an epoch by")
        self.k, self.val = task.k, measured(self.data.val, task.max_users)
        seed_torch(seed, "recommender")
        self.model = model_class(config.model)(self.data, config).to(self.device)
        place = {"rank": distributed.rank(), "world_size": distributed.world_size()}
        self.loader: TripleLoader | SampledLoader
        if config.neighbors == "sampled":
            self.loader = SampledLoader(self.data, config, seed, device=self.device, engine=engine, **place)
        else:
            self.loader = TripleLoader(
                self.data.train,
                batch_size=config.batch_size,
                seed=seed,
                negatives=config.negatives,  # type: ignore[arg-type]  # checked by the settings
                times=self.data.times if config.negatives == "earlier" else None,
                by_user=self.model.by_user,
                device=self.device,
                **place,
            )
        require(self.loader.num_usable > 0, "train", "no pair that has a negative", "some")
        self.engine = AdamWEngine(self.model, lr=config.lr, weight_decay=0.0, clip=config.clip)
        how = LoopConfig(
            section="recommender",
            lr=config.lr,
            chooses=f"ndcg@{task.k}",
            larger_is_better=True,
            patience=config.patience,
            checkpoint_steps=config.checkpoint_steps,
            shows_best=True,
            warmup=config.warmup,
            decays=False,
        )
        self.loop = Loop(self, self.engine, how, folder, key=key)

    def run(self) -> Json:
        """The stage's metrics; rank 0 leaves the model and its vectors."""
        self.loop.run()
        state = self.loop.state
        if distributed.rank() == 0:
            self.model.load_state_dict(self.loop.best)
            weights.save(self.folder / MODEL, self.loop.best, {"store": self.store.digest})
            users, items = self._vectors()
            weights.save(
                self.folder / VECTORS, {"users": users, "items": items}, {"store": self.store.digest}
            )
        distributed.barrier()
        best = state.history[state.best_epoch]
        skipped = {"skipped_pairs": self.loader.num_skipped} if self.loader.num_skipped else {}
        return {"best": best, "epochs": len(state.history), "history": state.history, **skipped}

    def lengths(self) -> list[int]:
        return [len(self.loader)] * self.config.epochs

    def stream(self, epoch: int, first: int) -> Iterator[Triples | SampledStep]:
        return self.loader.stream(epoch, first)

    def train(self, step: Triples | SampledStep, number: int) -> StepResult:
        # The same on every rank, where a model's dropout is of nodes that all ranks share
        seed_torch(self.seed, "dropout", number)
        self.model.train()
        count = max(1, len(step))
        total = self.model.loss(step) if isinstance(step, Triples) else self.model.sampled_loss(step)
        self.engine.backward(total, count)
        mean = float(distributed.sum_across_ranks(total.detach() / count))

        def check(norm: float) -> None:
            if not (math.isfinite(mean) and math.isfinite(norm)):
                epoch, batch = divmod(number, len(self.loader))
                raise TrainerError(
                    f"loss of step {number} (epoch {epoch}, batch {batch}): found {mean}, gradient norm "
                    f"{norm}, expected finite numbers; lower recommender.lr"
                )

        self.engine.step(check)
        return StepResult(mean)

    def judge(self) -> dict[str, Any]:
        """Full ranking of the validation pairs; one rank ranks, the weights are the same everywhere."""
        made: dict[str, Any] = distributed.broadcast_object(
            self._judged() if distributed.rank() == 0 else None
        )
        return made

    def _judged(self) -> dict[str, Any]:
        ranks = full_ranking(scores_of(*self._vectors()), self.val, [self.data.train])
        return {f"val_{name}": value for name, value in ranks.metrics(self.k).items() if name != "num"}

    @torch.no_grad()
    def _vectors(self) -> tuple[Tensor, Tensor]:
        self.model.eval()
        users, items = self.model.vectors()
        return users.detach().float().cpu(), items.detach().float().cpu()


def scores_of(users_UD: Tensor, items_ID: Tensor) -> ScoresOf:
    """Inner products."""

    def scores(chosen: np.ndarray) -> np.ndarray:
        return (users_UD[torch.from_numpy(chosen)] @ items_ID.T).numpy()

    return scores


def load_vectors(folder: Path, store: Store) -> tuple[Tensor, Tensor]:
    """Vectors of users [U, D] and items [I, D] that a finished stage left. TrainerError where they are of
    another store."""
    tensors = weights.load_of(folder / VECTORS, store.digest, "vectors")
    return tensors["users"], tensors["items"]
