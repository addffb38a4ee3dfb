"""The token cache by Ray Data: a pool of tokenising actors, and one writer that takes blocks in order."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.cluster.errors import StageFailedError
from netgpt.cluster.stages import Resources
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.pool import map_on_pool
from netgpt.trainers import stage
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.load import prompt_builder
from netgpt.trainers.language.text.tokens import (
    ARRAYS,
    Block,
    Tokens,
    blocks_of,
    cache_attributes,
    tokenize_block,
    write_tokens,
)
from netgpt.trainers.logs import stage_log
from netgpt.trainers.progress import Progress
from netgpt.trainers.settings import StageJob

_COUNTS = ("fewer_comments", "cut_texts")


class _Tokenizer:
    """An actor: ranges of nodes in, the arrays of their tokens out, as bytes (Arrow has no ragged rows
    that stay one run of memory)."""

    def __init__(self, job: dict[str, Any], store: dict[str, Any]) -> None:
        found = StageJob.from_dict(job)
        self.store = graphstore.open(str(NodeStore(**store).local()))
        self.builder = prompt_builder(found.run, found.settings)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        ranges = zip(batch["first"].tolist(), batch["last"].tolist(), strict=True)
        error = ""
        try:
            found = [tokenize_block(self.store, self.builder, first, last) for first, last in ranges]
        except TrainerError as refused:  # as a value: Ray Data makes text of what is raised
            found, error = [Block(Tokens.of([]), 0, 0) for _ in batch["first"]], str(refused)
        columns: dict[str, list[Any]] = {
            name: [getattr(block.tokens, name).tobytes() for block in found] for name in ARRAYS
        }
        return {
            "first": batch["first"].tolist(),
            "error": [error] * len(found),
            **columns,
            **{name: [getattr(block, name) for block in found] for name in _COUNTS},
        }


def tokenize_on_ray(job: StageJob, resources: Resources, node_store: NodeStore) -> None:
    """Make the token cache of a prepared stage on the connected Ray, to its manifest."""
    import ray

    start = time.perf_counter()
    store = graphstore.open(str(job.store))
    builder = prompt_builder(job.run, job.settings)  # refuses a bad tokenizer before any actor starts
    blocks = blocks_of(store)
    ranges = [{"first": first, "last": last} for first, last in blocks]
    arguments = (job.to_dict(), node_store.to_dict())
    # In order: the cache is written front to back
    pool = map_on_pool(ranges, _Tokenizer, arguments, size=resources.workers, ordered=True)
    progress = Progress(job.folder)

    def made(rows: Iterator[dict[str, Any]]) -> Iterator[Block]:
        for done, row in enumerate(rows):
            if row["error"]:
                raise TrainerError(row["error"])
            arrays = {name: np.frombuffer(row[name], dtype) for name, dtype in ARRAYS.items()}
            tokens = Tokens.from_arrays(arrays, int(row["first"]))
            if (tokens.first, tokens.first + len(tokens)) != blocks[done]:
                raise StageFailedError(f"{job.stage}: found block {tokens.first}, expected {blocks[done]}")
            yield Block(tokens, *(int(row[name]) for name in _COUNTS))
            progress.update(done + 1, len(blocks), "block")

    try:
        with stage_log(job.run, job.stage, 0) as log, closing(pool) as rows:
            log.info(
                "%s: %d blocks by %d actors, from %s", job.stage, len(blocks), resources.workers, job.store
            )
            counts = write_tokens(job.folder, made(rows), cache_attributes(store, builder))
    except ray.exceptions.RayError as error:
        raise StageFailedError(f"{job.stage}: {error}") from error
    if counts["records"] != store.num_nodes["video"]:
        raise StageFailedError(
            f"{job.stage}: found tokens of {counts['records']} records, expected {store.num_nodes['video']}"
        )
    cost = {"seconds": time.perf_counter() - start, "peak_bytes": None}
    stage.finish(job.folder, job.inputs, ["zarr.json", *ARRAYS], dict(counts), cost)
