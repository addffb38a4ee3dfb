"""What a stage asks Ray for, while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from netgpt.cluster.config import ClusterConfig
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import Stage


@dataclass(frozen=True)
class Resources:
    """Workers, and what each of them holds."""

    workers: int
    cpus: int
    """CPU threads of each worker."""
    gpus: int
    """GPUs of each worker."""
    memory_bytes: int
    """That Ray keeps free for each worker; 0: none is reserved."""

    @property
    def device(self) -> str:
        return "cuda" if self.gpus else "cpu"

    def per_worker(self) -> dict[str, float]:
        """As Ray names them."""
        memory = {"memory": float(self.memory_bytes)} if self.memory_bytes else {}
        return {"CPU": float(self.cpus), "GPU": float(self.gpus), **memory}


def resources(stage: Stage, cluster: ClusterConfig, settings: Settings, cluster_gpus: int) -> Resources:
    """What a stage takes on a cluster with so many GPUs."""
    memory_bytes = int(cluster.memory_gb * 1e9)
    if stage.placing == "pool":  # actors of a thread each
        return Resources(cluster.workers, 1, 0, memory_bytes)
    workers = stage.num_workers(settings, cluster.workers)
    on_gpu = stage.uses_gpu and (
        cluster.device == "cuda" or (cluster.device == "auto" and cluster_gpus >= workers)
    )
    return Resources(workers, cluster.threads, int(on_gpu), memory_bytes)
