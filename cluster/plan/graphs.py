"""Sizes of a graph: a store's own, or those that are published; and how large its mini-batches are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from netgpt import graphstore
from netgpt.cluster.config import RunConfig
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.files import total_bytes
from netgpt.graphstore.xsvideo.schema import SCALARS, xs_video
from netgpt.graphstore.xsvideo.synth import world
from netgpt.sampler import NeighborSampler
from netgpt.trainers.features.text import text_identity
from netgpt.trainers.features.video import video_identity
from netgpt.trainers.graph.ablation import Ablation
from netgpt.trainers.graph.model import GraphModel, ModelShape

STATES, TRAIN_STATES = 381_926, 304_362
"""Of the full release (paper, table of the data set; the split by post date)."""
_DISTINCT = {"title": 94_145, "description": 117_720, "time": 115_507, "ctime": 79}
"""Distinct contents of a type with one node a state (synthetic store of the published size, 2026-11-22)."""
_SEEDS, _FANOUTS = (16, 64, 512, 2048), (10, 50)
_VIDEOS = ((2_063, 23_406), (9_038, 60_527), (55_650, 176_068), (128_261, 255_536))
_TAILS = ((208, 907), (943, 3_504), (7_436, 26_362), (28_013, 85_662))
_EDGES = ((5_484, 61_422), (25_609, 236_373), (202_463, 1_737_622), (762_054, 5_707_004))
"""Video nodes of a batch over two hops, those of its first hop and seeds, and edges: by seeds and fanout
(synthetic store of the published size, all relations, random train seeds, 2026-11-22)."""


@dataclass(frozen=True, kw_only=True)
class GraphSize:
    """What a plan needs to know of a graph."""

    source: str
    nodes: dict[str, int]
    rows: dict[str, int]
    """Distinct contents by node type."""
    dims: dict[str, int]
    item: dict[str, int]
    """Bytes of a stored number of the features."""
    edge_types: tuple[EdgeType, ...]
    target: str
    train_states: int
    longest_indices: int
    """Heads that the longest relation stores."""
    store_bytes: int
    edges: int

    @property
    def states(self) -> int:
        return self.nodes[self.target]


@dataclass(frozen=True)
class BatchSize:
    """A mini-batch of one rank: nodes whose rows are asked for, and edges."""

    seeds: int
    tails: int
    """Seeds and the target nodes one hop away: those whose neighbours are sampled."""
    nodes: dict[str, int]
    edges: int


def published(config: RunConfig) -> GraphSize:
    """The full release, with features as the configuration makes them."""
    schema, build = xs_video(), config.build
    nodes = {n.name: STATES for n in schema.node_types}
    nodes |= {"platform": len(world.PLATFORMS), "topic": world.FULL_TOPICS, "comment": world.FULL_COMMENTS}
    text = int(build.encoder.partition(":")[2] or 256)
    video = build.video_dim
    if config.features.text:
        text = text_identity(config.features)[1]
    if config.features.video:
        video = video_identity(config.features)[1]
    dims = {"video": video, "time": build.time_dim, "ctime": build.time_dim}
    dims |= dict.fromkeys(("platform", "topic", "title", "description"), text)
    dims |= {"comment": text + build.time_dim, **dict.fromkeys(SCALARS, 1)}
    # No videos are released: with them there is a row a video
    rows = {**nodes, **_DISTINCT, "video": world.FULL_VIDEOS}
    item = {name: 4 if name in (*SCALARS, "time", "ctime") else 2 for name in nodes}
    features = sum(rows[n] * dims[n] * item[n] + 4 * nodes[n] for n in nodes)
    edges = world.FULL_TOPIC_EDGES + world.FULL_AUTHOR_EDGES + 484_364
    edges += (len(nodes) - 2) * STATES + world.FULL_COMMENTS
    relations = 107_000_000 if build.layout == "prefix" else 6_730_000_000  # README, 2026-11-22
    return GraphSize(
        source="published size of XS-Video",
        nodes=nodes,
        rows=rows,
        dims=dims,
        item=item,
        edge_types=schema.edge_types,
        target=schema.target,
        train_states=TRAIN_STATES,
        longest_indices=STATES if build.layout == "prefix" else world.FULL_TOPIC_EDGES,
        store_bytes=features + relations + 507_000_000,  # texts: those of the released JSON
        edges=edges,
    )


def of_store(path: Path) -> GraphSize:
    """A sealed store's own numbers. ClusterError where it is none of records."""
    store = graphstore.open(str(path))
    if not store.has_records:
        raise ClusterError(f"--store: found {path} of edge lists, expected a store of records")
    features = {name: store.features(name) for name in store.node_types}
    return GraphSize(
        source=str(path),
        nodes=dict(store.num_nodes),
        rows={name: len(f.x) for name, f in features.items()},
        dims={name: f.dim for name, f in features.items()},
        item={name: f.x.itemsize for name, f in features.items()},
        edge_types=tuple(store.edge_types),
        target=store.schema.target,
        train_states=int((np.asarray(store.labels)[store.split("train")] >= 0).sum()),
        longest_indices=max(len(store.relation(e).indices) for e in store.edge_types),
        store_bytes=total_bytes(path),
        edges=sum(store.num_edges.values()),
    )


