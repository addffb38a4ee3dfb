"""What is refused, and what is the obvious result: seeds, options, times, damage, changes on disk."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sampling_reference import MemoryGraph, one_row_graph, random_graph, rows_of, same_batch

from netgpt import graphstore
from netgpt.graphstore import FormatError, Store, StoreError
from netgpt.sampler import FeatureGatherer, NeighborLoader, NeighborSampler, SamplerError, SamplingOptions
from netgpt.sampler.pyg import Sampler

TOPIC = ("video", "has_same_topic_as", "video")


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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fan_out": 3}, "fan_out: found an option that there is not; did you mean fanout?"),
        ({"zzz": 3}, "zzz: found an option that there is not; expected one of "),
        ({"num_neighbors": [3, 3]}, "num_neighbors: found a word of PyG's, expected fanout"),
        ({"time_attr": "time"}, "time_attr: found a word of PyG's, expected temporal"),
    ],
)
def test_other_words_are_answered_with_ours(store: Store, options: dict[str, object], words: str) -> None:
    for make in (
        lambda: NeighborSampler(store, **options),
        lambda: NeighborLoader(store, np.arange(3), **options),
        lambda: Sampler(store, **options),
    ):
        with pytest.raises(SamplerError) as caught:
            make()
        assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input_nodes": np.arange(3)}, "input_nodes: found a word of PyG's, expected node_ids"),
        (
            {"node_ids": np.arange(3), "num_workers": 2},
            "num_workers: found a word of PyG's, expected threads",
        ),
        ({"node_ids": np.arange(3), "batchsize": 2}, "batchsize: .*did you mean batch_size"),
        ({}, "node_ids: found none, expected the seed nodes"),
    ],
)
def test_a_loader_names_its_own_words(store: Store, options: dict[str, object], words: str) -> None:
    with pytest.raises(SamplerError, match=words):
        NeighborLoader(store, **options)  # type: ignore[arg-type]


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
        graphstore.open(tmp_path / "s")


@pytest.mark.parametrize("fault", ["cut", "overwritten", "emptied"])
def test_a_store_changed_while_in_use_is_an_error(store: Store, tmp_path: Path, fault: str) -> None:
    path = tmp_path / "s"
    shutil.copytree(store.path, path)
    sampler = NeighborSampler(graphstore.open(path), fanout=3)
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
    one = graphstore.open(path)
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
    sampler = NeighborSampler(graphstore.open(path), fanout=3)
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
    from netgpt.sampler import kernels

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
    assert meaning(fanout={"of": 5}) == meaning(fanout=5, exclude={"in", "same_key", "is_one_of"})
    assert meaning(temporal="<") == meaning(temporal="<", disjoint=True)
    different = [meaning(), meaning(seed=1), meaning(hops=1), meaning(replace=True), meaning(disjoint=True)]
    different += [meaning(temporal="<="), meaning(temporal="<"), meaning(exclude=["of"]), meaning(fanout=49)]
    assert len(set(different)) == len(different)
