"""What stage 1 trains on: the steps of an epoch, by sampled mini-batches or over the whole graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from netgpt.sampler import NeighborLoader
from netgpt.trainers.graph.model import Degrees, GraphModel, WholeGraph
from netgpt.trainers.graph.tables import FeatureTables


@dataclass(frozen=True)
class GraphStep:
    """One optimiser step, as this rank sees it."""

    seeds: np.ndarray
    """[n] node numbers of this rank's seeds."""
    global_seeds: np.ndarray
    """Those of all ranks."""
    forward: Callable[[], Tensor]
    """Scores of this rank's seeds: [n]."""


class GraphSteps(Protocol):
    def __len__(self) -> int:
        """Steps of an epoch."""
        ...

    def stream(self, epoch: int, first: int) -> Iterator[GraphStep]:
        """The steps of an epoch from number `first` on."""
        ...


class SampledSteps:
    """One step a mini-batch of a loader."""

    def __init__(
        self, model: GraphModel, tables: FeatureTables, loader: NeighborLoader, degrees: Degrees | None
    ) -> None:
        self.model, self.tables, self.loader, self.degrees = model, tables, loader, degrees

    def __len__(self) -> int:
        return len(self.loader)

    def stream(self, epoch: int, first: int) -> Iterator[GraphStep]:
        self.loader.load_state_dict({"epoch": epoch, "next_batch": first})
        for number, batch in enumerate(self.loader, start=first):

            def forward(batch=batch) -> Tensor:  # type: ignore[no-untyped-def]
                blocks = self.model.blocks(batch, self.tables.device, self.degrees)
                scores, _ = self.model(self.model.gather(batch, self.tables), blocks)
                return scores

            seeds = batch.nodes[self.model.target][: batch.num_seeds]
            yield GraphStep(seeds, self.loader.global_seeds(epoch, number), forward)


class WholeSteps:
    """One step an epoch, exact: every edge of the graph, and the loss of all seeds."""

    def __init__(self, model: GraphModel, tables: FeatureTables, seeds: np.ndarray) -> None:
        self.model, self.seeds = model, seeds
        self.graph = WholeGraph(model, tables, torch.get_num_threads())
        self.seeds_S = torch.from_numpy(seeds).to(tables.device)

    def __len__(self) -> int:
        return 1

    def stream(self, epoch: int, first: int) -> Iterator[GraphStep]:
        if first == 0:
            yield GraphStep(self.seeds, self.seeds, lambda: self.graph.run(self.model)[0][self.seeds_S])