def model_shape(size: GraphSize, config: RunConfig) -> ModelShape:
    """Stage 1's model under the configuration, as the trainer makes it."""
    graph = config.graph
    scalars = tuple(SCALARS)
    stand_in = SimpleNamespace(
        schema=SimpleNamespace(
            target=size.target,
            encoded_types=tuple(size.nodes),
            node_types=[
                SimpleNamespace(name=n, encoding="scalar" if n in scalars else "given") for n in size.nodes
            ],
        ),
        node_types=list(size.nodes),
        edge_types=size.edge_types,
        features=lambda name: SimpleNamespace(dim=size.dims[name]),
    )
    as_graph = cast(Graph, stand_in)
    ablation = Ablation.of(as_graph, graph.ablation)
    options: dict[str, Any] = {"encoder": graph.encoder, "heads": graph.heads, "num_bases": graph.num_bases}
    return ModelShape.of(
        as_graph,
        hidden=graph.hidden,
        without=ablation.relations,
        hidden_types=tuple(sorted(ablation.features)),
        scalar_bins=graph.scalar_bins,
        thresholds=graph.thresholds,
        **options,
    )


def graph_parameters(shape: ModelShape) -> int:
    """Counted on the module itself, without its weights."""
    with torch.device("meta"):
        return sum(p.numel() for p in GraphModel(shape).parameters())


def batch_size(size: GraphSize, seeds: int, fanout: int, store: Path | None) -> BatchSize:
    """One rank's mini-batch: sampled from the store, or from the table of the published size."""
    if store is not None:
        opened = graphstore.open(str(store))
        train = opened.split("train")
        chosen = np.random.default_rng(0).permutation(train)[: min(seeds, len(train))]
        batch = NeighborSampler(opened, fanout=fanout, hops=2, seed=0).sample(chosen)
        counts = batch.num_sampled_nodes[size.target]
        nodes = {name: len(ids) for name, ids in batch.nodes.items()}
        return BatchSize(len(chosen), int(sum(counts[:2])), nodes, batch.num_edges)
    videos = min(size.states, round(_between(_VIDEOS, seeds, fanout)))
    tails = min(videos, round(_between(_TAILS, seeds, fanout)))
    # A node a state, but for the types whose nodes are shared or several
    nodes = dict.fromkeys(size.nodes, tails)
    nodes |= {
        "platform": 5,
        "topic": min(535, videos),
        "comment": min(size.nodes["comment"], round(1.3 * tails)),
    }
    nodes[size.target] = videos
    return BatchSize(seeds, tails, nodes, round(_between(_EDGES, seeds, fanout)))


def _between(table: tuple[tuple[int, ...], ...], seeds: int, fanout: int) -> float:
    """Linear between the logarithms, and beyond the table along its last pieces."""
    by_fanout = [_line(_SEEDS, [row[i] for row in table], seeds) for i in range(len(_FANOUTS))]
    return max(float(seeds), _line(_FANOUTS, by_fanout, fanout))


def _line(x: tuple[int, ...], y: list[Any], at: float) -> float:
    i = min(max(int(np.searchsorted(x, at)) - 1, 0), len(x) - 2)
    share = np.log(at / x[i]) / np.log(x[i + 1] / x[i])
    return float(np.exp(np.log(y[i]) + share * np.log(y[i + 1] / y[i])))
