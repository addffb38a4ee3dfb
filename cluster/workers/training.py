"""Places a stage on Ray, as ranks or as a pool; and what a worker does there.

Ranks are actors of our own and not Ray Train's, which starts three more processes around those of a stage:
they take longer than a small stage, and neither the ranks of its errors nor a lack of room have a public
type. What it would do beside is done elsewhere: a stage's checkpoints are its own, and so is what it leaves.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from netgpt.cluster.config import ClusterConfig
from netgpt.cluster.errors import StageFailedError
from netgpt.cluster.progress import say
from netgpt.cluster.workers.failures import (
    NoRoomError,
    NotStartedError,
    RanksFailedError,
    cause_of,
    may_pass,
    with_last_words,
)
from netgpt.cluster.workers.locks import rank_lock
from netgpt.cluster.workers.mapped import run_mapped
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.places import Environment, Place, environments
from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.session import free_port
from netgpt.cluster.workers.waiting import SessionEndedError, get_all, require_session, wait_any
from netgpt.graphstore import Store
from netgpt.sampler import SamplingEngine
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.stages.base import MappedStage, StageJob

START_S = 300.0
"""How long the processes of ranks may take to start, once there is room for them."""
_ASK_S = 1.0
"""How long a wait for room lasts at once."""
_BOTH_S = 2.0
"""How long the other ranks may take to say why they failed too: one that died ends their collectives."""
_LEAST_ROOM_S = 60.0
"""Room that a stage just gave back is not free at once."""


@dataclass(frozen=True)
class StageWork:
    """What goes to every worker of a stage: the one thing that is sent through Ray."""

    job: StageJob
    cluster: ClusterConfig
    store: NodeStore


def _work(work: StageWork) -> None:
    """What runs on every worker: the stage, with sampling actors beside it where it wants some."""
    from netgpt.trainers import distributed
    from netgpt.trainers.stages.session import stage_session
    from netgpt.trainers.worker import use_process_group

    job = work.job
    if not job.folder.is_dir():
        raise TrainerError(
            f"{job.folder}: not seen on this node; a run's folder is on a disk that all nodes share"
        )
    use_process_group(job.device)
    with rank_lock(job.run, job.described.name, distributed.rank()):
        placed = replace(job, store=work.store.local())
        with stage_session(placed, lambda job, store: _engine(job, store, work.cluster)) as session:
            session.finish(session.stage.run(placed, session.tools))


def _engine(job: StageJob, store: Store, cluster: ClusterConfig) -> SamplingEngine | None:
    """Sampling actors beside this worker, or None where the worker samples itself or does not sample."""
    options = job.described.sampling(job, store) if cluster.sampling_workers else None
    if options is None:
        return None
    from netgpt.cluster.workers.sampling import RaySamplingEngine

    return RaySamplingEngine(store, options, num_workers=cluster.sampling_workers, prefetch=cluster.prefetch)


def run_on_ray(work: StageWork, need: Resources, on_restart: Callable[[], None] = lambda: None) -> None:
    """Run one prepared stage on the connected Ray. Raises StageFailedError, or a worker's bad-input error.

    Workers that died are started again, as often as the configuration says, and resume from the stage's own
    checkpoints, as a run that is started again does. on_restart: called each time.
    """
    import ray

    job, stage, cluster = work.job, work.job.described, work.cluster
    if isinstance(stage, MappedStage):  # its pool starts its own actors again
        try:
            run_mapped(stage, job, need, work.store)
        except SessionEndedError:
            raise
        except Exception as error:
            raise cause_of(error, stage.name) from error
        return
    room_s = max(_LEAST_ROOM_S, 60 * cluster.wait_minutes)
    for left in reversed(range(cluster.max_failures + 1)):
        since = time.time_ns()
        try:
            run_ranks(partial(_work, work), need, room_s=room_s)
            return
        except SessionEndedError:
            raise
        except Exception as error:
            cause = cause_of(error, stage.name)
            if not isinstance(error, RanksFailedError):
                cause = with_last_words(cause, error, job, since)
            known = not isinstance(cause, StageFailedError)
            if not left or known or not may_pass(error) or not ray.is_initialized():
                raise cause from error
            say(f"{cause}; they are started again, {left} more tries")
            on_restart()


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
            require_session()
            if time.monotonic() > until:
                raise NoRoomError(f"found no room for {need.workers} × {asked} in {room_s:.0f} s")
        actor: Any = ray.remote(Rank)
        held = {"num_cpus": asked["CPU"], "num_gpus": asked.get("GPU", 0), "memory": asked.get("memory")}
        for i in range(need.workers):
            there = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=i)
            ranks.append(actor.options(**held, scheduling_strategy=there).remote())
        try:
            places = get_all([one.place.remote() for one in ranks], START_S)
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
        done = wait_any(list(running), _BOTH_S if failures else None)
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
