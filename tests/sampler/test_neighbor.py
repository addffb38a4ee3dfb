"""What a batch must hold whatever the oracle says, statistics of rows, and what is refused."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest
from sampling_reference import as_lists, rows_of, same_batch

from netgpt.graphstore import Graph, Relation, Store
from netgpt.graphstore.features import Features
from netgpt.graphstore.schema import NodeType, RelationType, Schema
from netgpt.sampler import MiniBatch, NeighborSampler
from netgpt.sampler.kernels.generator import row_key

TOPIC = ("video", "has_same_topic_as", "video")


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


def test_a_row_does_not_depend_on_its_batch(store: Store) -> None:
    sampler = NeighborSampler(store, fanout=3, seed=9)
    everything = rows_of(sampler.sample(np.arange(store.num_nodes["video"])), TOPIC)
    alone = {}
    for v in range(0, store.num_nodes["video"], 17):
        alone |= rows_of(sampler.sample(np.array([v])), TOPIC)
    assert len(alone) > 10
    assert alone == {v: everything[v] for v in alone}


def test_a_disjoint_batch_is_its_seeds_alone_side_by_side(store: Store) -> None:
    for temporal in (None, "<="):
        sampler = NeighborSampler(store, fanout=3, seed=9, disjoint=True, temporal=temporal)
        seeds = store.split("test")[:12]
        batch = sampler.sample(seeds)
        assert batch.trees is not None
        for s, v in enumerate(seeds):
            alone = sampler.sample(np.array([v]))
            for name, ids in batch.nodes.items():
                assert ids[batch.trees[name] == s].tolist() == alone.nodes[name].tolist()
            for edge_type, (heads, tails) in batch.edges.items():
                src, dst = edge_type[0], edge_type[2]
                inside = batch.trees[dst][tails] == s
                assert (batch.trees[src][heads] == batch.trees[dst][tails]).all()
                pairs = zip(batch.nodes[src][heads[inside]], batch.nodes[dst][tails[inside]], strict=True)
                found = zip(
                    alone.nodes[src][alone.edges[edge_type][0]],
                    alone.nodes[dst][alone.edges[edge_type][1]],
                    strict=True,
                )
                assert list(pairs) == list(found)


def test_temporal_batches_hold_nothing_of_later_times(store: Store) -> None:
    """The seeds' own times cut every hop, not only the first."""
    seeds, times = store.split("test"), store.sampling_time
    earlier = {"<=": np.less_equal, "<": np.less}
    for temporal, allowed in earlier.items():
        batch = NeighborSampler(store, fanout=5, temporal=temporal).sample(seeds)
        assert batch.trees is not None
        limit = times[seeds][batch.trees["video"]]
        inside = allowed(times[batch.nodes["video"]], limit)
        assert inside[len(seeds) :].all() and len(inside) > 2 * len(seeds)
    early = NeighborSampler(store, fanout=5, temporal="<").sample(seeds, times=np.zeros(len(seeds), int))
    assert len(early.nodes["video"]) == len(seeds)  # nothing is before 1970 …
    assert early.num_sampled_edges["title", "is_title_of", "video"][0] == len(seeds)  # … titles have no time


def test_seed_epoch_and_relation_change_the_sample(store: Store) -> None:
    def rows(seed: int, epoch: int) -> dict[int, list[int]]:
        ids = np.arange(store.num_nodes["video"])
        return rows_of(NeighborSampler(store, fanout=3, hops=1, seed=seed).sample(ids, epoch), TOPIC)

    first = rows(0, 0)
    assert first == rows(0, 0)
    assert first != rows(0, 1) and first != rows(1, 0) and rows(0, 1) != rows(1, 0)
    assert row_key(0, 0, ("a", "b", "c")) != row_key(0, 0, ("a", "c", "b"))


def test_another_process_and_a_pickled_sampler_give_the_same_sample(store: Store) -> None:
    code = (
        "import sys, numpy as np; from netgpt import graphstore, sampler\n"
        "s = sampler.NeighborSampler(graphstore.open(sys.argv[1]), fanout=2, seed=4)\n"
        "b = s.sample(np.arange(30), epoch=2)\n"
        "print(sum(int((e * np.arange(1, e.shape[1] + 1)).sum()) for e in b.edges.values()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(store.path)], capture_output=True, text=True, check=True
    )
    sampler = NeighborSampler(store, fanout=2, seed=4)
    batch = sampler.sample(np.arange(30), epoch=2)
    expected = sum(int((e * np.arange(1, e.shape[1] + 1)).sum()) for e in batch.edges.values())
    assert int(found.stdout) == expected
    assert same_batch(pickle.loads(pickle.dumps(sampler)).sample(np.arange(30), epoch=2), batch)


def test_threads_may_share_a_sampler(store: Store) -> None:
    sampler = NeighborSampler(store, fanout=4, seed=2)
    requests = [np.random.default_rng(i).permutation(store.num_nodes["video"])[:40] for i in range(40)]
    expected = [as_lists(sampler.sample(seeds)) for seeds in requests]
    found: dict[int, object] = {}

    def work(first: int) -> None:
        for i in range(first, len(requests), 4):
            found[i] = as_lists(sampler.sample(requests[i]))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(len(requests))] == expected


def test_stamps_that_are_used_up_start_again(store: Store) -> None:
    from netgpt.sampler import neighbor

    sampler = NeighborSampler(store, fanout=3)
    expected = sampler.sample(np.arange(40))
    sampler._workspaces[0].last_stamp = neighbor._MAX_STAMP - 5
    for _ in range(4):
        assert same_batch(sampler.sample(np.arange(40)), expected)
    assert sampler._workspaces[0].last_stamp < 100


def test_pyg_data_of_seeds_of_another_type_than_the_target(store: Store) -> None:
    sampler = NeighborSampler(store, fanout=3)
    batch = sampler.sample({"topic": np.array([2, 1, 4])})
    data = batch.to_hetero_data(store)
    assert batch.num_seeds == data["topic"].batch_size == 3
    assert data["topic"].n_id[:3].tolist() == [2, 1, 4]
    assert [name for name in store.node_types if "batch_size" in data[name]] == ["topic"]
    both = sampler.sample({"topic": np.array([2]), "video": np.array([7, 8])}).to_hetero_data(store)
    assert {n: both[n].batch_size for n in store.node_types if "batch_size" in both[n]} == {
        "video": 2,
        "topic": 1,
    }
    none = sampler.sample(np.empty(0, int)).to_hetero_data(store)
    assert [(n, none[n].batch_size) for n in store.node_types if "batch_size" in none[n]] == [("video", 0)]


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
    sampler = NeighborSampler(graph, fanout=7, hops=2, seed=1, edge_ids=True, disjoint=True)
    batch = sampler.sample(np.array([150, 80, 3, 80]))
    data = batch.to_hetero_data(graph)
    x, kind = data["n"].x[:, 0], ("n", "below", "n")
    heads, tails = data[kind].edge_index
    assert (x == data["n"].n_id).all() and (x[heads] < x[tails]).all()
    assert data["n"].batch_size == 4 and x[:4].tolist() == [150, 80, 3, 80]
    # Row v holds the heads 0 to v − 1, so edge first + i has head i; rows before v hold v (v − 1) / 2
    assert (data[kind].e_id == x[tails] * (x[tails] - 1) / 2 + x[heads]).all()
    assert (data["n"].batch[heads] == data["n"].batch[tails]).all()
    assert data.validate()
