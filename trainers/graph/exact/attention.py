"""One layer of attention over the whole graph: every row is walked, since a softmax has no running sum.

Values of all node types are there while a layer is under way (in mapped files beyond the budget); the
tails are done in blocks of so many edges.

Shape suffixes: N nodes of a type, T tails of a block, K parts, D hidden width, H attention heads, C width
of one of them.
"""

from __future__ import annotations

from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import EdgeType
from netgpt.trainers.graph.encoders import AttentionLayer
from netgpt.trainers.graph.exact.workspace import Workspace, own_states
from netgpt.trainers.graph.rows import HeadRows, SampledRows
from netgpt.trainers.graph.tables import WholeContents

BLOCK_EDGES = 1 << 22
"""Edges of a block: some 100 bytes each are held."""


def attention_layer(
    work: Workspace,
    layer: AttentionLayer,
    index: int,
    h: np.ndarray,
    row: np.ndarray | None,
    scores_K: Tensor | None,
) -> tuple[np.ndarray, Tensor]:
    """States of all target nodes [N, D] behind a layer, and the mean scores of its parts.

    `h`, `row` as of `Workspace.inputs`. scores_K: mean scores to use in place of those of this graph.
    """
    start = perf_counter()
    values, row_of = _values(work, layer, index, h, row)
    keys = {e: _keys(work, layer, e, values[e[0]]) for e in layer.edge_types}
    relations = {e: work.graph.relation(e) for e in layer.edge_types}
    degrees = {e: relation.degree() for e, relation in relations.items()}
    max_rows = max(1, work.block_rows // len(layer.edge_types))  # there is a part for each relation
    parts: list[np.ndarray] = []
    sums_K = torch.zeros(0, dtype=torch.float64)
    for block in work.edge_blocks(np.sum(list(degrees.values()), axis=0), BLOCK_EDGES, max_rows):
        rows: dict[EdgeType, HeadRows] = {}
        for e, relation in relations.items():
            heads = relation.heads_of(block.start, block.stop)
            contents = row_of[e[0]]
            heads = (heads if contents is None else contents[heads]).astype(np.int64)
            rows[e] = SampledRows(torch.from_numpy(heads), torch.from_numpy(degrees[e][block]))
        where = np.arange(block.start, block.stop) if row is None else row[block].astype(np.int64)
        own_HTC = values[layer.target][:, torch.from_numpy(where)]
        found_KTD = layer.attend(keys, values, own_HTC, rows)
        if not parts:
            parts = [work.array(work.num) for _ in found_KTD]
            sums_K = torch.zeros(len(found_KTD), dtype=torch.float64)
        for part, found_TD in zip(parts, found_KTD, strict=True):
            part[block] = found_TD.numpy()
        sums_K += layer.scores(found_KTD).double()
    del values, keys
    mean_K = (sums_K / max(1, work.num)).float() if scores_K is None else scores_K
    out = work.array(work.num)
    last = index + 1 == work.model.shape.num_layers
    for block in work.blocks(work.num, max_rows):
        stacked_KTD = torch.stack([torch.from_numpy(part[block]) for part in parts])
        states = layer.combine(own_states(h, row, block), stacked_KTD, mean_K)
        out[block] = (states if last else work.model.between(states)).numpy()
    work.count("attention", start, len(layer.edge_types) + 1)
    return out, mean_K


def _values(
    work: Workspace, layer: AttentionLayer, index: int, h: np.ndarray, row: np.ndarray | None
) -> tuple[dict[str, Tensor], dict[str, np.ndarray | None]]:
    """Values by node type and distinct content, [H, rows, C], and the row of each node."""
    values: dict[str, Tensor] = {}
    row_of: dict[str, np.ndarray | None] = {layer.target: row}
    for name in dict.fromkeys([layer.target, *(e[0] for e in layer.edge_types)]):
        if name == layer.target:
            states, num = None, len(h)
        else:
            contents = WholeContents.of(work.tables, name)
            row_of[name], num = contents.row, len(contents.x)
            states = work.source_table(name, contents, index, lambda x: x, work.array(num))
        # Head after head, as they are read: a bag over rows that lie apart would copy them all
        value_HNC = torch.from_numpy(work.array(num).reshape(layer.heads, num, layer.width))
        for block in work.blocks(num):
            x = torch.from_numpy((h if states is None else states)[block])
            value_HNC[:, block] = layer.values_of(name, x)
        values[name] = value_HNC
    return values, row_of


def _keys(work: Workspace, layer: AttentionLayer, edge_type: EdgeType, value_HNC: Tensor) -> Tensor:
    """[N, H]."""
    num = value_HNC.shape[1]
    key_NH = torch.empty(num, layer.heads)
    for block in work.blocks(num):
        key_NH[block] = layer.key(edge_type, value_HNC[:, block])
    return key_NH
