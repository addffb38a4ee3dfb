"""The kernels against the sampler in plain Python, bit for bit, on random graphs under all options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import as_lists, random_graph, reference, same_batch, single_graph

from netgpt.graphstore import Graph, Store
from netgpt.sampler import NeighborSampler, SamplingOptions
from netgpt.sampler.errors import SamplerError

FANOUTS = st.one_of(
    st.sampled_from([-1, 0, 1, 2, 3, 7, 50]),
    st.lists(st.sampled_from([-1, 0, 1, 2, 5]), min_size=1, max_size=3),
    st.fixed_dictionaries(
        {("a", "same_key", "a"): st.lists(st.sampled_from([-1, 1, 4]), min_size=2, max_size=2)},
        optional={("a", "of", "b"): st.just([2, 3]), ("b", "in", "a"): st.sampled_from([0, 3])},
    ),
)


@st.composite
def options(draw: Any) -> SamplingOptions:
    return SamplingOptions(
        fanout=draw(FANOUTS),
        seed=draw(st.integers(0, 3)),
        exclude=draw(st.sampled_from([(), ("of",), (("c", "in", "a"),), ("in", "same_key")])),
        replace=draw(st.booleans()),
        disjoint=draw(st.booleans()),
        temporal=draw(st.sampled_from([None, "<=", "<"])),
        edge_ids=draw(st.booleans()),
    )


def random_seeds(graph: Graph, rng: np.random.Generator, options: SamplingOptions) -> dict[str, list[int]]:
    """Seeds of types a and b, repeated ones too where they may be."""
    seeds = {}
    for name in ("a", "b"):
        size = int(rng.integers(0, 12))
        num = graph.num_nodes[name]
        seeds[name] = (
            rng.integers(0, num, size) if options.is_disjoint else rng.permutation(num)[:size]
        ).tolist()
    return seeds


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 10_000), options=options(), with_times=st.booleans())
def test_batches_equal_the_reference(seed: int, options: SamplingOptions, with_times: bool) -> None:
    graph, rng = random_graph(seed), np.random.default_rng(seed)
    sampler = NeighborSampler.of(graph, options)
    for epoch in range(2):  # the second batch finds the first one's stamps
        seeds = random_seeds(graph, rng, options)
        arrays = {name: np.array(ids, np.int64) for name, ids in seeds.items()}
        times = (
            rng.integers(0, 30, sum(map(len, seeds.values()))) if with_times and options.temporal else None
        )
        batch = sampler.sample(arrays, epoch, times=times)
        expected = reference(graph, options, seeds, epoch, None if times is None else times.tolist())
        assert as_lists(batch) == expected
        csr = NeighborSampler.of(random_graph(seed, layout="csr"), options)
        assert same_batch(csr.sample(arrays, epoch, times=times), batch)


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(fanout=3, seed=1),
        SamplingOptions(fanout=[50, 4], seed=2, edge_ids=True),
        SamplingOptions(fanout=[2, 2, 2], disjoint=True),
        SamplingOptions(fanout=4, temporal="<", edge_ids=True),
        SamplingOptions(fanout=-1, hops=1, exclude=["is_title_of", ("video", "has_same_topic_as", "video")]),
    ],
    ids=repr,
)
def test_stores_equal_the_reference(store: Store, csr_store: Store, options: SamplingOptions) -> None:
    seeds = store.split("test")[:15]
    expected = reference(store, options, {"video": seeds.tolist()}, 7)
    for one in (store, csr_store):
        assert as_lists(NeighborSampler.of(one, options).sample(seeds, 7)) == expected


def test_a_long_row_is_sampled_as_the_reference_does() -> None:
    """Rows longer than a block, whole and in part, and a fanout larger than a block."""
    graph = random_graph(5)
    relation = graph.relation(("a", "same_key", "a"))
    num = 30_000
    indices = np.arange(num, dtype=np.int32)
    zeros, ends = np.zeros(num, np.int64), np.arange(num, dtype=np.int64)
    graph.num_nodes = {**graph.num_nodes, "a": num}
    long = type(relation)(relation.edge_type, "prefix", indices, zeros, ends, np.full(num, num, np.int32))
    alone = type(graph)({"a": num}, [long], {}, {"same_key"})
    for fanout in (50, 700, -1):
        options = SamplingOptions(fanout=fanout, hops=1, seed=4, edge_ids=True)
        seeds = [29_999, 5, 20_000, 651]
        batch = NeighborSampler.of(alone, options).sample(np.array(seeds))
        assert as_lists(batch) == reference(alone, options, {"a": seeds}, 0)


@pytest.mark.parametrize("num", [1, 1023, 1024, 1025, 5000])
def test_relations_with_one_head_each_over_several_blocks(num: int) -> None:
    heads = np.random.default_rng(num).integers(0, max(1, num // 3), num).astype(np.int32)
    graph = single_graph(num, heads)
    assert graph.relation(("m", "to", "n")).has_one_each()
    options = SamplingOptions(fanout=2, hops=1, edge_ids=True)
    seeds = {"n": np.random.default_rng(0).permutation(num).tolist(), "m": []}
    batch = NeighborSampler.of(graph, options).sample({"n": np.array(seeds["n"], np.int64)})
    assert as_lists(batch) == reference(graph, options, seeds, 0, None)


def test_a_head_that_is_no_node_is_refused_also_where_each_has_one() -> None:
    heads = np.arange(3000, dtype=np.int32)
    heads[2500] = 3000
    sampler = NeighborSampler(single_graph(3000, heads), fanout=1, hops=1)
    sampler.sample(np.arange(2500))
    with pytest.raises(SamplerError, match="m/to/n"):
        sampler.sample(np.arange(3000))


def test_one_head_each_is_seen_by_the_arrays_alone() -> None:
    graph = single_graph(5, np.array([3, 3, 0, 1, 4], np.int32))
    relation = graph.relation(("m", "to", "n"))
    assert relation.has_one_each()
    for begin, end in (
        ([0, 1, 2, 3, 4], [1, 2, 2, 4, 5]),  # an empty row
        ([1, 0, 2, 3, 4], [2, 1, 3, 4, 5]),  # another order
        ([0, 0, 2, 3, 4], [1, 2, 3, 4, 5]),  # a row of two
    ):
        assert not replace(relation, begin=np.array(begin), end=np.array(end)).has_one_each()
    assert not replace(relation, rank=np.zeros(5, np.int32)).has_one_each()
    assert single_graph(0, np.empty(0, np.int32)).relation(("m", "to", "n")).has_one_each()
