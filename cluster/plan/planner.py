"""The plan of a run: what each stage needs of every worker and of a node, for how long, and what fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from netgpt.cluster.config import RunConfig
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.plan import durations, graphs
from netgpt.cluster.plan.budget import Budget, language_case, language_stages, suggested
from netgpt.cluster.plan.durations import Duration, Machines
from netgpt.cluster.plan.graph_memory import GraphCase, embedding_memory, stage1_memory
from netgpt.cluster.plan.memory import (
    F32,
    GPU_SLACK,
    MEAN_PROMPT,
    RESPONSE,
    Memory,
    Term,
    activation_terms,
    language_memory,
)
from netgpt.cluster.plan.node import PACKED_SHARE, disk_terms, host_terms
from netgpt.cluster.plan.request import PlanRequest
from netgpt.cluster.plan.shapes import LanguageShape, language_shape
from netgpt.graphstore.dataset import GraphSize
from netgpt.trainers.graph.encoders.names import ATTENTION
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of

TOKENIZER_BYTES = 700_000_000
"""Memory of a tokenising actor: Python with transformers. An assumption: not measured."""


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """One stage: what a worker holds, and how long all of them take."""

    name: str
    workers: int
    device: str
    frozen: int
    """Parameters."""
    trained: int
    memory: Memory
    duration: Duration
    sent_bytes: int = 0
    """By each worker in an optimiser step."""
    without_checkpointing: int = 0
    """Activations (bytes) at the token budget with every layer's kept; language stages."""
    with_checkpointing: int = 0
    """The same with `language.activation_checkpointing`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    request: PlanRequest
    graph: GraphSize
    shape: LanguageShape
    stages: tuple[StagePlan, ...]
    budget: Budget | None
    """None on CPUs, and without a language stage."""
    host: tuple[Term, ...]
    """Memory of a node, besides what a stage's CPU workers hold."""
    disk: tuple[Term, ...]
    """Disk of a run, on the shared folder, and of a node's store."""
    unpack_bytes: int
    """That a node reads once to have its store."""
    notes: tuple[str, ...]

    def stage(self, name: str) -> StagePlan:
        return next(s for s in self.stages if s.name == name)

    def to_dict(self) -> dict[str, Any]:
        """The same numbers for a machine."""
        stages = {}
        for s in self.stages:
            moment = {"moment": s.memory.moment, "peak_bytes": s.memory.peak_bytes}
            terms = [asdict(t) for t in s.memory.terms]
            stages[s.name] = {**asdict(s), "memory": {**moment, "terms": terms}}
        return {
            "gpus": self.request.gpus,
            "nodes": self.request.nodes,
            "gpu_memory_gb": self.request.gpu_memory_gb,
            "usable_bytes": self.request.usable_bytes,
            "assumed": {"mfu": self.request.mfu, "gpu_flops": self.request.gpu_flops, "gpu_slack": GPU_SLACK},
            "graph": {
                "source": self.graph.source,
                "states": self.graph.states,
                "edges": self.graph.edges,
                "nodes": sum(self.graph.nodes.values()),
                "train_states": self.graph.train_states,
            },
            "model": asdict(self.shape),
            "token_budget": self.request.config.language.token_budget,
            "stages": stages,
            "budget": asdict(self.budget) if self.budget else None,
            "host": {t.name: t.num_bytes for t in self.host},
            "disk": {t.name: t.num_bytes for t in self.disk},
            "unpack_bytes": self.unpack_bytes,
            "notes": list(self.notes),
        }


def make_plan(request: PlanRequest) -> Plan:
    """Everything a run needs. ClusterError where the model or the store is not known."""
    config = request.config
    for stage in map(stage_of, config.stages):
        if not stage.planned:
            raise ClusterError(
                f"plan: found a recipe with the stage {stage.name}, expected another: those are not planned"
            )
    language = language_stages(config)
    shape = language_shape(
        config.language.model,
        config.language.tiny,
        graph_dim=config.graph.hidden,
        parts={stage.name: stage.parts(config) for stage in language},
    )
    size = graphs.of_store(request.store, config) if request.store else graphs.published(config)
    kinds, made = {stage_of(name).kind for name in config.stages}, _graph_stages(request, size)
    stages = (
        *(made[kind] for kind in made if kind in kinds),
        *(_language_stage(request, size, shape, stage) for stage in language),
    )
    budget = suggested(request, shape) if request.gpus and language else None
    return Plan(
        request=request,
        graph=size,
        shape=shape,
        stages=stages,
        budget=budget,
        host=host_terms(request, shape),
        disk=disk_terms(request, size, shape, made["graph"].trained),
        unpack_bytes=int(PACKED_SHARE * size.store_bytes) if request.nodes > 1 else 0,
        notes=_notes(request, budget),
    )


