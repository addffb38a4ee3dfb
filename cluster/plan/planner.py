"""The plan of a run: what each stage needs of every worker and of a node, for how long, and what fits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cluster.config import RunConfig, load_config
from cluster.errors import ClusterError
from cluster.plan import durations, graphs
from cluster.plan.durations import Duration, Machines
from cluster.plan.graph_memory import GraphCase, embedding_memory, stage1_memory
from cluster.plan.memory import (
    F32,
    GPU_SLACK,
    MEAN_PROMPT,
    PROCESS_BYTES,
    RESPONSE,
    LanguageCase,
    Memory,
    Term,
    activation_terms,
    checkpoint_terms,
    language_memory,
)
from cluster.plan.shapes import LanguageShape, language_shape

BUDGET_STEP, BUDGET_MOST = 256, 1 << 20
"""Token budgets that are tried: multiples, up to a million."""
LEAST_TOKENS = 512
"""Shorter samples would be little more than the instruction: not suggested."""
RAY_BYTES = 2_000_000_000
"""Of a node: GCS, raylet, agents, object store's own. An assumption: not measured."""
SAMPLER_BYTES = 300_000_000
"""Of a sampling worker, with its slots; the mapped store apart. An assumption: not measured."""
TOKENIZER_BYTES = 700_000_000
"""Of a tokenising actor: Python with transformers. An assumption: not measured."""
PACKED_SHARE = 0.15
"""Of a store's bytes in its packed form (README: 1.2 GB of 8.0, csr)."""
TOKEN_BYTES = 4
"""The token cache holds int32."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is planned for."""

    config: RunConfig
    gpus: int
    """Over all nodes; 0: CPUs."""
    nodes: int = 1
    gpu_memory_gb: float = 80.0
    """10^9 bytes a GPU."""
    mfu: float = 0.4
    gpu_flops: float = 989e12
    """Dense bfloat16 peak of a GPU: an H100's, as its maker says."""
    store: Path | None = None

    def __post_init__(self) -> None:
        for name, found, ok, expected in (
            ("--gpus", self.gpus, self.gpus >= 0, "0 for CPUs, or a number of GPUs"),
            ("--nodes", self.nodes, self.nodes >= 1, "at least 1"),
            ("--gpu-memory", self.gpu_memory_gb, self.gpu_memory_gb > 0, "above 0 (10^9 bytes)"),
            ("--mfu", self.mfu, 0 < self.mfu <= 1, "a share above 0, up to 1"),
            ("--gpu-flops", self.gpu_flops, self.gpu_flops > 0, "above 0"),
        ):
            if not ok:
                raise ClusterError(f"{name}: found {found}, expected {expected}")
        if self.gpus % self.nodes:
            raise ClusterError(f"--gpus: found {self.gpus}, expected a multiple of --nodes ({self.nodes})")

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    @property
    def workers(self) -> int:
        return self.config.cluster.workers

    @property
    def usable_bytes(self) -> int:
        return int(self.gpu_memory_gb * 1e9 * (1 - GPU_SLACK))


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
class Budget:
    """The largest token budget that fits."""

    tokens: int
    """0: not even a sample of `language.max_tokens`."""
    advice: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    request: Request
    graph: graphs.GraphSize
    shape: LanguageShape
    stages: tuple[StagePlan, ...]
    budget: Budget | None
    """None on CPUs."""
    host: tuple[Term, ...]
    """Memory of a node, besides what a stage's CPU workers hold."""
    disk: tuple[Term, ...]
    """Of a run, on the shared folder, and of a node's store."""
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


def planned_config(name: str, overrides: list[str] | None, gpus: int) -> RunConfig:
    """The configuration with a worker a GPU, which is how a run uses them."""
    found = list(overrides or [])
    if gpus > 0:
        given = [o for o in found if o.split("=")[0] == "cluster.workers"]
        if given and given[-1] != f"cluster.workers={gpus}":
            raise ClusterError(f"cluster.workers: found {given[-1]}, expected one a GPU (--gpus {gpus})")
        found = [*found, f"cluster.workers={gpus}"]
    try:
        return load_config(name, found)
    except ClusterError as error:
        if gpus and "cluster.workers" in str(error):
            raise ClusterError(f"{error}; the plan sets cluster.workers to --gpus ({gpus})") from error
        raise


