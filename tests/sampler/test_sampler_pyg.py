"""PyG's loaders over the store: `NodeLoader` with this sampler, and PyG's own `NeighborLoader`."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch_geometric.loader import NeighborLoader as PygNeighborLoader
from torch_geometric.loader import NodeLoader
from torch_geometric.sampler import EdgeSamplerInput
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

from netgpt.graphstore import Store
from netgpt.sampler import NeighborSampler, SamplerError
from netgpt.sampler.pyg import Sampler


def load(store: Store, seeds: np.ndarray, sampler: Sampler, **options: object) -> NodeLoader:
    return NodeLoader(
        store.as_pyg(), sampler, input_nodes=("video", torch.from_numpy(seeds)), batch_size=10, **options
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_node_loader_gives_the_samplers_batches(store: Store, num_workers: int) -> None:
    seeds = store.split("train")[:35]
    options = {"fanout": 3, "seed": 2, "edge_ids": True}
    pyg_sampler = Sampler(store, **options)
    pyg_sampler.set_epoch(4)
    loader = load(store, seeds, pyg_sampler, num_workers=num_workers)
    plain = NeighborSampler(store, **options)
    for i, data in enumerate(loader):
        batch = plain.sample(seeds[i * 10 : (i + 1) * 10], 4)
        expected = batch.to_hetero_data(store)
        assert data["video"].batch_size == expected["video"].batch_size
        for name in store.node_types:
            assert torch.equal(data[name].n_id, expected[name].n_id)
            assert torch.equal(data[name].x, expected[name].x)
            assert data[name].num_sampled_nodes == expected[name].num_sampled_nodes
        for edge_type in store.edge_types:
            assert torch.equal(data[edge_type].edge_index, expected[edge_type].edge_index)
            assert torch.equal(data[edge_type].e_id, expected[edge_type].e_id)
            assert data[edge_type].num_sampled_edges == expected[edge_type].num_sampled_edges
        assert data["video"].y.tolist() == store.labels[batch.nodes["video"]].tolist()
        assert data.validate()
    assert i == 3


@pytest.mark.parametrize(("num_workers", "context"), [(0, None), (2, "fork"), (1, "spawn")])
def test_an_epoch_reaches_workers_that_live_on(store: Store, num_workers: int, context: str | None) -> None:
    seeds = store.split("train")[:20]
    sampler = Sampler(store, fanout=3, seed=2)
    kept = {"persistent_workers": True, "multiprocessing_context": context} if num_workers else {}
    loader = load(store, seeds, sampler, num_workers=num_workers, **kept)
    plain = NeighborSampler(store, fanout=3, seed=2)
    for epoch in (0, 1, 5):
        sampler.set_epoch(epoch)
        assert sampler.epoch == epoch
        for i, data in enumerate(loader):
            batch = plain.sample(seeds[i * 10 : (i + 1) * 10], epoch)
            assert all(data[e].edge_index.shape[1] == batch.degrees[e].sum() for e in store.edge_types)
            for name in store.node_types:
                assert data[name].n_id.tolist() == batch.nodes[name].tolist()
    sampler.set_epoch(7)
    assert pickle.loads(pickle.dumps(sampler)).epoch == 7


def test_node_loader_with_times(store: Store) -> None:
    seeds = store.split("test")[:20]
    limit = torch.from_numpy(store.sampling_time[seeds] - 86_400)
    loader = load(store, seeds, Sampler(store, fanout=3, temporal="<="), input_time=limit)
    for data in loader:
        times = torch.from_numpy(store.sampling_time[data["video"].n_id.numpy()])
        assert (times <= data["video"].seed_time[data["video"].batch])[data["video"].batch_size :].all()


def test_times_without_temporal_sampling_are_refused(store: Store) -> None:
    seeds = store.split("test")[:10]
    loader = load(store, seeds, Sampler(store), input_time=torch.zeros(10, dtype=torch.long))
    with pytest.raises(SamplerError, match="times: found them without temporal sampling"):
        next(iter(loader))


def test_sampling_around_edges_of_no_type_is_refused(store: Store) -> None:
    with pytest.raises(SamplerError, match="sampling around edges: found no edge type, expected one"):
        Sampler(store).sample_from_edges(EdgeSamplerInput(None, torch.tensor([0]), torch.tensor([1])))


@pytest.mark.skipif(
    not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="needs pyg-lib or torch-sparse: pip install netgpt[pyg]"
)
def test_pygs_own_neighbor_loader_runs_on_the_store(store: Store) -> None:
    """Full neighbourhoods leave nothing to chance: PyG finds the same subgraph as this sampler."""
    seeds = store.split("test")[:8]
    loader = PygNeighborLoader(
        store.as_pyg(),
        num_neighbors={e: [-1, -1] for e in store.edge_types},
        input_nodes=("video", torch.from_numpy(seeds)),
        batch_size=4,
    )
    sampler = NeighborSampler(store, fanout=-1)
    for i, data in enumerate(loader):
        batch = sampler.sample(seeds[4 * i : 4 * i + 4])
        for name in store.node_types:
            assert sorted(data[name].n_id.tolist()) == sorted(batch.nodes[name].tolist())
            assert torch.equal(
                data[name].x, torch.from_numpy(store.features(name).gather(data[name].n_id)).float()
            )
        for edge_type, (heads, tails) in batch.edges.items():
            src, dst = edge_type[0], edge_type[2]
            theirs = data[edge_type].edge_index
            found = sorted(
                zip(data[src].n_id[theirs[0]].tolist(), data[dst].n_id[theirs[1]].tolist(), strict=True)
            )
            ours = zip(batch.nodes[src][heads].tolist(), batch.nodes[dst][tails].tolist(), strict=True)
            assert found == sorted(ours)
