"""The kernels against the sampler in plain Python, bit for bit, on random graphs under all options."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_reference import as_lists, random_graph, reference, same_batch

from netgpt.graphstore import Graph, Store
from netgpt.sampler import NeighborSampler, SamplingOptions

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
