"""The sampler against the store's rows, statistics, and itself in another place."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graphstore import Graph, Relation, Store
from graphstore.features import Features
from graphstore.schema import NodeType, RelationType, Schema
from sampler import MiniBatch, NeighborLoader, NeighborSampler, SamplerError
from sampler.kernels import row_key, sample_rows

TOPIC = ("video", "has_same_topic_as", "video")
NO_RANK = np.empty(0, np.int32)


def rows_of(batch: MiniBatch, edge_type: tuple[str, str, str]) -> dict[int, list[int]]:
    """Sampled heads (node numbers, in order) of each expanded tail."""
    heads, tails = batch.edges[edge_type]
    src, dst = batch.nodes[edge_type[0]], batch.nodes[edge_type[2]]
    rows: dict[int, list[int]] = {}
    for h, t in zip(heads, tails, strict=True):
        rows.setdefault(int(dst[t]), []).append(int(src[h]))
    return rows


def check_batch(graph: Graph, batch: MiniBatch, seeds: np.ndarray, fanout: int, hops: int) -> None:
    """All that must hold for any batch."""
    assert batch.nodes["video"][: len(seeds)].tolist() == seeds.tolist()
    for name, ids in batch.nodes.items():
        assert len(set(ids.tolist())) == len(ids) == sum(batch.num_sampled_nodes[name])
        assert len(batch.num_sampled_nodes[name]) == hops + 1
    expanded = batch.nodes["video"][: sum(batch.num_sampled_nodes["video"][:hops])]
    for edge_type in graph.edge_types:
        relation = graph.relation(edge_type)
        rows = rows_of(batch, edge_type)
        assert set(rows) <= set(expanded.tolist())
        for v in expanded.tolist():
            whole, row = relation.neighbors(v).tolist(), rows.get(v, [])
            assert len(row) == min(fanout, len(whole)) == len(set(row))
            assert set(row) <= set(whole)
            if len(whole) <= fanout:
                assert row == whole
        assert batch.edges[edge_type].shape[1] == sum(batch.num_sampled_edges[edge_type])
    reached = {name: set(seeds.tolist()) if name == "video" else set() for name in graph.node_types}
    for edge_type in graph.edge_types:
        for row in rows_of(batch, edge_type).values():
            reached[edge_type[0]] |= set(row)
    assert all(reached[name] == set(ids.tolist()) for name, ids in batch.nodes.items())


@pytest.mark.parametrize(("fanout", "hops"), [(1, 1), (3, 2), (50, 2), (2, 3)])
def test_batches_hold_what_the_rows_hold(store: Store, fanout: int, hops: int) -> None:
    sampler = NeighborSampler(store, fanout=fanout, hops=hops, seed=3)
    for epoch in range(2):
        seeds = np.random.default_rng(epoch).permutation(store.num_nodes["video"])[:20]
        check_batch(store, sampler.sample(seeds, epoch), seeds, fanout, hops)


def test_layouts_give_the_same_batch(store: Store, csr_store: Store) -> None:
    seeds = store.split("test")
    a = NeighborSampler(store, fanout=4, seed=1).sample(seeds, epoch=5)
    b = NeighborSampler(csr_store, fanout=4, seed=1).sample(seeds, epoch=5)
    for edge_type in store.edge_types:
        np.testing.assert_array_equal(a.edges[edge_type], b.edges[edge_type])
    for name in store.node_types:
        np.testing.assert_array_equal(a.nodes[name], b.nodes[name])


def test_a_row_does_not_depend_on_its_batch(store: Store) -> None:
    sampler = NeighborSampler(store, fanout=3, seed=9)
    everything = rows_of(sampler.sample(np.arange(store.num_nodes["video"])), TOPIC)
    alone = {}
    for v in range(0, store.num_nodes["video"], 17):
        alone |= rows_of(sampler.sample(np.array([v])), TOPIC)
    assert len(alone) > 10
    assert alone == {v: everything[v] for v in alone}


def test_seed_epoch_and_relation_change_the_sample(store: Store) -> None:
    def rows(seed: int, epoch: int) -> dict[int, list[int]]:
        ids = np.arange(store.num_nodes["video"])
        return rows_of(NeighborSampler(store, fanout=3, hops=1, seed=seed).sample(ids, epoch), TOPIC)

    first = rows(0, 0)
    assert first == rows(0, 0)
    assert first != rows(0, 1) and first != rows(1, 0) and rows(0, 1) != rows(1, 0)
    assert row_key(0, 0, ("a", "b", "c")) != row_key(0, 0, ("a", "c", "b"))


def test_another_process_gives_the_same_sample(store: Store) -> None:
    code = (
        "import sys, numpy as np, graphstore, sampler\n"
        "s = sampler.NeighborSampler(graphstore.open(sys.argv[1]), fanout=2, seed=4)\n"
        "b = s.sample(np.arange(30), epoch=2)\n"
        "print(sum(int((e * np.arange(1, e.shape[1] + 1)).sum()) for e in b.edges.values()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True
    )
    batch = NeighborSampler(store, fanout=2, seed=4).sample(np.arange(30), epoch=2)
    expected = sum(int((e * np.arange(1, e.shape[1] + 1)).sum()) for e in batch.edges.values())
    assert int(found.stdout) == expected


@settings(max_examples=60, deadline=None)
@given(
    degree=st.integers(0, 40),
    fanout=st.integers(1, 45),
    own=st.integers(0, 45),
    key=st.integers(0, 2**64 - 1),
)
def test_rows_are_distinct_and_skip_the_own_node(degree: int, fanout: int, own: int, key: int) -> None:
    indices = np.arange(100, 100 + degree, dtype=np.int32)
    begin, end = np.array([0], np.int64), np.array([degree], np.int64)
    rank = np.array([own], np.int32)
    heads, counts = sample_rows(indices, begin, end, rank, np.array([0]), np.uint64(key), fanout)
    allowed = set(range(100, 100 + degree)) - {100 + own}
    assert len(heads) == counts[0] == min(fanout, len(allowed)) == len(set(heads.tolist()))
    assert set(heads.tolist()) <= allowed


def test_heads_are_uniform() -> None:
    degree, fanout, draws = 20, 5, 20_000
    indices = np.tile(np.arange(degree, dtype=np.int32), 1)
    begin, end = np.zeros(draws, np.int64), np.full(draws, degree, np.int64)
    heads, _ = sample_rows(indices, begin, end, NO_RANK, np.arange(draws), row_key(0, 0, TOPIC), fanout)
    expected = draws * fanout / degree
    counts = np.bincount(heads, minlength=degree)
    chi2 = ((counts - expected) ** 2 / (expected * (1 - fanout / degree))).sum() * (degree - 1) / degree
    assert chi2 < 60  # 19 degrees of freedom: beyond 60 once in a million
    # Pairs too: every pair of heads is in a sample with probability k (k − 1) / n (n − 1)
    pairs = Counter()
    for row in heads.reshape(draws, fanout):
        pairs.update((int(a), int(b)) for a in row for b in row if a < b)
    share = draws * fanout * (fanout - 1) / (degree * (degree - 1))
    assert len(pairs) == degree * (degree - 1) // 2
    assert all(abs(n - share) < 6 * share**0.5 for n in pairs.values())


class ArithmeticGraph(Graph):
    """Node i has feature i; row v holds every head below v. Any sample can be checked by arithmetic."""

    def __init__(self, num: int) -> None:
        self.schema = Schema(
            target="n",
            node_types=(NodeType(name="n", encoding="scalar"),),
            relations=(RelationType(edge_type=("n", "below", "n")),),
        )
        self.num_nodes = {"n": num}
        indices = np.arange(num, dtype=np.int32)
        begin, end = np.zeros(num, np.int64), np.arange(num, dtype=np.int64)
        self._relation = Relation(("n", "below", "n"), "prefix", indices, begin, end)

    def relation(self, edge_type: tuple[str, str, str]) -> Relation:
        return self._relation

    def features(self, node_type: str) -> Features:
        num = self.num_nodes["n"]
        return Features(num, np.arange(num, dtype=np.float32)[:, None], None)


def test_pyg_data_agrees_by_arithmetic() -> None:
    graph = ArithmeticGraph(200)
    batch = NeighborSampler(graph, fanout=7, hops=2, seed=1).sample(np.array([150, 80, 3]))
    data = batch.to_hetero_data(graph)
    x = data["n"].x[:, 0]
    heads, tails = data["n", "below", "n"].edge_index
    assert (x == data["n"].n_id).all() and (x[heads] < x[tails]).all()
    assert data["n"].batch_size == 3 and x[:3].tolist() == [150, 80, 3]
    assert data.validate()


@pytest.mark.parametrize("ids", [[0, 0], [-1], [10**6]])
def test_bad_seeds_are_refused_and_leave_the_sampler_sound(store: Store, ids: list[int]) -> None:
    sampler = NeighborSampler(store, fanout=2)
    before = sampler.sample(np.arange(5))
    with pytest.raises(SamplerError, match="seed nodes"):
        sampler.sample(np.array(ids))
    after = sampler.sample(np.arange(5))
    for edge_type in store.edge_types:
        np.testing.assert_array_equal(before.edges[edge_type], after.edges[edge_type])


def test_loader_gives_every_seed_once_and_the_ranks_share_a_batch(store: Store) -> None:
    ids = store.split("train")
    loader = NeighborLoader(store, ids, batch_size=16, fanout=2, seed=5)
    first = [b.nodes["video"][: b.num_seeds] for b in loader]
    assert sorted(np.concatenate(first).tolist()) == ids.tolist() and len(first) == len(loader)
    second = [b.nodes["video"][: b.num_seeds] for b in loader]
    assert [f.tolist() for f in first] != [s.tolist() for s in second]
    ranks = [
        NeighborLoader(store, ids, batch_size=16, fanout=2, seed=5, rank=r, world_size=3) for r in range(3)
    ]
    parts = [[b.nodes["video"][: b.num_seeds] for b in loader] for loader in ranks]
    for batch, whole in enumerate(first):
        assert np.concatenate([p[batch] for p in parts]).tolist() == whole.tolist()


def test_loader_resumes_at_the_exact_batch(store: Store) -> None:
    def make() -> NeighborLoader:
        return NeighborLoader(store, store.split("train"), batch_size=16, fanout=2, seed=5)

    def stream(loader: NeighborLoader, epochs: int) -> list[MiniBatch]:
        return [batch for _ in range(epochs) for batch in loader]

    whole = stream(make(), 2)
    loader = make()
    iterator = iter(loader)
    for _ in range(3):
        next(iterator)
    again = make()
    again.load_state_dict(loader.state_dict())
    rest = stream(again, 2)
    assert len(rest) == len(whole) - 3
    for a, b in zip(rest, whole[3:], strict=True):
        assert a.epoch == b.epoch
        for edge_type in store.edge_types:
            np.testing.assert_array_equal(a.edges[edge_type], b.edges[edge_type])
