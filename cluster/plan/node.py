"""What a node needs besides its workers' memory: the host's, and the disk."""

from __future__ import annotations

from netgpt.cluster.plan.budget import language_case
from netgpt.cluster.plan.graphs import GraphSize
from netgpt.cluster.plan.memory import F32, MEAN_PROMPT, PROCESS_BYTES, Term, checkpoint_terms
from netgpt.cluster.plan.request import Request
from netgpt.cluster.plan.shapes import LanguageShape

RAY_BYTES = 2_000_000_000
"""Of a node: GCS, raylet, agents, object store's own. An assumption: not measured."""
SAMPLER_BYTES = 300_000_000
"""Of a sampling worker, with its slots; the mapped store apart. An assumption: not measured."""
PACKED_SHARE = 0.15
"""Of a store's bytes in its packed form (README: 1.2 GB of 8.0, csr)."""
TOKEN_BYTES = 4
"""The token cache holds int32."""


def host_terms(request: Request, shape: LanguageShape) -> tuple[Term, ...]:
    """Of one node. On GPUs the base model's files are mapped while they are copied to the device."""
    config = request.config
    per_node = -(-request.workers // request.nodes)
    samplers = per_node * config.cluster.sampling_workers
    found = [Term("Ray", RAY_BYTES), Term("sampling workers (stage 1)", samplers * SAMPLER_BYTES)]
    if request.gpus:
        found.append(Term("training workers' processes", per_node * PROCESS_BYTES))
        one = checkpoint_terms(language_case(request, shape, "stage3"))
        found.append(Term("best weights (rank 0)", one[0].num_bytes))
        found.append(Term("a checkpoint being written, twice", per_node * one[1].num_bytes))
    return tuple(found)


def disk_terms(request: Request, size: GraphSize, shape: LanguageShape, num_graph: int) -> tuple[Term, ...]:
    config = request.config
    found = [
        Term("store", size.store_bytes),
        Term("packed store", int(PACKED_SHARE * size.store_bytes)),
        Term("token cache", size.states * MEAN_PROMPT * TOKEN_BYTES),
        Term("embeddings", F32 * size.states * (config.graph.hidden + 1)),
        Term("stage 1: checkpoint and weights", 5 * F32 * num_graph),
        Term("base model", shape.file_bytes),
    ]
    found += [
        # Two checkpoints of values, moments and the best weights; a third while it is written; the weights
        Term(f"{stage.replace('stage', 'stage ')}: checkpoints and weights", (3 * 4 + 1) * F32 * num)
        for stage, num in shape.trained.items()
    ]
    return tuple(found)
