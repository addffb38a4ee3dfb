"""Sampling by Ray actors beside a trainer: bounded in flight, in order, and safe to lose.

A batch is a pure function of its request, so an actor that dies is started again, its requests are
repeated, and no batch is lost, doubled or changed.

Actors and not Ray Data: at full size, all 17 relations, two cores, a Ray Data pool of two such
workers gave 34 to 41 million edges a second, these actors 72 to 94, threads 77 to 94 (2026-11-22).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.workers.slots import Slot, SlotName, SlotPool, SlotWriter, Unwritten, Written
from netgpt.graphstore import Store
from netgpt.sampler import MiniBatch, NeighborSampler, Request, SamplingOptions
from netgpt.sampler.loader import in_order

ABANDON_S = 60.0
MAX_TRIES = 5
"""Times that a request is repeated whose actor died: one that ends every actor must end the run."""
MAX_RESTARTS = 50
"""Times that an actor is started again."""


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

    def sample(
        self, requests: Sequence[Request], slots: Sequence[SlotName | None]
    ) -> list[Written | Unwritten | Exception]:
        """Sample each request into its slot, if that has room; an error is the last entry."""
        answers: list[Written | Unwritten | Exception] = []
        for request, slot in zip(requests, slots, strict=True):
            try:
                answers.append(self._sample(request, slot))
            except Exception as error:
                return [*answers, error]
        return answers

    def _sample(self, request: Request, slot: SlotName | None) -> Written | Unwritten:
        self._writer.start(slot)
        return self._writer.finish(self._sampler.sample_flat(request, self._writer.lend))

    def pid(self) -> int:
        return os.getpid()


class RaySamplingEngine:
    """A `SamplingEngine` over `num_workers` actors on this process's node.

    `prefetch` requests are under way beyond the batch handed out, and go out in groups as large as that
    allows with one for each actor and one that is handed out: a call takes about a millisecond of Ray's.
    Batches come in memory that the actors share with this process, and it is used again when nobody
    holds a batch's arrays any more.
    """

    def __init__(self, store: Store, options: SamplingOptions, *, num_workers: int, prefetch: int) -> None:
        if num_workers < 1 or prefetch < 1:
            raise ClusterError(
                f"sampling workers, prefetch: found {num_workers}, {prefetch}, expected 1 or more"
            )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # No CPU of their own: a node whose CPUs the trainers hold would leave them pending for ever
        actor: Any = ray.remote(num_cpus=0, max_restarts=MAX_RESTARTS, max_task_retries=MAX_TRIES)(
            SamplingWorker
        )
        self.workers = [
            actor.options(scheduling_strategy=here).remote(store.path.resolve(), store.digest, options)
            for _ in range(num_workers)
        ]
        self.prefetch, self.schema, self.options = prefetch, store.schema, options
        self._slots = SlotPool()

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """One batch a request, in order, `prefetch` ahead of the one handed out."""
        in_flight: dict[Any, list[Slot | None]] = {}
        workers = cycle(self.workers)
        size = max(1, (self.prefetch + 1) // (len(self.workers) + 1))

        def send(group: list[Request]) -> Any:
            slots = [self._slots.take() for _ in group]
            ref = next(workers).sample.remote(group, [slot and slot.name for slot in slots])
            in_flight[ref] = slots
            return ref

        def receive(ref: Any) -> list[MiniBatch | Exception]:
            answers = ray.get(ref)
            slots = in_flight.pop(ref)
            for slot in slots[len(answers) :]:
                self._slots.give_back(slot)
            return [self._received(*one) for one in zip(answers, slots, strict=False)]

        try:
            groups = max(1, (self.prefetch + 1) // size - 1)
            for batches in in_order(send, receive, _grouped(requests, size), groups):
                for batch in batches:
                    if isinstance(batch, Exception):
                        raise batch
                    yield batch
        finally:
            self._abandon(in_flight)

    def _received(self, answer: Written | Unwritten | Exception, slot: Slot | None) -> MiniBatch | Exception:
        if isinstance(answer, Written):
            assert slot is not None
            return self._slots.read(slot, answer).batch(self.schema)
        self._slots.give_back(slot)
        if isinstance(answer, Exception):
            return answer
        self._slots.num_bytes = max(self._slots.num_bytes, answer.num_bytes)
        return answer.writable().batch(self.schema)

    def _abandon(self, in_flight: dict[Any, list[Slot | None]]) -> None:
        """Take back the slots of requests that nobody waits for any more, once they are done."""
        if in_flight and ray.is_initialized():
            done, _ = ray.wait(list(in_flight), num_returns=len(in_flight), timeout=ABANDON_S)
            for slot in (slot for ref in done for slot in in_flight[ref]):
                self._slots.give_back(slot)


def _grouped(requests: Iterable[Request], size: int) -> Iterator[list[Request]]:
    iterator = iter(requests)
    while group := list(islice(iterator, size)):
        yield group
