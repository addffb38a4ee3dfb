"""Sampling by Ray actors beside a trainer: bounded in flight, in order, and safe to lose.

A batch is a pure function of its request, so an actor that dies is started again, its requests are
repeated, and no batch is lost, doubled or changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import graphstore
from sampler import MiniBatch, NeighborSampler


class SamplingWorker:
    """The actor: one sampler over the node's copy of the store."""

    def __init__(self, store: Path, fanout: int, hops: int, seed: int) -> None:
        self._sampler = NeighborSampler(graphstore.open(str(store)), fanout=fanout, hops=hops, seed=seed)

    def sample(self, node_ids: np.ndarray, epoch: int) -> MiniBatch:
        return self._sampler.sample(node_ids, epoch)


class RaySamplingEngine:
    """A `SamplingEngine` over `num_workers` actors on this process's node."""

    def __init__(
        self, store: Path, *, fanout: int, hops: int, seed: int, num_workers: int, prefetch: int
    ) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # No CPU of their own: a node whose CPUs the trainers hold would leave them pending for ever
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(SamplingWorker)
        self.workers = [
            actor.options(scheduling_strategy=here).remote(store, fanout, hops, seed)
            for _ in range(num_workers)
        ]
        self.prefetch = prefetch

    def stream(self, requests: Iterable[tuple[np.ndarray, int]]) -> Iterator[MiniBatch]:
        """One batch a request, in order, at most `prefetch` in flight."""
        in_flight: deque[Any] = deque()
        workers = cycle(self.workers)
        for node_ids, epoch in requests:
            in_flight.append(next(workers).sample.remote(node_ids, epoch))
            if len(in_flight) >= self.prefetch:
                yield ray.get(in_flight.popleft())
        while in_flight:
            yield ray.get(in_flight.popleft())
