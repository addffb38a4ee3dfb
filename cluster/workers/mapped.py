"""A stage of parts by a pool of Ray Data actors, and one writer that takes what they made in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

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

_ERROR, _PART = "_error", "_part"


class _Maker:
    """An actor: parts in, what is made of them out; errors as values, since Ray Data makes text of them."""

    def __init__(self, job: StageJob, store: NodeStore) -> None:
        stage = job.described
        assert isinstance(stage, MappedStage)
        self.make = stage.maker(job, graphstore.open(store.local()))

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        names = [name for name in batch if name != _PART]
        part = {name: batch[name][0] for name in names}
        try:
            made, error = self.make(part), ""
        except TrainerError as refused:
            made, error = {}, str(refused)
        columns = {name: [value] for name, value in made.items()}
        return {_PART: batch[_PART].tolist(), _ERROR: [error], **columns}


def run_mapped(stage: MappedStage, job: StageJob, need: Resources, node_store: NodeStore) -> None:
    """Make a prepared stage on the connected Ray, to its manifest."""
    import ray

    start = time.perf_counter()
    store = graphstore.open(job.store)
    stage.maker(job, store)  # refuses here what no actor could start with
    parts = stage.parts(store)
    rows = [{_PART: number, **part} for number, part in enumerate(parts)]
    # In order: the writer takes them front to back
    pool = map_on_pool(rows, _Maker, (job, node_store), size=need.workers, ordered=True)
    progress = Progress(job.folder)

    def made(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        done = 0
        for done, row in enumerate(rows, start=1):
            if row[_ERROR]:
                raise TrainerError(row[_ERROR])
            if row[_PART] != done - 1:
                raise StageFailedError(f"{stage.name}: found part {row[_PART]}, expected {done - 1}")
            yield row
            progress.update(done, len(parts), stage.unit)
        if done != len(parts):
            raise StageFailedError(f"{stage.name}: found {done} parts, expected {len(parts)}")

    try:
        with stage_log(job.run, stage.name, 0) as log, closing(pool) as rows_made:
            num = len(parts)
            log.info("%s: %d parts by %d actors, from %s", stage.name, num, need.workers, job.store)
            result = stage.write(job, store, made(rows_made))
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"{stage.name}: {error}") from error
    cost = {"seconds": time.perf_counter() - start, "peak_bytes": None}
    folder.finish(job.folder, job.inputs, list(result.outputs), dict(result.metrics), cost)