def language_case(request: Request, shape: LanguageShape, stage: str) -> LanguageCase:
    config = request.config
    settings = config.stage3 if stage == "stage3" else config.stage2
    return LanguageCase(
        shape=shape,
        stage=stage,
        token_budget=config.language.token_budget,
        world_size=request.workers,
        accumulation=config.language.packs_per_step // request.workers,
        activation_checkpointing=config.language.activation_checkpointing,
        trained_layers=config.stage3.layers,
        device=request.device,
        epochs=settings.epochs,
    )


def make_plan(request: Request) -> Plan:
    """Everything a run needs. ClusterError where the model or the store is not known."""
    config = request.config
    shape = language_shape(
        config.language.model,
        config.language.tiny,
        graph_dim=config.graph.hidden,
        stage3_layers=config.stage3.layers,
    )
    size = graphs.of_store(request.store) if request.store else graphs.published(config)
    stages = (
        *_graph_stages(request, size),
        *(_language_stage(request, size, shape, s) for s in ("stage2", "stage3")),
    )
    budget = _budget(request, shape) if request.gpus else None
    return Plan(
        request=request,
        graph=size,
        shape=shape,
        stages=stages,
        budget=budget,
        host=_host(request, shape),
        disk=_disk(request, size, shape, stages[0]),
        unpack_bytes=int(PACKED_SHARE * size.store_bytes) if request.nodes > 1 else 0,
        notes=_notes(request, budget),
    )


def _machines(request: Request, workers: int) -> Machines:
    return Machines(
        gpus=request.gpus,
        workers=workers,
        threads=request.config.cluster.threads,
        mfu=request.mfu,
        gpu_flops=request.gpu_flops,
    )


def _graph_stages(request: Request, size: graphs.GraphSize) -> tuple[StagePlan, ...]:
    config, workers = request.config, request.workers
    shape = graphs.model_shape(size, config)
    parameters = graphs.graph_parameters(shape)
    seeds = -(-config.graph.batch_size // workers)
    batch = graphs.batch_size(size, seeds, config.sampler.fanout, request.store)
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
        name="stage1",
        workers=workers,
        device=request.device,
        frozen=0,
        trained=parameters,
        memory=stage1_memory(case),
        duration=durations.stage1_duration(size, shape, batch, config.graph, one, samplers),
        sent_bytes=_ring(F32 * parameters, workers, twice=True),
    )
    embeddings = StagePlan(
        name="embeddings",
        workers=1,
        device="cpu",
        frozen=parameters,
        trained=0,
        memory=embedding_memory(size, shape, parameters, config.graph),
        duration=durations.embedding_duration(size, config.graph.hidden, threads, config.build.layout),
    )
    tokens = StagePlan(
        name="tokens",
        workers=workers,
        device="cpu",
        frozen=0,
        trained=0,
        memory=Memory("all along", (Term("process", TOKENIZER_BYTES),)),
        duration=durations.token_duration(size, workers),
    )
    return first, embeddings, tokens


def _language_stage(request: Request, size: graphs.GraphSize, shape: LanguageShape, stage: str) -> StagePlan:
    config, case = request.config, language_case(request, shape, stage)
    settings = config.stage3 if stage == "stage3" else config.stage2

    def activations(on: bool) -> int:
        kept, _ = activation_terms(replace(case, activation_checkpointing=on), case.token_budget)
        return sum(t.num_bytes for t in kept)

    train = round(size.train_states * (1 - config.graph.val_share))
    moved = case.item * case.num_trained
    return StagePlan(
        name=stage,
        workers=request.workers,
        device=request.device,
        frozen=shape.frozen(stage),
        trained=case.num_trained,
        memory=language_memory(case),
        duration=durations.language_duration(
            shape.decoder,
            _machines(request, request.workers),
            samples=train,
            tokens=MEAN_PROMPT,
            epochs=settings.epochs,
            trained_layers=case.layers_trained,
            response=RESPONSE if stage == "stage2" else 0,
            checkpointing=case.activation_checkpointing,
        ),
        # Each pack's gradients are reduced; new weights are gathered once a step
        sent_bytes=case.accumulation * _ring(moved, request.workers, twice=True)
        + _ring(moved, request.workers, twice=False),
        without_checkpointing=activations(False),
        with_checkpointing=activations(True),
    )


