"""Loaders: the same batches for any threads, ranks and places to resume; features; faults."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sampling_reference import same_batch

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.datasets.xsvideo.synth import synthetic_records
from netgpt.sampler import MiniBatch, NeighborLoader, NeighborSampler, Request, SamplerError
from netgpt.sampler.loader import map_in_order


def make(store: Store, **changes: object) -> NeighborLoader:
    options: dict[str, object] = {"batch_size": 16, "fanout": 2, "seed": 5} | changes
    return NeighborLoader(store, store.split("train"), **options)  # type: ignore[arg-type]


def stream(loader: NeighborLoader, epochs: int) -> list[MiniBatch]:
    return [batch for _ in range(epochs) for batch in loader]


def same(a: list[MiniBatch], b: list[MiniBatch]) -> bool:
    return len(a) == len(b) and all(same_batch(x, y) for x, y in zip(a, b, strict=True))


def test_every_seed_comes_once_and_the_ranks_share_a_batch(store: Store) -> None:
    ids, loader = store.split("train"), make(store)
    first = [b.nodes["video"][: b.num_seeds] for b in loader]
    assert sorted(np.concatenate(first).tolist()) == ids.tolist() and len(first) == len(loader)
    second = [b.nodes["video"][: b.num_seeds] for b in loader]
    assert [f.tolist() for f in first] != [s.tolist() for s in second]
    ranks = [make(store, rank=r, world_size=3) for r in range(3)]
    parts = [[b.nodes["video"][: b.num_seeds] for b in loader] for loader in ranks]
    for batch, whole in enumerate(first):
        assert np.concatenate([p[batch] for p in parts]).tolist() == whole.tolist()


def test_drop_last_and_the_order_of_the_seeds(store: Store) -> None:
    ids = store.split("train")
    plain = make(store, shuffle=False)
    seeds = np.concatenate([b.nodes["video"][: b.num_seeds] for b in plain])
    assert seeds.tolist() == ids.tolist()
    dropped = make(store, drop_last=True)
    assert [b.num_seeds for b in dropped] == [16] * (len(ids) // 16)
    assert same(stream(make(store), 1)[: len(dropped)], stream(make(store, drop_last=True), 1))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_nothing(store: Store, csr_store: Store, threads: int) -> None:
    expected = stream(make(store), 2)
    assert same(stream(make(store, threads=threads), 2), expected)
    assert same(stream(make(csr_store, threads=threads, prefetch=7), 2), expected)
    assert len({tuple(b.nodes["video"]) for b in expected}) == len(expected)


@pytest.mark.parametrize("threads", [0, 2])
def test_it_resumes_at_the_exact_batch(store: Store, threads: int) -> None:
    whole = stream(make(store), 2)
    for taken in (0, 3, len(make(store)) - 1, len(make(store))):
        loader = make(store, threads=threads)
        iterator = iter(loader)
        for _ in range(taken):
            next(iterator)
        again = make(store, threads=threads)
        again.load_state_dict(loader.state_dict())
        rest = stream(again, 2)
        # An epoch whose last batch was handed out goes on with nothing, and then the next epoch
        assert same(rest, whole[taken:])


def test_the_state_of_another_loader_is_refused(store: Store) -> None:
    state = make(store).state_dict()
    make(store, threads=3, rank=1, world_size=2).load_state_dict(state)
    for changes in ({"fanout": 3}, {"seed": 6}, {"batch_size": 8}, {"shuffle": False}, {"temporal": "<"}):
        with pytest.raises(SamplerError, match="state: found one of a loader with other seeds"):
            make(store, **changes).load_state_dict(state)
    make(store, fanout=[2, 2], exclude=set()).load_state_dict(state)  # the same batches in other words
    with pytest.raises(SamplerError, match="state: found one of a loader with other seeds"):
        NeighborLoader(store, store.split("test"), batch_size=16, fanout=2, seed=5).load_state_dict(state)
    with pytest.raises(SamplerError, match="found epoch 0, batch 10000, expected batches from 0 to"):
        make(store).load_state_dict({"epoch": 0, "next_batch": 10_000})


@pytest.mark.parametrize("threads", [0, 2])
def test_features_are_those_of_the_nodes_each_row_once(store: Store, threads: int) -> None:
    for batch in make(store, gather=True, threads=threads):
        assert batch.features is not None and set(batch.features) == set(store.node_types)
        for name, found in batch.features.items():
            rows = store.features(name).rows(batch.nodes[name])
            assert len(found.x) == len(np.unique(rows))
            assert found.x.numpy().dtype == store.features(name).dtype
            np.testing.assert_array_equal(found.x[found.row], store.features(name).gather(batch.nodes[name]))
        x = batch.to_hetero_data(store)["video"].x
        assert x.dtype == torch.float32 and len(x) == len(batch.nodes["video"])


def test_seeds_of_another_type(store: Store) -> None:
    loader = NeighborLoader(store, np.arange(5), node_type="topic", batch_size=2, shuffle=False)
    assert [b.nodes["topic"].tolist() for b in loader] == [[0, 1], [2, 3], [4]]


def test_an_error_comes_where_its_batch_would_have(store: Store) -> None:
    requests = [Request(np.array([i]), 0) for i in range(4)] + [Request(np.array([-1]), 0)]
    sampler = NeighborSampler(store, fanout=2)
    batches = map_in_order(lambda r: sampler.sample(r.seeds, r.epoch), requests, 2, 4)
    for i in range(4):
        assert next(batches).nodes["video"][0] == i
    with pytest.raises(SamplerError, match="seed nodes"):
        next(batches)


def test_no_more_than_prefetch_are_taken_and_stopping_early_ends_the_threads(store: Store) -> None:
    before, taken = threading.active_count(), 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(100):
            taken += 1
            yield i

    results = map_in_order(lambda i: i * i, items(), 2, 5)
    for i in range(10):
        assert next(results) == i * i and taken <= i + 1 + 5
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before and taken < 20
    iterator = iter(make(store, threads=2))
    next(iterator)
    del iterator
    assert threading.active_count() == before


def test_the_state_of_another_graph_is_refused_and_of_the_other_layout_not(
    store: Store, csr_store: Store, tmp_path: Path
) -> None:
    state = make(store).state_dict()
    make(csr_store).load_state_dict(state)
    records = dict(synthetic_records(0.0005, seed=2))
    (tmp_path / "r.json").write_text(json.dumps(records))
    graphstore.build(tmp_path / "r.json", tmp_path / "s", Config(encoder="hash:32", time_dim=8, video_dim=4))
    other = graphstore.open(tmp_path / "s")
    loader = NeighborLoader(other, store.split("train"), batch_size=16, fanout=2, seed=5)
    with pytest.raises(SamplerError, match="state: found one of a loader with other seeds"):
        loader.load_state_dict(state)


def test_an_engine_of_other_options_is_refused(store: Store) -> None:
    for options in ({"fanout": 3}, {"seed": 1}, {"hops": 1}, {"edge_ids": True}):
        engine = NeighborSampler(store, **({"fanout": 2, "seed": 5} | options))
        with pytest.raises(SamplerError, match="engine: found SamplingOptions"):
            make(store, engine=engine)
    same_options = NeighborSampler(store, fanout=[2, 2], seed=5)
    for threads in (0, 2):
        found = stream(make(store, engine=same_options, gather=True, threads=threads), 1)
        assert same(found, stream(make(store), 1)) and all(b.features for b in found)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"rank": 2, "world_size": 2}, "rank: found 2"),
        ({"batch_size": 1, "world_size": 2}, "batch_size: found 1"),
        ({"threads": -1}, "threads, prefetch: found -1"),
        ({"prefetch": 0}, "found 0, 0"),
        ({"node_type": "actor"}, "node type: found 'actor'"),
        ({"fanout": -3}, "fanout: found -3"),
        ({"seed": -1}, "seed: found -1"),
    ],
)
def test_bad_settings_are_refused(store: Store, changes: dict[str, object], text: str) -> None:
    with pytest.raises(SamplerError, match=text):
        make(store, **changes)
    for ids in (np.array([0.9, 1.7]), np.array([-1]), np.array([10**7])):
        with pytest.raises(SamplerError, match="seed nodes: found"):
            NeighborLoader(store, ids)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_features_reach_the_device(store: Store) -> None:
    for batch in make(store, gather=True, pin_memory=True, threads=1):
        assert batch.features is not None
        for found in batch.features.values():
            assert found.x.is_pinned() and found.row.is_pinned()
            assert torch.equal(found.x.to("cuda", non_blocking=True).cpu(), found.x)
