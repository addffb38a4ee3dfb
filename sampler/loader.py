"""Mini-batches of seed nodes in an order that depends on the seed and the epoch alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

import numpy as np

from netgpt.graphstore import Graph
from netgpt.sampler.batch import MiniBatch
from netgpt.sampler.epochs import Epochs
from netgpt.sampler.errors import SamplerError
from netgpt.sampler.features import FeatureGatherer
from netgpt.sampler.kernels.generator import GENERATOR
from netgpt.sampler.neighbor import NeighborSampler
from netgpt.sampler.options import SamplingOptions, options_of
from netgpt.sampler.requests import Request
from netgpt.sampler.requests import node_ids as check_node_ids

In = TypeVar("In")
Work = TypeVar("Work")
Out = TypeVar("Out")


class SamplingEngine(Protocol):
    """Whoever samples: `NeighborSampler` in this process, or workers elsewhere."""

    @property
    def options(self) -> SamplingOptions:
        """What it samples."""
        ...

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """One batch a request, in the requests' order."""
        ...


def in_order(
    start: Callable[[In], Work], finish: Callable[[Work], Out], items: Iterable[In], in_flight: int
) -> Iterator[Out]:
    """finish(start(item)) of every item, in order; `in_flight` are started ahead of the one handed out."""
    started: deque[Work] = deque()
    for item in items:
        if len(started) == in_flight:
            result = finish(started.popleft())
            started.append(start(item))
            yield result
        else:
            started.append(start(item))
    while started:
        yield finish(started.popleft())


def map_in_order(
    work: Callable[[In], Out], items: Iterable[In], threads: int, in_flight: int
) -> Iterator[Out]:
    """work(item) of every item, in order, by threads; `in_flight` ahead of the one handed out.

    Without threads, one item after the other here. An error comes where its item would have.
    """
    if threads == 0:
        yield from map(work, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="sampling")
    try:
        yield from in_order(lambda item: pool.submit(work, item), Future.result, items, in_flight)
    finally:  # also where the caller stops early
        pool.shutdown(wait=True, cancel_futures=True)


class ThreadedEngine:
    """A `SamplingEngine` of threads over one sampler: the kernels run without the GIL."""

    def __init__(
        self,
        sampler: NeighborSampler,
        *,
        threads: int,
        prefetch: int,
        then: Callable[[MiniBatch], MiniBatch] = lambda batch: batch,
    ) -> None:
        """`then`: what the threads do with each batch."""
        self.sampler, self.threads, self.prefetch, self.then = sampler, threads, prefetch, then

    @property
    def options(self) -> SamplingOptions:
        return self.sampler.options

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        """One batch a request, in order, `prefetch` ahead."""
        return map_in_order(
            lambda request: self.then(self.sampler.answer(request)), requests, self.threads, self.prefetch
        )


class _Gathering:
    """Another engine's batches with their features, gathered here, by a thread if there may be one."""

    def __init__(
        self, engine: SamplingEngine, gather: Callable[[MiniBatch], MiniBatch], threads: int
    ) -> None:
        self.engine, self.gather, self.threads = engine, gather, min(1, threads)

    @property
    def options(self) -> SamplingOptions:
        return self.engine.options

    def stream(self, requests: Iterable[Request]) -> Iterator[MiniBatch]:
        return map_in_order(self.gather, self.engine.stream(requests), self.threads, 1)


class Sampling:
    """Who samples for a loader, and gathers features where they are asked for."""

    def __init__(
        self,
        graph: Graph,
        options: SamplingOptions,
        *,
        threads: int,
        prefetch: int | None,
        gather: bool,
        pin_memory: bool,
        engine: SamplingEngine | None,
    ) -> None:
        """The arguments are those of `NeighborLoader`."""
        if threads < 0 or (prefetch is not None and prefetch < 1):
            raise SamplerError(
                f"threads, prefetch: found {threads}, {prefetch}, expected 0 or more, 1 or more"
            )
        self._gatherer = FeatureGatherer(graph, pin_memory=pin_memory) if gather else None
        if engine is None:
            sampler = NeighborSampler.of(graph, options)
            engine = ThreadedEngine(
                sampler,
                threads=threads,
                prefetch=prefetch or max(1, 2 * threads),
                then=self._with_features,
            )
        elif (
            engine.options.meaning(graph) != options.meaning(graph)
            or engine.options.edge_ids != options.edge_ids
        ):
            raise SamplerError(f"engine: found {engine.options}, expected the loader's {options}")
        elif self._gatherer is not None:
            engine = _Gathering(engine, self._with_features, threads)
        self.engine = engine

    def _with_features(self, batch: MiniBatch) -> MiniBatch:
        if self._gatherer is None:
            return batch
        return replace(batch, features=self._gatherer.gather(batch.nodes))


LOADER_OPTIONS = (
    *("batch_size", "shuffle", "drop_last", "rank", "world_size"),
    *("threads", "prefetch", "gather", "pin_memory", "engine"),
)
"""What all loaders take besides the fields of `SamplingOptions`."""


class NeighborLoader(Epochs[MiniBatch]):
    """Sampled mini-batches of one epoch after the other, resumable at the exact batch.

    `batch_size` is global: with `world_size` ranks each batch's seeds are cut into that many
    contiguous parts (as equal as can be) and this loader gives part `rank`. Iterating gives what is
    left of the current epoch and moves on to the next.

    threads: 0 samples when a batch is asked for; from 1 on that many threads sample `prefetch` batches
    ahead (default two a thread). gather: batches carry the features of their nodes, in pinned memory
    if `pin_memory` (needs a GPU). `options` are the fields of `SamplingOptions`; an `engine` must have
    the same. Neither threads nor engine change a batch.
    """

    def __init__(
        self,
        graph: Graph,
        node_ids: np.ndarray | None = None,
        *,
        batch_size: int = 512,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world_size: int = 1,
        node_type: str | None = None,
        threads: int = 0,
        prefetch: int | None = None,
        gather: bool = False,
        pin_memory: bool = False,
        engine: SamplingEngine | None = None,
        **options: Any,
    ) -> None:
        wanted = options_of({"seed": seed, **options}, "node_ids", "node_type", *LOADER_OPTIONS)
        if node_ids is None:
            raise SamplerError("node_ids: found none, expected the seed nodes' numbers")
        if node_type is not None and node_type not in graph.node_types:
            raise SamplerError(f"node type: found {node_type!r}, expected {', '.join(graph.node_types)}")
        self.node_type = node_type or graph.schema.target
        super().__init__(
            check_node_ids(graph, self.node_type, node_ids),
            batch_size=batch_size,
            seed=seed,
            shuffle=shuffle,
            drop_last=drop_last,
            rank=rank,
            world_size=world_size,
        )
        self.sampling = Sampling(
            graph,
            wanted,
            threads=threads,
            prefetch=prefetch,
            gather=gather,
            pin_memory=pin_memory,
            engine=engine,
        )
        self._set_meaning(GENERATOR, graph.fingerprint, wanted.meaning(graph), self.node_type)

    @property
    def node_ids(self) -> np.ndarray:
        """The seed nodes: [n] int64."""
        return self.ids

    @property
    def engine(self) -> SamplingEngine:
        return self.sampling.engine

    def _batches(self, epoch: int, first: int) -> Iterator[MiniBatch]:
        seeds = self._own_parts(epoch, first)
        return self.engine.stream(Request({self.node_type: some}, epoch) for some in seeds)
