"""The ranks of a stage on Ray: an actor each, all of them or none, and gone when one of them fails.

Actors of our own and not Ray Train's: it starts three more processes around those of a stage, which take
longer than a small stage, and neither the ranks of its errors nor a lack of room have a public type. What it
would do beside is done elsewhere: a stage's checkpoints are its own, and so is what it leaves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.session import free_port

START_S = 300.0
"""How long the processes of ranks may take to start, once there is room for them."""
_ASK_S = 1.0
"""How long a wait for room lasts at once: one that cannot be left would outlive a session that is ended."""
_BOTH_S = 2.0
"""How long the other ranks may take to say why they failed too: one that died ends their collectives."""

Environment = dict[str, str]


class NoRoomError(RuntimeError):
    """The cluster did not get room for all ranks in time."""


class NotStartedError(RuntimeError):
    """There was room, and the ranks' processes did not come up."""


class RanksFailedError(RuntimeError):
    """Ranks that had started failed."""

    def __init__(self, failures: dict[int, BaseException]) -> None:
        super().__init__(f"ranks {', '.join(map(str, failures))} failed")
        self.failures = failures
        """By rank, what Ray says of it; an error of the work is its `cause`."""


@dataclass(frozen=True)
class Place:
    """Where an actor came up."""

    node: str
    address: str
    port: int
    """That was free."""
    gpus: tuple[str, ...]
    """Ids on its node of the GPUs that Ray gave it."""


def environments(places: Sequence[Place]) -> list[Environment]:
    """What each actor's environment says of its rank, as torchrun would: in the order of the places.

    Ranks count through one node after the other, on a node by GPU. Each rank sees the GPUs of all ranks of
    its node, so that its LOCAL_RANK is its device, and they may copy from each other.
    """
    nodes = list(dict.fromkeys(place.node for place in places))
    order = sorted(range(len(places)), key=lambda i: (nodes.index(places[i].node), _gpu_key(places[i]), i))
    master = places[order[0]]
    made: list[Environment] = [{} for _ in places]
    for rank, i in enumerate(order):
        own = places[i]
        local = [j for j in order if places[j].node == own.node]
        made[i] = {
            "RANK": str(rank),
            "WORLD_SIZE": str(len(places)),
            "LOCAL_RANK": str(local.index(i)),
            "LOCAL_WORLD_SIZE": str(len(local)),
            "NODE_RANK": str(nodes.index(own.node)),
            "MASTER_ADDR": master.address,
            "MASTER_PORT": str(master.port),
        }
        if own.gpus:
            made[i]["CUDA_VISIBLE_DEVICES"] = ",".join(gpu for j in local for gpu in places[j].gpus)
    return made


def _gpu_key(place: Place) -> tuple[tuple[int, str], ...]:
    """Sorts ids of GPUs: numbers as such, names of parts of one as text."""
    return tuple((int(gpu), "") if gpu.isdecimal() else (-1, gpu) for gpu in place.gpus)


class Rank:
    """The actor of a rank."""

    def place(self) -> Place:
        import ray

        context = ray.get_runtime_context()
        gpus = tuple(context.get_accelerator_ids().get("GPU", ()))
        return Place(context.get_node_id(), ray.util.get_node_ip_address(), free_port(), gpus)

    def run(self, environment: Environment, work: Callable[[], None]) -> None:
        os.environ.update(environment)
        work()


def run_ranks(work: Callable[[], None], need: Resources, *, room_s: float) -> None:
    """Run `work` on every rank of the connected Ray, to its end.

    work: what pickle takes; of several ranks each finds the variables of torchrun in its environment, one
    alone finds none. room_s: how long to wait for room. Raises NoRoomError, NotStartedError, or
    RanksFailedError of the first ranks that failed; then, and at the end, the processes of all are ended.
    """
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    asked = {name: amount for name, amount in need.per_worker().items() if amount}
    group = placement_group([asked] * need.workers, strategy="PACK")
    ranks: list[Any] = []
    try:
        until = time.monotonic() + room_s
        while not group.wait(_ASK_S):
            if time.monotonic() > until:
                raise NoRoomError(f"found no room for {need.workers} × {asked} in {room_s:.0f} s")
        actor: Any = ray.remote(Rank)
        held = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0), "memory": asked.get("memory")}
        for i in range(need.workers):
            there = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i)
            ranks.append(actor.options(**held, scheduling_strategy=there).remote())
        try:
            places = ray.get([one.place.remote() for one in ranks], timeout=START_S)
        except ray.exceptions.RayError as error:
            raise NotStartedError(str(error)) from error
        told = environments(places) if need.workers > 1 else [{}]
        running = {
            one.run.remote(environment, work): int(environment.get("RANK", 0))
            for one, environment in zip(ranks, told, strict=True)
        }
        _finish(running)
    finally:
        if ray.is_initialized():
            for one in ranks:
                ray.kill(one)
            remove_placement_group(group)


def _finish(running: dict[Any, int]) -> None:
    """Return when all have ended well; raise what the first said that did not, and those beside it."""
    import ray

    failures: dict[int, BaseException] = {}
    while running:
        done, _ = ray.wait(list(running), timeout=_BOTH_S if failures else None)
        if not done:
            break
        (ref,) = done
        rank = running.pop(ref)
        try:
            ray.get(ref)
        except ray.exceptions.RayError as error:
            failures[rank] = error
    if failures:
        raise RanksFailedError(failures)
