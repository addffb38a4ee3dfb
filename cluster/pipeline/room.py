"""What a cluster has, and which stages it has room for at once."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from netgpt.cluster.config import ClusterConfig, RunConfig
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.progress import say
from netgpt.cluster.workers.resources import Resources, resources
from netgpt.cluster.workers.session import is_local, local_cpus, ray_session
from netgpt.trainers.stages.names import stage_of

_POLL_S = 2.0


def require_room(cluster: ClusterConfig) -> None:
    """ClusterError where a stage would ask for more than there is: before a store is built."""
    if not is_local():
        with ray_session(0):
            Room.of_ray(cluster)
    elif cluster.device == "cuda":
        import torch

        room = Room(1, local_cpus(cluster), torch.cuda.device_count(), math.inf)
        if lack := room.lack(cluster):
            raise ClusterError(lack)


@dataclass
class Room:
    """Totals of the connected Ray, and what stages hold of them."""

    nodes: int
    cpus: float
    gpus: float
    memory_bytes: float
    _held: dict[str, Resources] = field(default_factory=dict)

    @staticmethod
    def of_ray(cluster: ClusterConfig) -> Room:
        """The connected cluster's, as soon as it has what a stage asks for. ClusterError where it does not
        within `cluster.wait_minutes`, with what there is."""
        until, said = time.monotonic() + cluster.wait_minutes * 60, False
        while True:
            room = _totals()
            lack = room.lack(cluster)
            if not lack:
                return room
            if time.monotonic() >= until or not cluster.wait_minutes:
                raise ClusterError(lack)
            if not said:
                say(f"waiting up to {cluster.wait_minutes:g} minutes: {lack}")
                said = True
            time.sleep(_POLL_S)

    def lack(self, cluster: ClusterConfig) -> str:
        """What the cluster has too little of for one stage, in words; empty where it has enough."""
        on_gpu = cluster.device == "cuda" or (cluster.device == "auto" and self.gpus >= cluster.workers)
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        there = f"there are {self.gpus:g} GPUs and {self.cpus:g} CPUs on {nodes}"
        if on_gpu and self.gpus < cluster.workers:
            return (
                f"cluster.workers: found {cluster.workers} with cluster.device={cluster.device}, a GPU each; "
                f"{there}; lower cluster.workers to the GPUs, or set cluster.device=auto"
            )
        if self.cpus < cluster.workers * cluster.threads:
            return (
                f"cluster.workers: found {cluster.workers} of {cluster.threads} CPU threads each; {there}; "
                "lower cluster.workers or cluster.threads"
            )
        wanted = cluster.workers * cluster.memory_gb * 1e9
        if self.memory_bytes < wanted:
            return (
                f"cluster.memory_gb: found {cluster.memory_gb:g} for each of {cluster.workers} workers; "
                f"Ray has {self.memory_bytes / 1e9:.1f} GB to reserve"
            )
        return ""

    def need(self, name: str, config: RunConfig) -> Resources:
        return resources(stage_of(name), config.cluster, config, int(self.gpus))

    def take(self, name: str, need: Resources) -> bool:
        """Hold room for a stage, if there is some beside the others. A stage alone always has it."""
        held = [*self._held.values(), need]
        fits = (
            sum(r.workers * r.cpus for r in held) <= self.cpus
            and sum(r.workers * r.gpus for r in held) <= self.gpus
            and sum(r.workers * r.memory_bytes for r in held) <= self.memory_bytes
        )
        if fits or not self._held:
            self._held[name] = need
            return True
        return False

    def give_back(self, name: str) -> None:
        del self._held[name]


def _totals() -> Room:
    import ray

    resources = ray.cluster_resources()
    nodes = sum(node["Alive"] for node in ray.nodes())
    return Room(nodes, resources.get("CPU", 0), resources.get("GPU", 0), resources.get("memory", 0))
