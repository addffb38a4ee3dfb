"""Memory of stage 1 and of exact inference, term by term.

Legend: D hidden width, F feature width, n nodes of a type in a batch, T tails (target nodes whose
neighbours are sampled), R relations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netgpt.cluster.plan.graphs import BatchSize
from netgpt.cluster.plan.memory import CUDA_BYTES, F32, HEAP_HOLES, HEAP_LIMIT, Memory, Term, largest
from netgpt.graphstore.dataset import GraphSize
from netgpt.trainers.config import GraphConfig
from netgpt.trainers.graph.encoders import MeanLayer, encoder_class
from netgpt.trainers.graph.exact.workspace import BLOCK_COPIES, MAX_BLOCK_ROWS, MIN_BLOCK_ROWS
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.processor import MOST_KEPT

PROCESS_BYTES = 555_000_000
"""Python with torch, compiled kernels and a sealed store (measured 2026-12-01: stage 1 of width
8 peaks at 559 MB)."""


@dataclass(frozen=True, kw_only=True)
class GraphCase:
    """What stage 1's memory depends on."""

    size: GraphSize
    shape: ModelShape
    parameters: int
    batch: BatchSize
    config: GraphConfig
    world_size: int
    device: str


def table_bytes(case: GraphCase) -> int:
    """Feature tables on the device: the smallest first, up to `graph.tables_gb` (trainers.graph.tables)."""
    on_gpu = case.device == "cuda"
    left, held = case.config.tables_gb * 1e9, 0
    sizes = {
        name: case.size.rows[name] * dim * (case.size.item[name] if on_gpu else F32)
        for name, dim in case.shape.feature_dims.items()
        if name not in case.shape.hidden_types
    }
    for name in sorted(sizes, key=lambda name: (sizes[name], name)):
        if sizes[name] > left:
            break
        left, held = left - sizes[name], held + sizes[name]
    return held


def batch_terms(case: GraphCase) -> tuple[list[Term], list[Term]]:
    """What a mini-batch keeps at the end of forward; and at its largest in backward."""
    shape, batch, width = case.shape, case.batch, case.shape.hidden
    tails = F32 * width * batch.tails
    kind = encoder_class(shape.encoder)
    averages = issubclass(kind, MeanLayer) and kind.averages_features
    averaged = states = others = 0
    for name, dim in shape.feature_dims.items():
        n = batch.nodes[name]
        rows = min(n, case.size.rows[name])  # a type of few contents is projected by content
        leaving = [e for e in shape.edge_types if e[0] == name]
        if averages and name not in shape.tail_types:
            # Means of its features and of a one; what the next layer reads of it is little
            averaged += len(leaving) * F32 * (dim + 1) * batch.tails
            continue
        averaged += F32 * rows * dim
        own = batch.tails if averages else n
        states += F32 * width * (rows + (own if rows < n else 0))
        others += 0 if name in shape.tail_types else F32 * width * n
        # The mean that a relation's weight is multiplied with, where heads are as many as tails or more
        states += sum(tails for _ in leaving if (rows if averages else n) >= batch.tails)
    copies = 1 if averages or not case.config.dropout else 3
    between = copies * (others + tails)
    kept = [Term("features of the batch", averaged), Term("states of the batch", states)]
    forward = [*kept, Term("states between layers", between + 2 * tails)]
    gradients = others + 2 * tails + 2 * F32 * width * sum(batch.nodes[n] for n in shape.tail_types)
    backward = [*kept, Term("gradients by state", 3 * tails if averages else gradients)]
    return forward, backward


def stage1_memory(case: GraphCase) -> Memory:
    """Memory of one rank of stage 1; rank 0's, which keeps the best weights and validates."""
    cpu = case.device == "cpu"
    size = F32 * case.parameters
    base = [
        Term("process" if cpu else "CUDA context", PROCESS_BYTES if cpu else CUDA_BYTES),
        Term("weights (float32)", size),
        Term("Adam's moments", 2 * size),
        Term("gradients", size),  # of the step before until this step's forward is done
        Term("feature tables", table_bytes(case)),
    ]
    if cpu:
        base.append(Term("best weights so far", size))
    flat = Term("flat gradients", size if case.world_size > 1 else 0)  # while they are summed over ranks
    forward, backward = batch_terms(case)
    moments = {"end of forward": forward, "backward": [*backward, flat]}
    if cpu:
        # As in the language stages the heap keeps its holes, and what is free at its end for the next batch
        kept = [0]
        for terms in moments.values():
            held = sum(t.num_bytes for t in terms)
            holes = int(HEAP_HOLES * held) if _in_heap(case) else 0
            kept.append(min(held, MOST_KEPT) + holes if _in_heap(case) else 0)
            terms.append(Term("holes in the heap", holes))
        # trainers.weights.save copies weights, best weights and both moments
        copies, left = Term("checkpoint's copies", 4 * size), Term("heap, kept for the next batch", max(kept))
        moments["writing a checkpoint"] = [copies, left]
        moments["validation by exact inference"] = inference_terms(case.size, case.shape, case.config)
    return largest(base, moments)


def _in_heap(case: GraphCase) -> bool:
    """Whether the blocks of a batch are small enough for glibc's heap."""
    return F32 * case.shape.hidden * case.batch.tails < HEAP_LIMIT


def inference_terms(size: GraphSize, shape: ModelShape, config: GraphConfig) -> list[Term]:
    """Arrays and blocks of exact inference on a CPU, as trainers.graph.exact.workspace lends them."""
    width, budget = shape.hidden, config.inference_bytes
    num_states = sum(size.nodes[name] for name in shape.tail_types)
    states = F32 * width * num_states
    first = F32 * width * sum(min(size.nodes[name], size.rows[name]) for name in shape.tail_types)
    # The layer's input and its sums; the first layer's input is by content. Beyond half of the budget they
    # are mapped files, whose pages count as resident too, but may be written back
    arrays = max(first + states, 2 * states)
    widest = max(width, *shape.feature_dims.values())
    rows = int(np.clip(budget // (BLOCK_COPIES * F32 * widest), MIN_BLOCK_ROWS, MAX_BLOCK_ROWS))
    tables = [
        F32 * width * size.rows[name]
        for name in shape.node_types
        if name not in shape.tail_types and 8 * F32 * width * size.rows[name] <= budget
    ]
    orders = 8 * num_states * 3  # of the walks over the relations between such nodes
    read = sum(size.rows[n] * d * size.item[n] for n, d in shape.feature_dims.items())
    # Features, projected states and their product of one block are there at once, and what torch sums in
    blocks = F32 * min(rows, num_states) * (2 * widest + 4 * width)
    return [
        Term("states", min(arrays, budget // 2)),
        Term("states in mapped files", max(0, arrays - budget // 2)),
        Term("table of a node type's states", max(tables, default=0)),
        Term("blocks", blocks),
        Term("orders of walks", orders),
        Term("store, mapped", read),
    ]


def embedding_memory(size: GraphSize, shape: ModelShape, parameters: int, config: GraphConfig) -> Memory:
    """Memory of the one process that makes the embedding cache, its blocks on the CPU."""
    base = [Term("process", PROCESS_BYTES), Term("weights (float32)", F32 * parameters)]
    return largest(base, {"layer by layer": inference_terms(size, shape, config)})
