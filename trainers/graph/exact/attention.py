"""One layer of attention over the whole graph: every row is walked, since a softmax has no running sum.

Values of all node types are there while a layer is under way (in mapped files beyond the budget); the
tails are done in blocks of so many edges.

Shape suffixes: N nodes of a type, T tails of a block, K parts, D hidden width, H attention heads, C width
of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders import AttentionLayer
from netgpt.trainers.graph.exact.workspace import States, Workspace
from netgpt.trainers.graph.rows import HeadRows, SampledRows
from netgpt.trainers.graph.tables import WholeContents

BLOCK_EDGES = 1 << 22
"""Edges of a block: some 100 bytes each are held."""


def attention_layer(
    work: Workspace,
    layer: AttentionLayer,
    index: int,
    states: Mapping[str, States],
    scores: list[float] | None,
) -> tuple[dict[str, States], list[float]]:
    """States behind a layer of the types that get some from their heads, by node; and the mean scores of the
    parts of each of these types, one type's after the other's.

    scores: mean scores to use in place of those of this graph.
    """
    values, row_of = _values(work, layer, index, states)
    keys = {e: _keys(work, layer, e, values[e[0]]) for e in layer.edge_types}
    parts, sums = {}, {}
    for name in work.model.parts[index].tail_types:
        parts[name], sums[name] = _parts(work, layer, name, keys, values, row_of)
    del values, keys
    used: list[float] = []
    new, last = {}, index + 1 == work.model.shape.num_layers
    for name, of_type in parts.items():
        start, num = perf_counter(), work.graph.num_nodes[name]
        mean_K = (sums[name] / max(1, num)).float()
        if scores is not None:
            mean_K = torch.tensor(scores[len(used) : len(used) + len(mean_K)])
        used += mean_K.tolist()
        out = work.array(num)
        for block in work.blocks(num, max(1, work.block_rows // len(layer.ending_in(name)))):
            stacked_KTD = torch.stack([torch.from_numpy(part[block]) for part in of_type])
            combined = layer.combine(name, states[name].of(block), stacked_KTD, mean_K)
            out[block] = (combined if last else work.model.between(combined)).numpy()
        new[name] = States(out, None)
        work.count("attention", start)
    return new, used


def _parts(
    work: Workspace,
    layer: AttentionLayer,
    name: str,
    keys: Mapping[EdgeType, Tensor],
    values: Mapping[str, Tensor],
    row_of: Mapping[str, np.ndarray | None],
) -> tuple[list[np.ndarray], Tensor]:
    """Parts of the nodes of a type, [N, D] each, and the sums of their scores: [K] float64."""
    start, num, edge_types = perf_counter(), work.graph.num_nodes[name], layer.ending_in(name)
    relations = {e: work.graph.relation(e) for e in edge_types}
    degrees = {e: relation.degree() for e, relation in relations.items()}
    max_rows = max(1, work.block_rows // len(edge_types))  # there is a part for each relation
    parts: list[np.ndarray] = []
    sums_K = torch.zeros(0, dtype=torch.float64)
    row = row_of[name]
    for block in work.edge_blocks(np.sum(list(degrees.values()), axis=0), BLOCK_EDGES, max_rows):
        rows: dict[EdgeType, HeadRows] = {}
        for e, relation in relations.items():
            heads = relation.heads_of(block.start, block.stop)
            contents = row_of[e[0]]
            heads = (heads if contents is None else contents[heads]).astype(np.int64)
            rows[e] = SampledRows(torch.from_numpy(heads), torch.from_numpy(degrees[e][block]))
        where = np.arange(block.start, block.stop) if row is None else row[block].astype(np.int64)
        own_HTC = values[name][:, torch.from_numpy(where)]
        made_KTD = layer.attend(name, keys, values, own_HTC, rows)
        if not parts:
            parts = [work.array(num) for _ in made_KTD]
            sums_K = torch.zeros(len(made_KTD), dtype=torch.float64)
        for part, made_TD in zip(parts, made_KTD, strict=True):
            part[block] = made_TD.numpy()
        sums_K += layer.scores(made_KTD).double()
    work.count("attention", start, len(edge_types))
    return parts, sums_K


def _values(
    work: Workspace, layer: AttentionLayer, index: int, states: Mapping[str, States]
) -> tuple[dict[str, Tensor], dict[str, np.ndarray | None]]:
    """Values by node type and distinct content, [H, rows, C], and the row of each node."""
    values: dict[str, Tensor] = {}
    row_of: dict[str, np.ndarray | None] = {}
    for name in dict.fromkeys([*layer.tail_types, *(e[0] for e in layer.edge_types)]):
        if name in states:
            row_of[name], h = states[name].row, states[name].h
        else:
            contents = WholeContents.of(work.tables, name)
            row_of[name] = contents.row
            before = partial(work.model.source, name, layer=index)
            h = work.source_table(contents, before, work.array(len(contents.x)))
        # Head after head, as they are read: a bag over rows that lie apart would copy them all
        shape = (layer.heads, len(h), layer.value_width)
        value_HNC = torch.from_numpy(work.array(len(h), layer.heads * layer.value_width).reshape(shape))
        for block in work.blocks(len(h)):
            value_HNC[:, block] = layer.values_of(name, torch.from_numpy(h[block]))
        values[name] = value_HNC
    return values, row_of


def _keys(work: Workspace, layer: AttentionLayer, edge_type: EdgeType, value_HNC: Tensor) -> Tensor:
    """[N, H], or what a node's key is of the layer."""
    num = value_HNC.shape[1]
    keys = torch.from_numpy(work.array(num, math.prod(layer.key_shape)).reshape(num, *layer.key_shape))
    for block in work.blocks(num):
        keys[block] = layer.key(edge_type, value_HNC[:, block])
    return keys
