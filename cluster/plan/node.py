"""What a node needs besides its workers' memory: the host's, and the disk."""

from __future__ import annotations

from netgpt.cluster.plan.budget import language_case, language_stages
from netgpt.cluster.plan.memory import F32, MEAN_PROMPT, PROCESS_BYTES, Term, checkpoint_terms
from netgpt.cluster.plan.request import PlanRequest
from netgpt.cluster.plan.shapes import LanguageShape
from netgpt.graphstore.dataset import GraphSize
from netgpt.trainers.stages.names import stage_of

RAY_BYTES = 2_000_000_000
"""Memory of Ray on a node: GCS, raylet, agents, object store's own. An assumption: not measured."""
SAMPLER_BYTES = 300_000_000
"""Memory of a sampling worker, with its slots; the mapped store apart. An assumption: not measured."""
PACKED_SHARE = 0.15
"""Share of a store's bytes in its packed form (docs/measurements.md: 1.2 GB of 8.0, csr)."""
TOKEN_BYTES = 4
"""The token cache holds int32."""


def host_terms(request: PlanRequest, shape: LanguageShape) -> tuple[Term, ...]:
    """Memory of one node. On GPUs the base model's files are mapped while they are copied to the device."""
    config = request.config
    per_node = -(-request.workers // request.nodes)
    samplers = per_node * config.cluster.sampling_workers
    terms = [Term("Ray", RAY_BYTES), Term("sampling workers (stage 1)", samplers * SAMPLER_BYTES)]
    if request.gpus:
        terms.append(Term("training workers' processes", per_node * PROCESS_BYTES))
        for stage in language_stages(config)[-1:]:
            one = checkpoint_terms(language_case(request, shape, stage))
            terms.append(Term("best weights (rank 0)", one[0].num_bytes))
            terms.append(Term("a checkpoint being written, twice", per_node * one[1].num_bytes))
    return tuple(terms)


def disk_terms(
    request: PlanRequest, size: GraphSize, shape: LanguageShape, num_graph: int
) -> tuple[Term, ...]:
    config = request.config
    terms = [
        Term("store", size.store_bytes),
        Term("packed store", int(PACKED_SHARE * size.store_bytes)),
        Term("token cache", size.states * MEAN_PROMPT * TOKEN_BYTES),
        Term("embeddings", F32 * size.states * (config.graph.hidden + 1)),
        # Two checkpoints of values, moments and the best weights; a third while it is written; the weights
        Term("stage 1: checkpoints and weights", (3 * 4 + 1) * F32 * num_graph),
        Term("base model", shape.file_bytes),
    ]
    terms += [
        Term(f"{stage_of(name).title}: checkpoints and weights", (3 * 4 + 1) * F32 * num)
        for name, num in shape.trained.items()
    ]
    return tuple(terms)