def _machines(request: PlanRequest, workers: int) -> Machines:
    return Machines(
        gpus=request.gpus,
        workers=workers,
        threads=request.config.cluster.threads,
        mfu=request.mfu,
        gpu_flops=request.gpu_flops,
    )


def _graph_stages(request: PlanRequest, size: GraphSize) -> dict[str, StagePlan]:
    """Stages that train no language model, by kind."""
    config, workers = request.config, request.workers
    shape = graphs.model_shape(size, config)
    parameters = graphs.graph_parameters(shape, config)
    seeds = -(-config.graph.batch_size // workers)
    batch = graphs.batch_size(size, seeds, config.sampler.fanout)
    case = GraphCase(
        size=size,
        shape=shape,
        parameters=parameters,
        batch=batch,
        config=config.graph,
        world_size=workers,
        device=request.device,
    )
    samplers, threads = config.cluster.sampling_workers, config.cluster.threads
    one = _machines(request, workers)
    first = StagePlan(
        name=_named(config, "graph"),
        workers=workers,
        device=request.device,
        frozen=0,
        trained=parameters,
        memory=stage1_memory(case),
        duration=durations.stage1_duration(size, shape, batch, config, one, samplers),
        sent_bytes=_ring(F32 * parameters, workers, twice=True),
    )
    embeddings = StagePlan(
        name=_named(config, "embeddings"),
        workers=1,
        device="cpu",
        frozen=parameters,
        trained=0,
        memory=embedding_memory(size, shape, parameters, config.graph),
        duration=durations.embedding_duration(size, config.graph.hidden, threads, config.build.layout),
    )
    tokens = StagePlan(
        name=_named(config, "tokens"),
        workers=workers,
        device="cpu",
        frozen=0,
        trained=0,
        memory=Memory("all along", (Term("process", TOKENIZER_BYTES),)),
        duration=durations.token_duration(size, workers),
    )
    return {"graph": first, "embeddings": embeddings, "tokens": tokens}


def _language_stage(
    request: PlanRequest, size: GraphSize, shape: LanguageShape, stage: LanguageStage
) -> StagePlan:
    config, case = request.config, language_case(request, shape, stage)
    settings = stage.config(config)

    def activations(on: bool) -> int:
        kept, _ = activation_terms(replace(case, activation_checkpointing=on), case.token_budget)
        return sum(t.num_bytes for t in kept)

    train = round(size.train_states * (1 - config.task.val_share))
    moved = case.item * case.num_trained
    return StagePlan(
        name=stage.name,
        workers=request.workers,
        device=request.device,
        frozen=shape.frozen(stage.name),
        trained=case.num_trained,
        memory=language_memory(case),
        duration=durations.language_duration(
            shape.decoder,
            _machines(request, request.workers),
            samples=train,
            tokens=MEAN_PROMPT,
            epochs=settings.epochs,
            trained_layers=case.layers_trained,
            response=RESPONSE if case.answers else 0,
            checkpointing=case.activation_checkpointing,
        ),
        # Each pack's gradients are reduced; new weights are gathered once a step
        sent_bytes=case.accumulation * _ring(moved, request.workers, twice=True)
        + _ring(moved, request.workers, twice=False),
        without_checkpointing=activations(False),
        with_checkpointing=activations(True),
    )


def _named(config: RunConfig, kind: str) -> str:
    """The stage of a kind that a run has."""
    return next((stage_of(n).name for n in config.stages if stage_of(n).kind == kind), kind)


def _ring(num_bytes: int, workers: int, *, twice: bool) -> int:
    """Bytes that each of `workers` sends in a ring: an all-gather, or twice that, an all-reduce."""
    return (1 + twice) * num_bytes * (workers - 1) // workers


def _notes(request: PlanRequest, budget: Budget | None) -> tuple[str, ...]:
    config = request.config
    notes = ["memory of Ray, sampling workers and tokenising actors is assumed, not measured"]
    if request.gpus:
        notes.append(f"cluster.workers is planned as --gpus: {request.gpus}")
        notes.append("nothing about GPUs is measured: CUDA context, allocator slack and rates are assumed")
        notes.append("embeddings are planned in blocks on the CPU; a GPU with room for the graph is faster")
        if budget and budget.tokens and config.language.token_budget > budget.tokens:
            notes.append(f"language.token_budget={config.language.token_budget} does not fit")
    else:
        notes.append("memory is of one worker process, mapped files included: VmHWM, as the kernel counts it")
    if config.graph.encoder in ATTENTION or config.graph.neighbors == "all":
        notes.append("stage 1 is modelled for sampled rgcn and gcn; attention and exact training take more")
    if config.language.pixels:
        notes.append("clips are not planned for: prompts are longer with them, and the vision tower runs")
    return tuple(notes)
