"""The stages of a run as they are declared: what each reads and leaves, its command, and what it takes.

The driver runs a stage as soon as what it reads is done and the cluster has room for it: tokenisation
runs beside stage 1 where both fit.
"""

from __future__ import annotations

from dataclasses import dataclass

from netgpt.cluster.config import ClusterConfig
from netgpt.trainers.config import GraphConfig
from netgpt.trainers.settings import SINGLE_WORKER_STAGES


@dataclass(frozen=True)
class Stage:
    name: str
    title: str
    command: str
    """The netgpt command that makes it."""
    reads: tuple[str, ...] = ()
    """Stages that must be done before; `base` only where the run has one."""
    leaves: tuple[str, ...] = ()
    """Files or folders in its folder that a finished stage has."""


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("stage1", "stage 1: pretraining", "pretrain", (), ("model.safetensors",)),
        Stage("embeddings", "exact embeddings", "embed", ("stage1",), ("zarr.json", "h", "score")),
        Stage("base", "tiny base model", "tokenize", (), ("model",)),
        Stage("tokens", "token cache", "tokenize", ("base",), ("zarr.json",)),
        Stage("stage2", "stage 2: alignment", "align", ("embeddings", "tokens"), ("netgpt.safetensors",)),
        Stage("stage3", "stage 3: rating", "rate", ("stage2",), ("netgpt.safetensors",)),
        Stage("lora", "LoRA baseline", "lora", ("tokens",), ("netgpt.safetensors",)),
        Stage("evaluation", "evaluation", "evaluate", ("stage3",), ("predictions.parquet", "metrics.json")),
    )
}
"""In the order in which a single worker would make them."""
MEASURED = ("embeddings", "stage2", "stage3", "lora")
"""Stages that the evaluation measures, where they are done."""


@dataclass(frozen=True)
class Resources:
    """What a stage asks Ray for, while it runs."""

    workers: int
    cpus: int
    """Of each worker."""
    gpus: int
    """Of each worker."""
    memory_bytes: int
    """That Ray keeps free for each worker; 0: none is reserved."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def per_worker(self) -> dict[str, float]:
        """As Ray names them."""
        memory = {"memory": float(self.memory_bytes)} if self.memory_bytes else {}
        return {"CPU": float(self.cpus), "GPU": float(self.gpus), **memory}


def num_workers(name: str, cluster: ClusterConfig, graph: GraphConfig) -> int:
    """Training workers of a stage; a step over the whole graph is one worker's."""
    exact = name == "stage1" and graph.neighbors == "all"
    return 1 if name in SINGLE_WORKER_STAGES or exact else cluster.workers


def resources(name: str, cluster: ClusterConfig, graph: GraphConfig, cluster_gpus: int) -> Resources:
    """What a stage takes on a cluster with so many GPUs."""
    memory_bytes = int(cluster.memory_gb * 1e9)
    if name == "tokens":  # a pool of tokenising actors, a thread each
        return Resources(cluster.workers, 1, 0, memory_bytes)
    workers = num_workers(name, cluster, graph)
    on_gpu = name != "base" and (
        cluster.device == "cuda" or (cluster.device == "auto" and cluster_gpus >= workers)
    )
    return Resources(workers, cluster.threads, int(on_gpu), memory_bytes)
