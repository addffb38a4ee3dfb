"""Places a stage's workers, several with Ray Train and one as a task; what a worker does there."""

from __future__ import annotations

import logging
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgpt.cluster.config import ClusterConfig
from netgpt.cluster.errors import ClusterError, StageFailedError, is_bad_input, is_full_disk
from netgpt.cluster.progress import say
from netgpt.cluster.stages import Resources
from netgpt.cluster.workers.locks import rank_lock
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.session import is_local
from netgpt.graphstore.files import read_json, write_json
from netgpt.trainers import stage
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.settings import StageJob

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer

STARTS = "starts.json"
_LACK_S = 60.0
"""Seconds after which Ray Train asks again for resources that a cluster lacks."""


def _worker(config: dict[str, Any]) -> None:
    """What runs on every worker: the stage, with sampling actors for stage 1."""
    from netgpt.trainers import distributed
    from netgpt.trainers.worker import run_stage, use_process_group

    job, cluster = StageJob.from_dict(config["job"]), ClusterConfig(**config["cluster"])
    attempt = str(config["attempt"])
    if not job.folder.is_dir():
        raise TrainerError(
            f"{job.folder}: not seen on this node; a run's folder is on a disk that all nodes share"
        )
    if refused := stage.refused(job.folder, attempt):
        raise TrainerError(refused)
    use_process_group(job.device)  # which Ray Train has made for several workers
    rank = distributed.rank()
    with rank_lock(job.run, job.stage, rank), _refusals(job, attempt):
        if rank == 0:
            write_json(
                job.folder / STARTS, {"attempt": attempt, "starts": num_starts(job.folder, attempt) + 1}
            )
        job = replace(job, store=NodeStore(**config["store"]).local())
        run_stage(job, _engine(job, cluster))


def _engine(job: StageJob, cluster: ClusterConfig) -> Any:
    """Sampling actors beside this worker, or None where the worker samples itself or does not sample."""
    graph = job.settings.graph
    if job.stage != "stage1" or not cluster.sampling_workers or graph.neighbors != "sampled":
        return None
    from netgpt import graphstore
    from netgpt.cluster.workers.sampling import RaySamplingEngine
    from netgpt.trainers.graph.train import sampling_options

    store = graphstore.open(str(job.store))
    return RaySamplingEngine(
        store,
        sampling_options(store, graph, job.settings.sampler, job.settings.seed),
        num_workers=cluster.sampling_workers,
        prefetch=cluster.prefetch,
    )


@contextmanager
def _refusals(job: StageJob, attempt: str) -> Iterator[None]:
    """Ray starts workers again after any error: of bad input they must hear at once."""
    try:
        yield
    except ValueError as error:
        if is_bad_input(error):
            stage.refuse(job.folder, attempt, error)
        raise


def num_starts(folder: Path, attempt: str) -> int:
    """Times that an attempt's workers were started so far."""
    try:
        found = read_json(folder / STARTS)
    except (OSError, ValueError):
        return 0
    return int(found["starts"]) if found["attempt"] == attempt else 0


def run_on_ray(
    job: StageJob, cluster: ClusterConfig, resources: Resources, store: NodeStore, attempt: str
) -> None:
    """Run one prepared stage on the connected Ray. Raises StageFailedError, or a worker's bad-input error."""
    import ray

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    of_stage = {"job": job.to_dict(), "cluster": asdict(cluster)}
    config: dict[str, Any] = {**of_stage, "store": store.to_dict(), "attempt": attempt}
    # Ray Train starts workers again that failed while they worked, but not those that died while they
    # were started: these are tried again here, as often
    for left in reversed(range(cluster.max_failures + 1)):
        try:
            if resources.workers == 1:
                _fit_alone(config, cluster, resources)
            else:
                _fit(config, job, cluster, resources)
            return
        except Exception as error:
            cause = _cause(error, job.stage)
            tried_by_ray = resources.workers == 1 or bool(getattr(error, "worker_failures", None))
            known = not isinstance(cause, StageFailedError)
            if not left or known or tried_by_ray or not ray.is_initialized():
                raise cause from error
            started = max(num_starts(job.folder, attempt), cluster.max_failures + 1 - left)
            write_json(job.folder / STARTS, {"attempt": attempt, "starts": started})
            say(f"{job.stage}: its workers died while they were started; {left} more tries")


