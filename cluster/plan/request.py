"""What is planned for: a configuration, and the machines that it is to run on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.plan.memory import GPU_SLACK
from netgpt.trainers.stages.names import stage_of


@dataclass(frozen=True, kw_only=True)
class PlanRequest:
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


def planned_config(name: str, overrides: list[str] | None, gpus: int) -> RunConfig:
    """The configuration with a worker a GPU, which is how a run uses them."""
    settings = list(overrides or [])
    if gpus > 0:
        given = [o for o in settings if o.split("=")[0] == "cluster.workers"]
        if given and given[-1] != f"cluster.workers={gpus}":
            raise ClusterError(f"cluster.workers: found {given[-1]}, expected one a GPU (--gpus {gpus})")
        settings = [*settings, f"cluster.workers={gpus}"]
    try:
        config = load_config(name, settings)
    except ClusterError as error:
        if gpus and "cluster.workers" in str(error):
            raise ClusterError(f"{error}; the plan sets cluster.workers to --gpus ({gpus})") from error
        raise
    for stage in config.stages:
        stage_of(stage).check(config.settings)  # as a run does before anything starts
    return config
