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

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import graphstore
from cluster.errors import ClusterError
from graphstore import Store
from sampler import MiniBatch, NeighborSampler, Request, SamplingOptions

MAX_TRIES = 5
"""Times that a request is repeated whose actor died: one that ends every actor must end the run."""


class SamplingWorker:
    """The actor: one sampler over the node's copy of the store."""

    def __init__(self, path: Path, digest: str, options: SamplingOptions) -> None:
        store = graphstore.open(str(path))
        if store.digest != digest:  # an actor that is started again must not go on with another graph
            raise ClusterError(
                f"{path}: found store {store.digest[:12]}, expected {digest[:12]}; "
                "it was replaced while it was in use"
            )
        self._sampler = NeighborSampler.of(store, options)

    def sample(self, request: Request) -> MiniBatch:
        return self._sampler.sample(request.seeds, request.epoch, times=request.times)


class RaySamplingEngine:
    """A `SamplingEngine` over `num_workers` actors on this process's node.

    At most `prefetch` requests are under way. Threads of one process would do on one node; actors
    also free the trainer's interpreter, and are counted, seen and restarted by Ray.
    """

    def __init__(self, store: Store, options: SamplingOptions, *, num_workers: int, prefetch: int) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # No CPU of their own: a node whose CPUs the trainers hold would leave them pending for ever
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=MAX_TRIES)(SamplingWorker)
        self.workers = [
            actor.options(scheduling_strategy=here).remote(store.path.resolve(), store.digest, options)
            for _ in range(num_workers)
        ]
        self.prefetch = prefetch

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """One batch a request, in order, at most `prefetch` in flight."""
        in_flight: deque[Any] = deque()
        workers = cycle(self.workers)
        for request in requests:
            in_flight.append(next(workers).sample.remote(request))
            if len(in_flight) >= self.prefetch:
                yield ray.get(in_flight.popleft())
        while in_flight:
            yield ray.get(in_flight.popleft())
