"""A stage of parts by a pool of actors, and one writer that takes what they made in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from netgpt import graphstore
from netgpt.cluster.errors import StageFailedError
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.pool import map_on_pool
from netgpt.cluster.workers.resources import Resources
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.logs import stage_log
from netgpt.trainers.progress import Progress
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import MappedStage, StageJob


class PartMaker:
    """An actor: a part in; out, what was made of it or why it could not be."""

    def __init__(self, job: StageJob, store: NodeStore) -> None:
        stage = job.described
        assert isinstance(stage, MappedStage)
        self._make = stage.maker(job, graphstore.open(store.local()))

    def make(self, part: Any) -> Any | TrainerError:
        try:
            return self._make(part)
        except TrainerError as refused:
            return refused


def run_mapped(stage: MappedStage[Any, Any], job: StageJob, need: Resources, node_store: NodeStore) -> None:
    """Make a prepared stage on the connected Ray, to its manifest."""
    import ray

    start = time.perf_counter()
    store = graphstore.open(job.store)
    stage.maker(job, store)  # refuses here what no actor could start with
    parts = stage.parts(store)
    # In order: the writer takes them front to back
    pool = map_on_pool(parts, PartMaker, (job, node_store), size=need.workers, ordered=True)
    progress = Progress(job.folder)

    def made(results: Iterator[Any | TrainerError]) -> Iterator[Any]:
        for done, result in enumerate(results, start=1):
            if isinstance(result, TrainerError):
                raise result
            yield result
            progress.update(done, len(parts), stage.unit)

    try:
        with stage_log(job.run, stage.name, 0) as log, closing(pool) as results:
            num = len(parts)
            log.info("%s: %d parts by %d actors, from %s", stage.name, num, need.workers, job.store)
            result = stage.write(job, store, made(results))
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"{stage.name}: {error}") from error
    cost: folder.Cost = {"seconds": time.perf_counter() - start, "peak_bytes": None}
    folder.finish(job.folder, job.inputs, list(result.outputs), dict(result.metrics), cost)
