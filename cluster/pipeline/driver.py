"""The driver: runs wanted stages as soon as what they read is done and the cluster has room for them.

What is done is skipped, and Ray is started only for work. A stage that fails ends the others: they
go on from their checkpoints when the same command is given again.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path

from netgpt.cluster.config import ClusterConfig
from netgpt.cluster.errors import StageFailedError
from netgpt.cluster.pipeline.attempts import DONE, FAILED, INTERRUPTED, end_attempt, start_attempt
from netgpt.cluster.pipeline.room import Room
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.pipeline.watch import shown_progress
from netgpt.cluster.progress import say
from netgpt.cluster.stages import STAGES, Resources
from netgpt.cluster.workers.locks import wait_for_workers
from netgpt.cluster.workers.node_store import NodeStore, place_store
from netgpt.cluster.workers.session import local_cpus, ray_session
from netgpt.cluster.workers.training import num_starts, run_on_ray
from netgpt.trainers import stage
from netgpt.trainers.settings import StageJob


def execute(run: Run, wanted: list[str]) -> None:
    """Run the wanted stages. ClusterError where one is missing that they read."""
    names = [name for name in run.possible_stages if name in wanted]
    with ExitStack() as stack:
        pending: list[str] = []
        for name in names:
            run.require_done(needed for needed in run.needed(name) if needed not in pending)
            # Of a stage that reads one still to be made it is known only later whether it is done
            if not _reads_one_of(run, name, pending) and run.is_done(name):
                say(f"{STAGES[name].title}: done before")
            else:
                pending.append(name)
        if pending:
            cluster = run.config.cluster
            stack.enter_context(ray_session(local_cpus(cluster)))
            Driver(run, Room.of_ray(cluster)).run_all(pending)
    # Also where nothing was left to do: a run may have been killed right here
    run.publish()


def _reads_one_of(run: Run, name: str, names: Iterable[str]) -> bool:
    return not set(names).isdisjoint(run.needed(name))


class Driver:
    """Places stages on the connected Ray."""

    def __init__(self, run: Run, room: Room) -> None:
        self.run, self.room = run, room
        cluster = run.config.cluster
        self.store = place_store(run.store, run.path, cluster.store_cache, room.nodes)
        self._failed = threading.Event()

    def run_all(self, pending: list[str]) -> None:
        """Run stages, side by side where there is room. The first error ends all."""
        waiting, running = list(pending), dict[Future[None], str]()
        # Not a `with`: it would wait for the other stages after an error
        pool = ThreadPoolExecutor(len(pending))
        try:
            while waiting or running:
                for name in [name for name in waiting if self._ready(name, waiting, running)]:
                    if self.run.is_done(name):  # its inputs came out as they were before
                        say(f"{STAGES[name].title}: done before")
                        waiting.remove(name)
                        continue
                    need = self.room.need(name, self.run.config)
                    if self.room.take(name, need):
                        waiting.remove(name)
                        running[pool.submit(self._run_stage, name, need)] = name
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    self.room.give_back(running.pop(future))
                    future.result()
                    self.run.publish()
        except BaseException:
            self._failed.set()
            import ray

            ray.shutdown()  # ends the workers, and with them what the other threads wait for
            raise
        finally:
            pool.shutdown(wait=True)

    def _ready(self, name: str, waiting: list[str], running: dict[Future[None], str]) -> bool:
        return not _reads_one_of(self.run, name, [*waiting, *running.values()])

    def _run_stage(self, name: str, need: Resources) -> None:
        """One attempt at one stage, noted in the run's attempts however it ends."""
        run, config = self.run, self.run.config
        wait_for_workers(run.path, name)
        run.forget(name)
        job = StageJob(
            stage=name,
            run=run.path.resolve(),
            store=run.store.path.resolve(),
            settings=config.settings,
            inputs=run.inputs(name),
            device=need.device,
            num_threads=config.cluster.threads,
        )
        if job.prepare():
            say(f"{STAGES[name].title}: continues")
        attempt = start_attempt(run.path, name, workers=need.workers, device=need.device, threads=need.cpus)
        outcome = FAILED
        try:
            with shown_progress(job.folder, STAGES[name].title):
                self._place(job, need, attempt)
            _check_leaves(job.folder, name)
            outcome = DONE
        except Exception:
            if self._failed.is_set():  # ended with another stage, whose error is shown
                outcome = INTERRUPTED
                return
            raise
        finally:
            cost = (stage.read_manifest(job.folder) or {}).get("cost", {})
            restarts = max(0, num_starts(job.folder, attempt) - 1)
            if restarts:
                say(f"{STAGES[name].title}: its workers were started again {restarts} times")
            end_attempt(
                run.path, name, attempt, outcome, restarts=restarts, peak_bytes=cost.get("peak_bytes")
            )

    def _place(self, job: StageJob, need: Resources, attempt: str) -> None:
        try:
            _work(job, need, self.run.config.cluster, self.store, attempt)
        except Exception:
            if not self.run.is_done(job.stage):  # else its work was done, and what failed came after
                raise


def _work(job: StageJob, need: Resources, cluster: ClusterConfig, store: NodeStore, attempt: str) -> None:
    if job.stage == "tokens":
        from netgpt.cluster.workers.tokenizing import tokenize_on_ray  # imports transformers: only for work

        tokenize_on_ray(job, need, store)
    else:
        run_on_ray(job, cluster, need, store, attempt)


def _check_leaves(folder: Path, name: str) -> None:
    """That a stage left what it is declared to leave."""
    outputs = (stage.read_manifest(folder) or {}).get("outputs", {})
    for wanted in STAGES[name].leaves:
        if not any(found == wanted or found.startswith(f"{wanted}/") for found in outputs):
            raise StageFailedError(f"{name}: left no {wanted} in {folder}")
