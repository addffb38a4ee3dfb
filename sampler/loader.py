"""Mini-batches of seed nodes in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np

from graphstore import Graph
from sampler.batch import MiniBatch
from sampler.errors import SamplerError
from sampler.neighbor import NeighborSampler, Request


class SamplingEngine(Protocol):
    """Whoever samples: `NeighborSampler` in this process, or workers elsewhere."""

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """One batch a request, in the requests' order."""
        ...


class NeighborLoader:
    """Sampled mini-batches of one epoch after the other, resumable at the exact batch.

    `batch_size` is global: with `world_size` ranks each batch's seeds are cut into that many
    contiguous parts (as equal as can be) and this loader gives part `rank`. Iterating gives what is
    left of the current epoch and moves on to the next.
    """

    def __init__(
        self,
        graph: Graph,
        node_ids: np.ndarray,
        *,
        batch_size: int = 512,
        fanout: int = 50,
        hops: int = 2,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        engine: SamplingEngine | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise SamplerError(f"rank: found {rank}, expected 0 to {world_size - 1}")
        if batch_size < world_size:
            raise SamplerError(f"batch_size: found {batch_size}, expected at least one seed a rank")
        self.node_ids = np.ascontiguousarray(node_ids, np.int64)
        self.batch_size, self.seed = batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self.engine = engine or NeighborSampler(graph, fanout=fanout, hops=hops, seed=seed)
        self.epoch, self.next_batch = 0, 0
        self._order, self._order_of = self.node_ids, -1

    def __len__(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self.node_ids), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def global_seeds(self, epoch: int, batch: int) -> np.ndarray:
        """Seeds of a batch over all ranks: [≤ batch_size] node numbers."""
        if self.shuffle and self._order_of != epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.node_ids)
            self._order_of = epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def __iter__(self) -> Iterator[MiniBatch]:
        epoch, first = self.epoch, self.next_batch
        seeds = (self.global_seeds(epoch, b) for b in range(first, len(self)))
        parts = (np.array_split(s, self.world_size)[self.rank] for s in seeds)
        for batch in self.engine.stream((part, epoch) for part in parts):
            self.next_batch += 1
            yield batch
        self.epoch, self.next_batch = epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Where the next batch is: handed out, so that a run resumes at it."""
        return {"epoch": self.epoch, "next_batch": self.next_batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.next_batch = state["epoch"], state["next_batch"]
