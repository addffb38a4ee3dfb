"""Exact full-neighbour inference, layer by layer, and the embedding cache that it writes.

States of the target live in files that are mapped, so memory holds blocks; other node types have no
in-edges, and their states are computed block by block where a relation needs them.

Shape suffixes: N target nodes, B nodes of a block, D hidden width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import zarr

from graphstore import EdgeType, Graph
from graphstore.arrays import ArrayWriter, map_array, write_array
from graphstore.files import read_json
from trainers.errors import TrainerError
from trainers.graph.aggregate import exact_mean
from trainers.graph.model import RGCN, FeatureTables

BLOCK_NODES = 16_384
Progress = Callable[[int, int], None]


def _source_states(
    model: RGCN, tables: FeatureTables, node_type: str, ids: np.ndarray, layer: int
) -> torch.Tensor:
    """States of non-target nodes before `layer`: [n] node numbers → [n, D]."""
    h = model.inputs(tables, node_type, ids)
    for below in range(layer):
        h = model.between(model.root(below, h))
    return h


def _block_mean(
    model: RGCN, tables: FeatureTables, edge_type: EdgeType, layer: int, first: int, last: int
) -> torch.Tensor:
    """Means of a relation from another node type, for target nodes first to last: [B, D].

    Sums are float64, in row order. Each distinct head is computed once a block.
    """
    relation = tables.graph.relation(edge_type)
    begin, end = np.asarray(relation.begin[first:last]), np.asarray(relation.end[first:last])
    length = end - begin
    place = np.repeat(begin - (np.cumsum(length) - length), length) + np.arange(length.sum())
    heads, where = np.unique(np.asarray(relation.indices)[place], return_inverse=True)
    h = _source_states(model, tables, edge_type[0], heads.astype(np.int64), layer).double()
    total = torch.zeros(last - first, h.shape[1], dtype=torch.float64, device=h.device)
    tail = torch.from_numpy(np.repeat(np.arange(last - first), length)).to(h.device)
    total.index_add_(0, tail, h[torch.from_numpy(where).to(h.device)])
    return (total / torch.from_numpy(np.maximum(length, 1)).to(h.device)[:, None]).float()


@torch.no_grad()
def exact_states(
    model: RGCN, tables: FeatureTables, scratch: Path, progress: Progress | None = None
) -> np.ndarray:
    """Embeddings of all target nodes over all their neighbours: [N, D] float32, mapped from `scratch`.

    Equal to `RGCN.forward` with no sampling and no dropout, up to float32 rounding.
    """
    training = model.training
    model.eval()
    graph, target, width = tables.graph, model.target, model.shape.hidden
    num = graph.num_nodes[target]
    blocks = [(a, min(a + BLOCK_NODES, num)) for a in range(0, num, BLOCK_NODES)]
    steps, done = (1 + model.shape.num_layers) * len(blocks), 0

    def scratch_array(name: str) -> np.ndarray:
        return np.memmap(scratch / f"{name}.f32", np.float32, "w+", shape=(num, width))

    def step() -> None:
        nonlocal done
        done += 1
        if progress:
            progress(done, steps)

    h = scratch_array("input")
    for first, last in blocks:
        h[first:last] = model.inputs(tables, target, np.arange(first, last)).cpu().numpy()
        step()
    for index, layer in enumerate(model.layers):
        means: dict[EdgeType, np.ndarray] = {}
        for i, edge_type in enumerate(graph.edge_types):
            if edge_type[0] == target:
                means[edge_type] = scratch_array(f"mean-{i}")
                exact_mean(graph.relation(edge_type), h, means[edge_type])
        out = scratch_array(f"layer-{index}")
        for first, last in blocks:
            block = [
                torch.from_numpy(np.array(means[e][first:last])).to(tables.device)
                if e in means
                else _block_mean(model, tables, e, index, first, last)
                for e in graph.edge_types
            ]
            states = layer(torch.from_numpy(np.array(h[first:last])).to(tables.device), block)
            if index + 1 < model.shape.num_layers:
                states = model.between(states)
            out[first:last] = states.cpu().numpy()
            step()
        h = out
    model.train(training)
    return h


@torch.no_grad()
def exact_scores(model: RGCN, h_ND: np.ndarray) -> np.ndarray:
    """Scores of embeddings: [N, D] → [N] float32."""
    training = model.training
    model.eval()
    device = model.predictor.weight.device
    parts = [
        model.score(torch.from_numpy(np.array(h_ND[a : a + BLOCK_NODES])).to(device)).cpu().numpy()
        for a in range(0, len(h_ND), BLOCK_NODES)
    ]
    model.train(training)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def embed(
    model: RGCN, graph: Graph, device: torch.device, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, D] and scores [N] of all target nodes, in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        h = exact_states(model, FeatureTables(graph, device), Path(scratch), progress)
        return np.array(h), exact_scores(model, h)


def write_cache(
    folder: Path,
    model: RGCN,
    graph: Graph,
    device: torch.device,
    digests: dict[str, str],
    progress: Progress | None = None,
) -> None:
    """Write the embedding cache: Zarr arrays `h` [N, D] and `score` [N] under `folder`, a Zarr group.

    `digests` (of the store and of the checkpoint) become the group's attributes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        h = exact_states(model, FeatureTables(graph, device), Path(scratch), progress)
        with ArrayWriter(folder, "h", np.float32, h.shape[1]) as writer:
            for first in range(0, len(h), BLOCK_NODES):
                writer.append(h[first : first + BLOCK_NODES])
        write_array(folder, "score", exact_scores(model, h))
    zarr.open_group(str(folder), mode="a").attrs.update(digests)


def open_cache(folder: Path, digests: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Map a cache's `h` and `score`. TrainerError where it is of another store or checkpoint."""
    found = read_json(folder / "zarr.json")["attributes"] if (folder / "zarr.json").exists() else {}
    for name, digest in digests.items():
        if found.get(name) != digest:
            raise TrainerError(
                f"{folder}: found embeddings of {name} {found.get(name)}, expected {digest}; "
                "run again: netgpt embed"
            )
    return map_array(folder, "h"), map_array(folder, "score")
