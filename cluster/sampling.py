"""Sampling by Ray actors beside a trainer: bounded in flight, in order, and safe to lose.

A batch is a pure function of its request, so an actor that dies is started again, its requests are
repeated, and no batch is lost, doubled or changed.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import graphstore
from cluster.errors import ClusterError
from cluster.slots import Slot, SlotName, SlotPool, SlotWriter, Unwritten, Written
from graphstore import Store
from sampler import MiniBatch, NeighborSampler, Request, SamplingOptions

ABANDON_S = 60.0
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
        self._writer = SlotWriter()

    def sample(self, request: Request, slot: SlotName | None) -> Written | Unwritten:
        """Sample into the slot, if it has room."""
        self._writer.start(slot)
        return self._writer.finish(self._sampler.sample_flat(request, self._writer.lend))

    def pid(self) -> int:
        return os.getpid()


class RaySamplingEngine:
    """A `SamplingEngine` over `num_workers` actors on this process's node.

    At most `prefetch` requests are under way. Batches come in memory that the actors share with this
    process, and it is used again when nobody holds a batch's arrays any more.
    """

    def __init__(self, store: Store, options: SamplingOptions, *, num_workers: int, prefetch: int) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # No CPU of their own: a node whose CPUs the trainers hold would leave them pending for ever
        actor: Any = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=MAX_TRIES)(SamplingWorker)
        self.workers = [
            actor.options(scheduling_strategy=here).remote(store.path.resolve(), store.digest, options)
            for _ in range(num_workers)
        ]
        self.prefetch, self.schema = prefetch, store.schema
        self._slots = SlotPool()

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """One batch a request, in order, at most `prefetch` in flight."""
        in_flight: deque[tuple[Any, Slot | None]] = deque()
        workers = cycle(self.workers)
        try:
            for request in requests:
                slot = self._slots.take()
                in_flight.append((next(workers).sample.remote(request, slot and slot.name), slot))
                if len(in_flight) >= self.prefetch:
                    yield self._receive(*in_flight.popleft())
            while in_flight:
                yield self._receive(*in_flight.popleft())
        finally:
            self._abandon(in_flight)

    def _receive(self, ref: Any, slot: Slot | None) -> MiniBatch:
        # An error leaves the slot unused for good: who knows whether somebody still writes into it
        found: Written | Unwritten = ray.get(ref)
        if isinstance(found, Written):
            assert slot is not None
            return self._slots.read(slot, found).batch(self.schema)
        if slot is not None:
            self._slots.give_back(slot)
        self._slots.num_bytes = max(self._slots.num_bytes, found.num_bytes)
        return found.batch.batch(self.schema)

    def _abandon(self, in_flight: Iterable[tuple[Any, Slot | None]]) -> None:
        """Take back the slots of requests that nobody waits for any more, once they are done."""
        slots = {ref: slot for ref, slot in in_flight if slot is not None}
        if slots and ray.is_initialized():
            done, _ = ray.wait(list(slots), num_returns=len(slots), timeout=ABANDON_S)
            for ref in done:
                self._slots.give_back(slots[ref])
