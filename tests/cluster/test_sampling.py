"""Ray actors sample as this process does, in memory that is shared, also when they die."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from netgpt import graphstore
from netgpt.cluster.workers.session import ray_session
from netgpt.graphstore import Store
from netgpt.sampler import (
    LinkBatch,
    LinkLoader,
    MiniBatch,
    NeighborLoader,
    NeighborSampler,
    Request,
    SamplerError,
    SamplingOptions,
)


@pytest.fixture(scope="module", autouse=True)
def ray_up() -> Iterator[None]:
    with ray_session(num_cpus=3):
        yield


def engine(store: Store, num_workers: int = 2, prefetch: int = 4, **options: Any) -> Any:
    from netgpt.cluster.workers.sampling import (
        RaySamplingEngine,  # imports Ray, which must be configured first
    )

    options = {"fanout": 4, "seed": 1} | options
    return RaySamplingEngine(store, SamplingOptions(**options), num_workers=num_workers, prefetch=prefetch)


def same(a: MiniBatch, b: MiniBatch) -> bool:
    def equal(x: dict[Any, np.ndarray] | None, y: dict[Any, np.ndarray] | None) -> bool:
        if x is None or y is None:
            return x is y
        return x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x)

    return (
        a.num_sampled_nodes == b.num_sampled_nodes
        and a.num_sampled_edges == b.num_sampled_edges
        and all(
            equal(getattr(a, n), getattr(b, n)) for n in ("nodes", "heads", "degrees", "trees", "edge_ids")
        )
    )


def requests(store: Store, num: int, size: int = 30) -> list[Request]:
    rng = np.random.default_rng(0)
    return [Request(rng.permutation(store.num_nodes["video"])[:size], i // 7) for i in range(num)]


def expected(store: Store, asked: list[Request], **options: Any) -> list[MiniBatch]:
    return list(NeighborSampler(store, **({"fanout": 4, "seed": 1} | options)).stream(asked))


@pytest.mark.all
def test_workers_sample_around_edges_as_this_process_does(store: Store) -> None:
    relation = next(e for e in store.edge_types if e[0] == "comment")

    def batches(**options: Any) -> list[LinkBatch]:
        return list(LinkLoader(store, relation, batch_size=40, negatives=2, fanout=4, seed=1, **options))

    for here, there in zip(batches(), batches(engine=engine(store)), strict=True):
        assert same(here.graph, there.graph)
        for name in ("edges", "tail", "head", "negative"):
            assert np.array_equal(getattr(here, name), getattr(there, name))


@pytest.mark.parametrize(
    "num_workers", [pytest.param(1, marks=pytest.mark.all), 2, pytest.param(4, marks=pytest.mark.all)]
)
def test_any_number_of_workers_gives_the_loaders_batches(
    store: Store, csr_store: Store, num_workers: int
) -> None:
    def loader(one: Store, with_engine: bool) -> NeighborLoader:
        made = engine(one, num_workers, 2 * num_workers) if with_engine else None
        return NeighborLoader(one, one.split("train"), batch_size=8, fanout=4, seed=1, engine=made)

    here = loader(store, False)
    local = [batch for _ in range(2) for batch in here]
    for one in (store, csr_store):
        remote = loader(one, True)
        found = [batch for _ in range(2) for batch in remote]
        assert len(found) == len(local) > 8
        assert all(same(a, b) for a, b in zip(found, local, strict=True))


def test_a_loader_over_workers_resumes_at_the_exact_batch(store: Store) -> None:
    def loader(made: Any = None) -> NeighborLoader:
        return NeighborLoader(store, store.split("train"), batch_size=8, fanout=4, seed=1, engine=made)

    here, remote = loader(), engine(store)
    whole = [batch for _ in range(2) for batch in here]
    first = loader(remote)
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    again = loader(remote)
    again.load_state_dict(first.state_dict())
    iterator.close()  # type: ignore[attr-defined]
    rest = [batch for _ in range(2) for batch in again]
    assert len(rest) == len(whole) - 5
    assert all(same(a, b) for a, b in zip(rest, whole[5:], strict=True))


@pytest.mark.parametrize(
    "options", [{"temporal": "<="}, {"disjoint": True, "edge_ids": True}, {"fanout": -1}]
)
def test_options_reach_the_workers(store: Store, options: dict[str, Any]) -> None:
    asked = requests(store, 6)
    found = list(engine(store, **options).stream(asked))
    assert all(same(a, b) for a, b in zip(found, expected(store, asked, **options), strict=True))


def test_batches_keep_their_memory_and_give_it_back(store: Store) -> None:
    """What a batch holds is never written again; memory of batches that are gone is used again."""
    from netgpt.cluster.workers.slots import Slot

    asked = requests(store, 40)
    right = expected(store, asked)
    remote = engine(store)
    kept = list(remote.stream(asked))
    assert all(same(a, b) for a, b in zip(kept, right, strict=True))
    heads = kept[7].heads
    del kept
    gc.collect()
    before = Slot.num_made
    for batch, wanted in zip(remote.stream(asked), right, strict=True):
        assert same(batch, wanted)
    assert Slot.num_made == before
    assert all(np.array_equal(heads[e], right[7].heads[e]) for e in heads)


def test_a_stream_that_is_left_early_spoils_nothing(store: Store) -> None:
    asked = requests(store, 30)
    right = expected(store, asked)
    remote = engine(store)
    for start in (0, 3, 9):
        stream = remote.stream(asked[start:])
        for i in range(5):
            assert same(next(stream), right[start + i])
        stream.close()
    assert all(same(a, b) for a, b in zip(remote.stream(asked), right, strict=True))


@pytest.mark.all
def test_no_more_than_prefetch_requests_are_taken(store: Store) -> None:
    asked = requests(store, 24)

    def counted() -> Iterator[Request]:
        nonlocal taken
        for request in asked:
            taken += 1
            yield request

    right = expected(store, asked)
    for num_workers, prefetch in ((1, 3), (1, 1), (2, 4), (2, 9)):
        taken, ahead = 0, 0
        for i, batch in enumerate(engine(store, num_workers, prefetch).stream(counted())):
            assert same(batch, right[i])
            ahead = max(ahead, taken - i - 1)
        assert num_workers <= ahead <= max(prefetch, num_workers)


@pytest.mark.all
def test_workers_killed_at_any_time_change_nothing(store: Store) -> None:
    import ray

    asked = requests(store, 150, size=60)
    right = expected(store, asked, fanout=20)
    remote = engine(store, 2, 4, fanout=20)
    first = ray.get([w.pid.remote() for w in remote.workers])
    stop, killed = threading.Event(), []

    def kill() -> None:
        rng = np.random.default_rng(1)
        while not stop.wait(rng.uniform(0.3, 1.2)) and len(killed) < 6:
            try:
                pid = ray.get(remote.workers[len(killed) % 2].pid.remote(), timeout=30)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            except (ray.exceptions.RayError, ProcessLookupError):
                continue

    found = []
    thread = threading.Thread(target=kill)
    thread.start()
    try:
        for batch in remote.stream(asked):
            found.append(batch)
            time.sleep(0.02)  # as a step of training: leaves time for faults
    finally:
        stop.set()
        thread.join()
    assert len(killed) >= 2
    assert ray.get([w.pid.remote() for w in remote.workers]) != first
    assert len(found) == len(right)
    assert all(same(a, b) for a, b in zip(found, right, strict=True))


def test_a_worker_that_dies_in_the_middle_of_a_batch_leaves_no_trace(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import ray

    from netgpt.cluster.workers import sampling

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    marker = tmp_path / "died"

    class Dying(sampling.SamplingWorker):
        def _sample(self, request: Request, slot: Any) -> Any:
            if slot is not None and request.seeds[0] == asked[9].seeds[0] and not marker.exists():  # type: ignore[index]
                self._writer.start(slot)
                self._writer.lend(0).allocate(slot.num_bytes // 2, np.uint8)[:] = 0xFF
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._sample(request, slot)

    asked = requests(store, 20)
    monkeypatch.setattr(sampling, "SamplingWorker", Dying)
    try:
        found = list(engine(store).stream(asked))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    assert marker.exists()
    assert all(same(a, b) for a, b in zip(found, expected(store, asked), strict=True))


def test_a_request_that_ends_every_worker_ends_in_an_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    import ray

    from netgpt.cluster.workers import sampling

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    class Deadly(sampling.SamplingWorker):
        def _sample(self, request: Request, slot: Any) -> Any:
            os._exit(1)

    monkeypatch.setattr(sampling, "SamplingWorker", Deadly)
    monkeypatch.setattr(sampling, "MAX_TRIES", 1)
    try:
        with pytest.raises(ray.exceptions.RayActorError):
            list(engine(store).stream(requests(store, 3)))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_a_worker_that_cannot_start_ends_in_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    import ray

    from netgpt.cluster.workers import sampling

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])

    class Unborn(sampling.SamplingWorker):
        def __init__(self, *_: Any) -> None:
            os._exit(1)

    monkeypatch.setattr(sampling, "SamplingWorker", Unborn)
    monkeypatch.setattr(sampling, "MAX_RESTARTS", 1)
    try:
        with pytest.raises(ray.exceptions.RayActorError):
            list(engine(store, 1).stream(requests(store, 2)))
    finally:
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_bad_settings_are_refused(store: Store) -> None:
    from netgpt.cluster.errors import ClusterError

    for settings in ((0, 4), (2, 0)):
        with pytest.raises(ClusterError, match="sampling workers, prefetch: found"):
            engine(store, *settings)


def test_a_bad_request_is_the_samplers_error(store: Store) -> None:
    asked = [*requests(store, 5), Request(np.array([-1]), 0), *requests(store, 3)]
    for prefetch in (1, 4, 20):  # alone, in small groups and with all others
        stream = engine(store, 2, prefetch).stream(asked)
        for right in expected(store, asked[:5]):
            assert same(next(stream), right)
        with pytest.raises(SamplerError, match="seed nodes: found -1"):
            next(stream)


def test_a_worker_does_not_go_on_with_another_store(store: Store, csr_store: Store, tmp_path: Path) -> None:
    import ray

    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    one = graphstore.open(str(path))
    remote, asked = engine(one, 1, 1), requests(store, 2)
    assert same(next(remote.stream(asked)), expected(store, asked)[0])
    pid = ray.get(remote.workers[0].pid.remote())
    shutil.rmtree(path)
    shutil.copytree(csr_store.path, path)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayError, match="it was replaced while it was in use"):
        list(remote.stream(asked))


def test_memory_that_cannot_be_shared_is_done_without(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from netgpt.cluster.workers.slots import SlotName, SlotPool, SlotWriter, Unwritten, Written

    sampler, asked = NeighborSampler(store, fanout=4, seed=1), requests(store, 1)[0]
    writer, right = SlotWriter(), expected(store, [requests(store, 1)[0]])[0]
    for name in (None, SlotName(2**22, 3, 1 << 20, 1, 1)):  # no slot, or one of a process that is not there
        writer.start(name)
        found = writer.finish(sampler.sample_flat(asked, writer.lend))
        assert isinstance(found, Unwritten) and same(found.batch.batch(store.schema), right)
    pool = SlotPool()
    assert pool.take() is None
    for num_bytes in (100, found.num_bytes):  # too small, and just large enough
        pool.num_bytes = num_bytes
        slot = pool.take()
        assert slot is not None
        writer.start(slot.name)
        written = writer.finish(sampler.sample_flat(asked, writer.lend))
        assert isinstance(written, Written if num_bytes == found.num_bytes else Unwritten)
    assert isinstance(written, Written) and same(pool.read(slot, written).batch(store.schema), right)
    # A name of another file: its content stays what it is
    for mode in ("r", "r+"):
        path = tmp_path / "data"
        path.write_bytes(b"x" * slot.name.num_bytes)
        with path.open(mode) as file:
            stale = replace(slot.name, fd=file.fileno())
            writer.start(stale)
            assert isinstance(writer.finish(sampler.sample_flat(asked, writer.lend)), Unwritten)
        assert path.read_bytes() == b"x" * slot.name.num_bytes
    monkeypatch.setattr(
        os, "memfd_create", lambda *_: (_ for _ in ()).throw(OSError(24, "Too many open files"))
    )
    pool = SlotPool()
    pool.num_bytes = 100
    assert pool.take() is None
    monkeypatch.delattr(os, "memfd_create")
    pool = SlotPool()
    pool.num_bytes = 100
    assert pool.take() is None
