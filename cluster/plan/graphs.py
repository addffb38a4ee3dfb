"""Sizes of a graph: a store's own, or its data set's published ones; and how large its mini-batches are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from netgpt import graphstore
from netgpt.cluster.config import RunConfig
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.dataset import BatchNodes, GraphSize
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.files import total_bytes
from netgpt.sampler import NeighborSampler
from netgpt.trainers.features.text import text_identity
from netgpt.trainers.features.video import video_identity
from netgpt.trainers.graph.model import GraphModel
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.without import Without
from netgpt.trainers.tasks.names import make_task


@dataclass(frozen=True)
class BatchSize:
    """A mini-batch of one rank: nodes whose rows are asked for, and edges."""

    seeds: int
    tails: int
    """Seeds and what is found before the last hop: nodes whose neighbours are sampled."""
    nodes: dict[str, int]
    edges: int


def published(config: RunConfig) -> GraphSize:
    """The data set's published size, with features as the configuration makes them. ClusterError without."""
    dataset = datasets.load(config.dataset)
    text = text_identity(config.features)[1] if config.features.text else None
    video = video_identity(config.features)[1] if config.features.video else None
    size = dataset.sizes(config.build, text, video)
    if size is None:
        raise ClusterError(
            f"plan: found no published size of {dataset.title}, expected a store to plan for: --store STORE"
        )
    return size


def of_store(path: Path, config: RunConfig) -> GraphSize:
    """A sealed store's own numbers. TrainerError where the task has no examples in it."""
    store = graphstore.open(path)
    features = {name: store.features(name) for name in store.schema.encoded_types}
    examples = make_task(config.task).examples(store)
    period = np.sort(np.concatenate([examples.train, examples.val]))

    def batch(seeds: int, fanout: int) -> BatchNodes:
        chosen = np.random.default_rng(0).permutation(period)[: min(seeds, len(period))]
        sampled = NeighborSampler(store, fanout=fanout, hops=config.graph.layers, seed=0).sample(chosen)
        counts, ends = sampled.num_sampled_nodes, {e[2] for e in store.edge_types}
        tails = sum(sum(of_type[:-1]) for name, of_type in counts.items() if name in ends)
        nodes = {name: len(ids) for name, ids in sampled.nodes.items()}
        return BatchNodes(tails, nodes, sampled.num_edges)

    return GraphSize(
        source=str(path),
        nodes=dict(store.num_nodes),
        # Types without features have their nodes' numbers or degrees in place of some
        rows={**store.num_nodes, **{name: len(f.x) for name, f in features.items()}},
        dims={name: f.dim for name, f in features.items()},
        item={**dict.fromkeys(store.num_nodes, 8), **{name: f.x.itemsize for name, f in features.items()}},
        schema=store.schema,
        train_states=len(period),
        longest_indices=max(len(store.relation(e).indices) for e in store.edge_types),
        store_bytes=total_bytes(path),
        edges=sum(store.num_edges.values()),
        batch=batch,
    )


def model_shape(size: GraphSize, config: RunConfig) -> ModelShape:
    """Stage 1's model under the configuration, as the trainer makes it."""
    without = Without.of(size.schema, config.without, config.ablation)
    return ModelShape.configured(size.schema, size.dims, size.nodes, config.graph, without)


def graph_parameters(shape: ModelShape, config: RunConfig) -> int:
    """Counted on the module itself, without its weights."""
    with torch.device("meta"):
        model = GraphModel(shape, make_task(config.task).head)
        return sum(p.numel() for p in model.parameters())


def batch_size(size: GraphSize, seeds: int, fanout: int) -> BatchSize:
    """One rank's mini-batch: sampled from the store, or from the table of the published size."""
    batch = size.batch(seeds, fanout)
    return BatchSize(min(seeds, size.train_states), batch.tails, batch.nodes, batch.edges)
