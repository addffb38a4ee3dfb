"""The driver: runs wanted stages as soon as what they read is done and the cluster has room for them.

What is done is skipped, and Ray is started only for work. A stage that fails ends the others: they
go on from their checkpoints when the same command is given again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack

from netgpt.cluster.errors import StageFailedError
from netgpt.cluster.origin import made_by
from netgpt.cluster.pipeline.attempts import DONE, FAILED, INTERRUPTED, end_attempt, start_attempt
from netgpt.cluster.pipeline.room import Room
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.pipeline.watch import shown_progress
from netgpt.cluster.progress import say
from netgpt.cluster.signals import is_told_to_end
from netgpt.cluster.workers.locks import wait_for_workers
from netgpt.cluster.workers.node_store import place_store
from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.session import is_local, local_cpus, ray_session
from netgpt.cluster.workers.training import StageWork, run_on_ray
from netgpt.cluster.workers.waiting import end_waits
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.names import stage_of

LEAVE_S = 5.0
"""How long threads may take to leave a session that is ended."""


def execute(run: Run, wanted: list[str], room: Room | None = None) -> None:
    """Run the wanted stages, side by side where there is room; the first error ends all.

    room: by default what Ray has. ClusterError where a stage is missing that they read.
    """
    waiting, running = _pending(run, wanted), dict[Future[None], str]()
    for name in waiting:
        stage_of(name).check_graph(run.settings, run.store)
    with ExitStack() as stack:
        if waiting:
            say("starting Ray …" if is_local() else "connecting to Ray …")
            stack.enter_context(ray_session(local_cpus(run.config.cluster)))
            room = room or Room.of_ray(run.config.cluster)
            driver = Driver(run, room)
            # Not a `with`: it would wait for the other stages after an error
            pool = ThreadPoolExecutor(len(waiting))
            stack.callback(pool.shutdown, wait=True)
        while waiting or running:
            assert room is not None
            try:
                for name in driver.ready(waiting, running):
                    if run.is_done(name):  # its inputs came out as they were before
                        say(f"{stage_of(name).title}: done before")
                        waiting.remove(name)
                        continue
                    need = room.need(name, run.config)
                    if room.take(name, need):
                        waiting.remove(name)
                        running[pool.submit(driver.run_stage, name, need)] = name
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    room.give_back(running.pop(future))
                    future.result()
                    run.publish()
            except BaseException:
                driver.end(running)
                raise
    # Also where nothing was left to do: a run may have been killed right here
    run.publish()


def _pending(run: Run, wanted: list[str]) -> list[str]:
    """Those of the wanted stages that are not done, in order."""
    pending: list[str] = []
    for name in (name for name in run.possible_stages if name in wanted):
        run.require_done(needed for needed in run.needed(name) if needed not in pending)
        # Of a stage that reads one still to be made it is known only later whether it is done
        if not _reads_one_of(run, name, pending) and run.is_done(name):
            say(f"{stage_of(name).title}: done before")
        else:
            pending.append(name)
    return pending


def _reads_one_of(run: Run, name: str, names: Iterable[str]) -> bool:
    return not set(names).isdisjoint(run.needed(name))


class Driver:
    """Places stages on the connected Ray."""

    def __init__(self, run: Run, room: Room) -> None:
        self.run = run
        self.store = place_store(run.store, run.path, run.config.cluster.store_cache, room.nodes)
        self._failed = threading.Event()

    def ready(self, waiting: list[str], running: dict[Future[None], str]) -> list[str]:
        """Stages that wait, and of which nothing that they read is still to be made."""
        unmade = [*waiting, *running.values()]
        return [name for name in waiting if not _reads_one_of(self.run, name, unmade)]

    def end(self, running: Iterable[Future[None]]) -> None:
        """End the workers, once the threads that wait for them have left Ray alone."""
        import ray

        self._failed.set()
        end_waits()
        wait(running, timeout=LEAVE_S)
        ray.shutdown()

    def run_stage(self, name: str, need: Resources) -> None:
        """One attempt at one stage, noted in the run's attempts however it ends."""
        run, config, stage = self.run, self.run.config, stage_of(name)
        wait_for_workers(run.path, stage.name)
        run.forget(name)
        job = run.job(name, need.device)
        if job.prepare():
            say(f"{stage.title}: continues")
        attempt = start_attempt(
            run.path,
            stage.name,
            workers=need.workers,
            device=need.device,
            threads=need.cpus,
            made_by=made_by(),
        )
        outcome, restarts = FAILED, 0

        def restarted() -> None:
            nonlocal restarts
            restarts += 1

        try:
            with shown_progress(job.folder, stage.title):
                try:
                    run_on_ray(StageWork(job, config.cluster, self.store), need, restarted)
                except Exception:
                    if not run.is_done(name):  # else its work was done, and what failed came after
                        raise
            _check_leaves(job)
            outcome = DONE
        except BaseException:  # Ray ends a thread by SystemExit where its session is gone
            if is_told_to_end() or self._failed.is_set():  # by a person, or with another stage that failed
                outcome = INTERRUPTED
                return
            raise
        finally:
            manifest = folder.read_manifest(job.folder)
            peak = manifest["cost"].get("peak_bytes") if manifest else None
            if restarts:
                say(f"{stage.title}: its workers were started again {restarts} times")
            end_attempt(run.path, stage.name, attempt, outcome, restarts=restarts, peak_bytes=peak)


def _check_leaves(job: StageJob) -> None:
    """That a stage left what it is declared to leave."""
    manifest = folder.read_manifest(job.folder)
    outputs = manifest["outputs"] if manifest else {}
    for wanted in job.described.leaves:
        if not any(name == wanted or name.startswith(f"{wanted}/") for name in outputs):
            raise StageFailedError(f"{job.described.name}: left no {wanted} in {job.folder}")
