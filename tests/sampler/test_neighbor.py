"""What a batch must hold whatever the oracle says, statistics of rows, and what is refused."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sampling_reference import MemoryGraph, as_lists, random_graph, same_batch
from scipy import stats

import graphstore
from graphstore import FormatError, Graph, Relation, Store, StoreError
from graphstore.features import Features
from graphstore.relations import from_indptr
from graphstore.schema import NodeType, RelationType, Schema
from sampler import FeatureGatherer, MiniBatch, NeighborSampler, SamplerError, SamplingOptions
from sampler.kernels.generator import row_key

TOPIC = ("video", "has_same_topic_as", "video")


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
        "import sys, numpy as np, graphstore, sampler\n"
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
    from sampler import neighbor

    sampler = NeighborSampler(store, fanout=3)
    expected = sampler.sample(np.arange(40))
    sampler._workspaces[0].last_stamp = neighbor._MAX_STAMP - 5
    for _ in range(4):
        assert same_batch(sampler.sample(np.arange(40)), expected)
    assert sampler._workspaces[0].last_stamp < 100


# Statistics. Seeds are fixed: a test fails always or never


def one_row_graph(degree: int, num_tails: int, layout: str) -> MemoryGraph:
    """`num_tails` tails that all have the heads 0 to degree − 1; the first ones stand in their own row."""
    edge_type, num = ("n", "to", "n"), degree + num_tails
    # The own nodes of a prefix row are among its heads: they are left out of it
    members = np.arange(degree + 1, dtype=np.int32)
    begin = np.zeros(num, np.int64)
    end = np.full(num, degree + 1)
    rank = np.full(num, degree, np.int32)  # the last member is every row's "own" one
    relation = Relation(edge_type, "prefix", members, begin, end, rank)
    if layout == "csr":
        relation = from_indptr(edge_type, *relation.to_csr())
    return MemoryGraph({"n": num}, [relation], {}, {"to"})


def sampled(degree: int, layout: str, num_tails: int, fanout: int, epoch: int) -> np.ndarray:
    """Heads of each tail: [num_tails, fanout] node numbers."""
    graph = one_row_graph(degree, num_tails, layout)
    sampler = NeighborSampler(graph, fanout=fanout, hops=1, seed=11)
    batch = sampler.sample(np.arange(degree, degree + num_tails), epoch)
    heads = batch.nodes["n"][batch.heads["n", "to", "n"]]
    return heads.reshape(num_tails, fanout)


@pytest.mark.parametrize("layout", ["prefix", "csr"])
@pytest.mark.parametrize("degree", [51, 64, 100, 1_000, 10_000])
def test_heads_are_uniform_and_distinct(degree: int, layout: str) -> None:
    num_tails, fanout = 400, 50
    rows = np.concatenate([sampled(degree, layout, num_tails, fanout, epoch) for epoch in range(5)])
    assert rows.min() >= 0 and rows.max() < degree
    ordered = np.sort(rows, axis=1)
    assert (ordered[:, 1:] > ordered[:, :-1]).all()
    expected = len(rows) * fanout / degree
    counts = np.bincount(rows.ravel(), minlength=degree)
    # Without replacement: a count's variance is that of the hypergeometric distribution
    chi2 = ((counts - expected) ** 2 / (expected * (1 - fanout / degree))).sum() * (degree - 1) / degree
    assert 1e-4 < stats.chi2.sf(chi2, degree - 1) < 1 - 1e-4


def test_pairs_of_heads_are_uniform() -> None:
    """Every pair of heads is in a sample with probability k (k − 1) / n (n − 1)."""
    degree, fanout = 20, 5
    rows = sampled(degree, "csr", 20_000, fanout, 0)
    pairs = Counter()
    for row in rows:
        pairs.update((int(a), int(b)) for a in row for b in row if a < b)
    share = len(rows) * fanout * (fanout - 1) / (degree * (degree - 1))
    assert len(pairs) == degree * (degree - 1) // 2
    assert all(abs(n - share) < 6 * share**0.5 for n in pairs.values())


@pytest.mark.parametrize("degree", [51, 1_000])
def test_rows_and_epochs_are_independent(degree: int) -> None:
    """Two samples of k of n heads share k² / n of them, hypergeometrically, if they are independent."""
    num, fanout = 4_000, 50
    first, second = (sampled(degree, "prefix", num, fanout, epoch) for epoch in (0, 1))

    def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        members = np.zeros((len(a), degree), bool)
        np.put_along_axis(members, a, True, axis=1)
        return np.take_along_axis(members, b, axis=1).sum(1)

    law = stats.hypergeom(degree, fanout, fanout)
    for shared in (
        overlaps(first, second),
        overlaps(first[:-1], first[1:]),
        overlaps(first[:-7], second[7:]),
    ):
        values = np.flatnonzero(law.pmf(np.arange(fanout + 1)) * len(shared) > 5)
        counts = np.array([*((shared == n).sum() for n in values), 0])
        expected = np.array([*law.pmf(values), 0])
        counts[-1], expected[-1] = len(shared) - counts.sum(), 1 - expected.sum()
        keep = expected > 1e-9
        assert stats.chisquare(counts[keep], expected[keep] * len(shared)).pvalue > 1e-4


def test_draws_with_replacement_are_uniform_and_repeat() -> None:
    degree, num, fanout = 40, 3_000, 25
    graph = one_row_graph(degree, num, "prefix")
    sampler = NeighborSampler(graph, fanout=fanout, hops=1, replace=True)
    batch = sampler.sample(np.arange(degree, degree + num))
    rows = batch.nodes["n"][batch.heads["n", "to", "n"]].reshape(num, fanout)
    assert stats.chisquare(np.bincount(rows.ravel(), minlength=degree)).pvalue > 1e-4
    distinct = np.mean([len(set(row)) for row in rows.tolist()])
    assert abs(distinct - degree * (1 - (1 - 1 / degree) ** fanout)) < 0.2


# Conventions of PyG


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


# What is refused, and what is the obvious result


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        (np.array([0, 0]), "found video 0 repeated"),
        (np.array([-1]), "found -1 to -1, expected video numbers from 0 to"),
        (np.array([10**6]), "found 1000000 to 1000000"),
        (np.array([0.5]), "found float64"),
        (np.array([[1]]), "expected \\[n\\] integers"),
        ({"actor": np.array([0])}, "found type 'actor', expected video, platform"),
        ({"topic": np.array([10**6])}, "expected topic numbers from 0 to"),
        ({"platform": np.zeros(5000, int)}, "found 5000 of platform, expected distinct ones"),
        ({"platform": np.zeros(2, int)}, "found platform 0 repeated"),
    ],
)
def test_bad_seeds_are_refused_and_leave_the_sampler_sound(store: Store, seeds: object, text: str) -> None:
    sampler = NeighborSampler(store, fanout=2)
    before = sampler.sample(np.arange(5))
    with pytest.raises(SamplerError, match=text):
        sampler.sample(seeds)  # type: ignore[arg-type]
    assert same_batch(before, sampler.sample(np.arange(5)))


def test_seeds_of_other_types_and_none_at_all(store: Store) -> None:
    sampler = NeighborSampler(store, fanout=2)
    for empty in (np.empty(0), {}, np.empty(0, np.int64)):
        batch = sampler.sample(empty)
        assert batch.num_edges == batch.num_seeds == 0 and set(batch.edges) == set(store.edge_types)
        assert not any(len(ids) for ids in batch.nodes.values())
    mixed = sampler.sample({"topic": np.array([2]), "video": np.array([4, 1])})
    assert mixed.nodes["topic"][0] == 2 and mixed.num_sampled_nodes["topic"][0] == 1
    assert rows_of(mixed, TOPIC) == rows_of(sampler.sample(np.array([4, 1])), TOPIC)
    alone = sampler.sample({"topic": np.array([2])})  # no relation ends in a topic
    assert alone.num_edges == 0 and alone.nodes["topic"].tolist() == [2]


def test_a_fanout_of_none_and_relations_left_out(store: Store) -> None:
    seeds = np.arange(9)
    nothing = NeighborSampler(store, fanout=0).sample(seeds)
    assert nothing.num_edges == 0 and nothing.nodes["video"].tolist() == seeds.tolist()
    assert nothing.degrees[TOPIC].tolist() == [0] * len(seeds)
    without = NeighborSampler(store, fanout=3, hops=1, exclude=["has_same_topic_as"]).sample(seeds)
    everything = NeighborSampler(store, fanout=3, hops=1).sample(seeds)
    assert without.num_sampled_edges[TOPIC] == [0]
    for edge_type in set(store.edge_types) - {TOPIC}:
        assert rows_of(without, edge_type) == rows_of(everything, edge_type)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fanout": -2}, "fanout: found -2"),
        ({"fanout": [3, 4], "hops": 3}, "lists or hops of 2, 3"),
        ({"fanout": []}, "fanout"),
        ({"fanout": {("a", "b", "c"): 3}}, "relation: found"),
        ({"fanout": {"has_same_topic_as": 3, TOPIC: 4}}, "found video/has_same_topic_as/video twice"),
        ({"fanout": 2.5}, "fanout: found 2.5, expected a whole number"),
        ({"fanout": [3, "4"]}, "fanout: found '4', expected a whole number"),
        ({"fanout": 1 << 31}, "expected up to 2,147,483,647 heads"),
        ({"hops": True}, "hops: found True"),
        ({"seed": -1}, "seed: found -1, expected 0 or more"),
        ({"seed": 0.5}, "seed: found 0.5"),
        ({"fanout": {TOPIC: [1, 2], ("video", "is_history_of", "video"): [1]}}, "lists or hops of 1, 2"),
        ({"hops": 0}, "hops: found 0"),
        ({"exclude": ["likes_of"]}, "relation: found 'likes_of', expected one of platform/is_platform_of"),
        ({"exclude": "is_likes_of"}, "expected a list"),
        ({"temporal": ">"}, "temporal: found '>'"),
    ],
)
def test_bad_options_are_refused(store: Store, options: dict[str, object], text: str) -> None:
    with pytest.raises(SamplerError, match=text):
        NeighborSampler(store, **options)
    with pytest.raises(TypeError):
        NeighborSampler(store, fan_out=3)


def test_times_that_do_not_fit_are_refused(store: Store) -> None:
    with pytest.raises(SamplerError, match="without temporal sampling"):
        NeighborSampler(store).sample(np.arange(2), times=np.zeros(2, int))
    temporal = NeighborSampler(store, temporal="<=")
    with pytest.raises(SamplerError, match=r"found \[3\], expected one a seed, \[2\]"):
        temporal.sample(np.arange(2), times=np.zeros(3, int))
    with pytest.raises(SamplerError, match="found none of the seeds of type topic"):
        temporal.sample({"topic": np.arange(1)})
    for times in (np.array([1.5, 2.5]), np.array(["2025-01-01", "NaT"], "datetime64[s]")):
        with pytest.raises(SamplerError, match=r"times: found .*, expected \[n\] integers"):
            temporal.sample(np.arange(2), times=times)
    with pytest.raises(SamplerError, match="not a time"):
        temporal.sample(np.arange(2), times=np.array([0, np.iinfo(np.int64).min]))
    with pytest.raises(SamplerError, match="found a graph without times"):
        NeighborSampler(one_row_graph(5, 3, "csr"), temporal="<=")


def damaged(graph: MemoryGraph, edge_type: tuple[str, str, str], **arrays: object) -> MemoryGraph:
    relations = [graph.relation(e) for e in graph.edge_types]
    relations = [replace(r, **arrays) if r.edge_type == edge_type else r for r in relations]
    return MemoryGraph(graph.num_nodes, relations, graph.times, {"same_key"})


@pytest.mark.parametrize("temporal", [None, "<="])
@pytest.mark.parametrize("name", ["same_key", "of"])
@pytest.mark.parametrize("fault", ["heads", "low heads", "begin", "end", "order", "rank"])
def test_damaged_arrays_are_an_error_and_never_a_crash(name: str, fault: str, temporal: str | None) -> None:
    graph = random_graph(3)
    edge_type = ("a", name, "a" if name == "same_key" else "b")
    relation = graph.relation(edge_type)
    if fault.endswith("heads"):
        bad = np.full_like(relation.indices, 2**31 - 1 if fault == "heads" else -(2**31))
        graph = damaged(graph, edge_type, indices=bad)
    elif fault == "begin":
        graph = damaged(graph, edge_type, begin=relation.begin - 2**40)
    elif fault == "end":
        graph = damaged(graph, edge_type, end=relation.end + 2**40)
    elif fault == "rank":
        bad = np.full(relation.num_dst, -3, np.int32)  # on empty rows, too
        graph = damaged(graph, edge_type, rank=bad, layout="prefix")
    else:
        graph = damaged(graph, edge_type, begin=relation.end + 1)
    seeds = {"a": np.arange(graph.num_nodes["a"]), "b": np.arange(graph.num_nodes["b"])}
    for fanout in (2, -1):
        sampler = NeighborSampler(graph, fanout=fanout, temporal=temporal)
        with pytest.raises(SamplerError, match=f"a/{name}/.*store is damaged: see netgpt verify"):
            sampler.sample(seeds)


def test_arrays_of_wrong_lengths_are_refused() -> None:
    graph = random_graph(3)
    relation = graph.relation(("a", "of", "b"))
    short = damaged(graph, ("a", "of", "b"), begin=relation.begin[:-1])
    with pytest.raises(SamplerError, match="a/of/b: found rows of"):
        NeighborSampler(short)


def test_an_unsealed_store_is_refused(store: Store, tmp_path: Path) -> None:
    shutil.copytree(store.path, tmp_path / "s")
    (tmp_path / "s" / "SEAL.json").unlink()
    with pytest.raises((StoreError, FormatError), match=r"SEAL\.json"):
        graphstore.open(str(tmp_path / "s"))


@pytest.mark.parametrize("fault", ["cut", "overwritten", "emptied"])
def test_a_store_changed_while_in_use_is_an_error(store: Store, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    sampler = NeighborSampler(graphstore.open(str(path)), fanout=3)
    sampler.sample(np.arange(9))
    file = path / "edges/video/has_same_topic_as/video/indices/c/0"
    if fault == "overwritten":
        with file.open("r+b") as open_file:
            open_file.write(b"\1\2\3\4")
    else:
        with file.open("r+b") as open_file:
            open_file.truncate(0 if fault == "emptied" else file.stat().st_size // 2)
    with pytest.raises(StoreError, match="indices/c/0: changed on disk while it was in use"):
        sampler.sample(np.arange(9))


@pytest.mark.parametrize("array", ["nodes/video/ctime", "nodes/title/x", "nodes/topic/x"])
def test_times_and_features_cut_off_while_in_use_are_an_error(
    store: Store, tmp_path: Path, array: str
) -> None:
    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    one = graphstore.open(str(path))
    sampler, gatherer = NeighborSampler(one, fanout=3, temporal="<="), FeatureGatherer(one)
    batch = sampler.sample(np.arange(9))
    gatherer.gather(batch.nodes)
    (file,) = (f for f in (path / array / "c").rglob("*") if f.is_file())
    with file.open("r+b") as open_file:
        open_file.truncate(0)
    for use in (
        lambda: sampler.sample(np.arange(9)),
        lambda: gatherer.gather(batch.nodes),
        lambda: batch.to_hetero_data(one),
    ):
        with pytest.raises(StoreError, match="changed on disk while it was in use"):
            use()


def test_a_store_replaced_while_in_use_stays_what_it_was(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    sampler = NeighborSampler(graphstore.open(str(path)), fanout=3)
    before = sampler.sample(np.arange(9))
    path.rename(tmp_path / "old")
    shutil.copytree(store.path, path)
    shutil.rmtree(tmp_path / "old")
    assert same_batch(sampler.sample(np.arange(9)), before)


@pytest.mark.parametrize("epoch", [0.0, True, None, "1"])
def test_epochs_are_whole_numbers(store: Store, epoch: object) -> None:
    with pytest.raises(SamplerError, match="epoch: found"):
        NeighborSampler(store).sample(np.arange(3), epoch)  # type: ignore[arg-type]
    first, second = NeighborSampler(store, fanout=2), NeighborSampler(store, fanout=2)
    second.sample(np.arange(3), 5)
    for number in (-1, np.int64(-1), 2**40):
        assert same_batch(first.sample(np.arange(9), number), second.sample(np.arange(9), number))


def test_an_interruption_leaves_the_sampler_sound(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted call left in its table must not be taken for nodes of the next batch."""
    from sampler import kernels

    sampler, seeds = NeighborSampler(store, fanout=4), np.arange(30)
    right = [sampler.sample(seeds + i) for i in range(3)]
    whole = kernels.batch.sample_batch

    def interrupted(*arguments: object) -> object:
        whole(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(kernels.batch, "sample_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sampler.sample(seeds + 7)
    monkeypatch.undo()
    assert all(same_batch(sampler.sample(seeds + i), batch) for i, batch in enumerate(right))


def test_options_of_one_meaning() -> None:
    graph = random_graph(1)
    edge_types = graph.edge_types

    def meaning(**options: object) -> str:
        return SamplingOptions(**options).meaning(graph)  # type: ignore[arg-type]

    assert meaning(fanout=5) == meaning(fanout=[5, 5]) == meaning(fanout=np.int64(5), hops=2, seed=np.int8(0))
    assert meaning(fanout=dict.fromkeys(edge_types, 5)) == meaning(fanout=5)
    assert meaning(fanout={"of": 5}) == meaning(fanout=5, exclude={"in", "same_key"})
    assert meaning(temporal="<") == meaning(temporal="<", disjoint=True)
    different = [meaning(), meaning(seed=1), meaning(hops=1), meaning(replace=True), meaning(disjoint=True)]
    different += [meaning(temporal="<="), meaning(temporal="<"), meaning(exclude=["of"]), meaning(fanout=49)]
    assert len(set(different)) == len(different)