def _fit_alone(config: dict[str, Any], cluster: ClusterConfig, resources: Resources) -> None:
    """A stage of one worker as one task: Ray Train would start a handful of processes around it."""
    import ray

    asked = resources.per_worker()
    options: dict[str, Any] = {
        "num_cpus": asked["CPU"],
        "num_gpus": asked["GPU"],
        "memory": asked.get("memory"),
        "max_calls": 1,  # a process of its own, that ends with the stage
        "max_retries": cluster.max_failures,  # where the process or its node died
        "retry_exceptions": [RuntimeError, OSError],
    }
    task = ray.remote(**options)(_worker)
    ray.get(task.remote(config))


def _fit(config: dict[str, Any], job: StageJob, cluster: ClusterConfig, resources: Resources) -> None:
    """A stage of several workers, by Ray Train."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig

    from netgpt.trainers.worker import COLLECTIVE_HOURS

    failures: dict[str, Any] = {
        "max_failures": cluster.max_failures,
        "controller_failure_limit": max(1, round(cluster.wait_minutes * 60 / _LACK_S)),
    }
    scratch = job.run.resolve() / ".ray"
    name = f"{job.stage}-{uuid.uuid4().hex[:8]}"
    trainer = trainer_class(is_local())(
        _worker,
        train_loop_config=config,
        torch_config=TorchConfig(timeout_s=3600 * COLLECTIVE_HOURS),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker=resources.per_worker(),
        ),
        # Ray only restarts the workers: they resume from the stage's own checkpoints, so a restart of
        # the workers and a restart of the whole run take the same path
        run_config=RunConfig(
            name=name,
            storage_path=str(scratch),
            failure_config=FailureConfig(**failures),
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(scratch / name, ignore_errors=True)


def trainer_class(local: bool) -> type[TorchTrainer]:
    """Ray's trainer; in a Ray of this process's own, one that leaves nothing behind to clean up.

    Ray Train has an actor free what a dead controller leaves. It asks the dashboard whether the controller
    lives, and where there is no dashboard it holds every stage's end up until its time is over, 12 s.
    A Ray that ends with its driver needs none.
    """
    from ray.train.torch import TorchTrainer

    class LocalTrainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]  # Ray's version 2 of it has it
            return [one for one in callbacks if type(one).__name__ != "PlacementGroupCleanerCallback"]

    return LocalTrainer if local else TorchTrainer


def _known_of(error: BaseException) -> ValueError | OSError | None:
    """A bad-input error or a full disk among an error's causes, on whatever worker it was raised."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ValueError) and is_bad_input(found):
            return found
        if isinstance(found, OSError) and is_full_disk(found):
            return OSError(found.errno, found.strerror, found.filename)
        found = getattr(found, "cause", None) or found.__cause__
    return None


def _cause(error: BaseException, stage_name: str) -> Exception:
    """What to say: the bad input or the full disk of a worker, if it was that; else StageFailedError with
    ranks and cause."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in [*failures.values(), error]:
        if found := _known_of(failure):
            return found
    if not failures:
        lack = getattr(error, "controller_failure", None)
        if "StartupTimeout" in type(lack).__name__:
            return ClusterError(
                f"{stage_name}: its workers found no room on the cluster; see ./launch.sh status, "
                "lower cluster.workers, or wait longer with cluster.wait_minutes"
            )
    ranks = ", ".join(str(rank) for rank in failures) or "unknown"
    first = next(iter(failures.values()), error)
    return StageFailedError(f"{stage_name}: workers failed (ranks {ranks}): {first}")
