"""Ray actors sample as this process does, also when they die."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from cluster.local import ray_session
from graphstore import Store
from sampler import MiniBatch, NeighborLoader, NeighborSampler


@pytest.fixture(scope="module", autouse=True)
def ray_up() -> Iterator[None]:
    with ray_session(num_cpus=3):
        yield


def same(a: MiniBatch, b: MiniBatch) -> bool:
    return a.num_sampled_nodes == b.num_sampled_nodes and all(
        np.array_equal(a.edges[e], b.edges[e]) for e in a.edges
    )


def test_actors_give_the_same_batches_in_order_and_may_die(store: Store) -> None:
    import ray

    from cluster.sampling import RaySamplingEngine

    engine = RaySamplingEngine(store.path, fanout=4, hops=2, seed=1, num_workers=2, prefetch=3)

    def loader(engine: object = None) -> NeighborLoader:
        return NeighborLoader(
            store,
            store.split("train"),
            batch_size=8,
            fanout=4,
            seed=1,
            engine=engine,  # type: ignore[arg-type]
        )

    expected = list(loader())
    found = []
    for i, batch in enumerate(loader(engine)):
        found.append(batch)
        if i in (1, 4):
            ray.kill(engine.workers[i % 2], no_restart=False)
    assert len(found) == len(expected) > 8
    assert all(same(a, b) for a, b in zip(found, expected, strict=True))


def test_no_more_than_prefetch_requests_are_taken(store: Store) -> None:
    from cluster.sampling import RaySamplingEngine

    engine = RaySamplingEngine(store.path, fanout=2, hops=1, seed=1, num_workers=1, prefetch=3)
    taken = 0

    def requests() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal taken
        for i in range(10):
            taken += 1
            yield np.array([i]), 0

    stream = engine.stream(requests())
    local = NeighborSampler(store, fanout=2, hops=1, seed=1)
    for i, batch in enumerate(stream):
        assert taken <= i + 3
        assert same(batch, local.sample(np.array([i])))