def _ring(num_bytes: int, workers: int, *, twice: bool) -> int:
    """Bytes that each of `workers` sends in a ring: an all-gather, or twice that, an all-reduce."""
    return (1 + twice) * num_bytes * (workers - 1) // workers


def fits(request: Request, shape: LanguageShape, tokens: int, *, checkpointing: bool | None = None) -> bool:
    """Whether both language stages fit the GPUs with packs of so many tokens."""
    cases = [language_case(request, shape, stage) for stage in ("stage2", "stage3")]
    if checkpointing is not None:
        cases = [replace(c, activation_checkpointing=checkpointing) for c in cases]
    return all(language_memory(c, tokens).peak_bytes <= request.usable_bytes for c in cases)


def largest_budget(request: Request, shape: LanguageShape, *, checkpointing: bool | None = None) -> int:
    """The largest multiple of 256 tokens that fits; 0 where none does."""
    low, high = 0, BUDGET_MOST // BUDGET_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if fits(request, shape, middle * BUDGET_STEP, checkpointing=checkpointing):
            low = middle
        else:
            high = middle - 1
    return low * BUDGET_STEP


def _budget(request: Request, shape: LanguageShape) -> Budget:
    language = request.config.language
    found, least = largest_budget(request, shape), language.max_tokens
    if found >= least:
        return Budget(tokens=found, advice=f"language.token_budget={found}")
    ways = []
    if not language.activation_checkpointing:
        with_it = largest_budget(request, shape, checkpointing=True)
        if with_it >= least:
            ways.append(f"language.activation_checkpointing=true language.token_budget={with_it}")
    if found >= LEAST_TOKENS:
        ways.append(f"language.max_tokens={found} language.token_budget={found}")
    more = language_case(request, shape, "stage3")
    if (
        language_memory(replace(more, world_size=8 * request.workers), least).peak_bytes
        <= request.usable_bytes
    ):
        ways.append("more GPUs, which share the optimiser's state")
    ways.append("GPUs of more memory, or a smaller language.model")
    return Budget(tokens=0, advice=" or ".join(ways))


def _host(request: Request, shape: LanguageShape) -> tuple[Term, ...]:
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


def _disk(
    request: Request, size: graphs.GraphSize, shape: LanguageShape, first: StagePlan
) -> tuple[Term, ...]:
    config = request.config
    found = [
        Term("store", size.store_bytes),
        Term("packed store", int(PACKED_SHARE * size.store_bytes)),
        Term("token cache", size.states * MEAN_PROMPT * TOKEN_BYTES),
        Term("embeddings", F32 * size.states * (config.graph.hidden + 1)),
        Term("stage 1: checkpoint and weights", 5 * F32 * first.trained),
        Term("base model", shape.file_bytes),
    ]
    found += [
        # Two checkpoints of values, moments and the best weights; a third while it is written; the weights
        Term(f"{stage.replace('stage', 'stage ')}: checkpoints and weights", (3 * 4 + 1) * F32 * num)
        for stage, num in shape.trained.items()
    ]
    return tuple(found)


def _notes(request: Request, budget: Budget | None) -> tuple[str, ...]:
    config = request.config
    notes = []
    if request.gpus:
        notes.append(f"cluster.workers is planned as --gpus: {request.gpus}")
        notes.append("nothing about GPUs is measured: CUDA context, allocator slack and rates are assumed")
        if budget and budget.tokens and config.language.token_budget > budget.tokens:
            notes.append(f"language.token_budget={config.language.token_budget} does not fit")
    else:
        notes.append("memory is of one worker process, mapped files included: VmHWM, as the kernel counts it")
    if config.graph.encoder in ("han", "hetsann") or config.graph.neighbors == "all":
        notes.append("stage 1 is modelled for sampled rgcn and gcn; attention and exact training take more")
    if config.language.pixels:
        notes.append("clips are not planned for: prompts are longer with them, and the vision tower runs")
    return tuple(notes)
