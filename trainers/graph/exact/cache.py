"""The embedding cache: embeddings and scores of all target nodes, with digests of what they are of."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from netgpt.graphstore import Store
from netgpt.graphstore.arrays import ArrayWriter, map_array, write_array
from netgpt.graphstore.files import atomic_file, file_digest, read_json
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.exact.inference import ExactInference, exact_scores
from netgpt.trainers.graph.exact.workspace import DEFAULT_MEMORY, MAX_BLOCK_ROWS, States
from netgpt.trainers.graph.model import GraphModel
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.progress import OnProgress

MEAN_SCORES = "mean_scores"


def write_ids(path: Path, store: Store) -> None:
    """Write a Parquet table whose row v has the `id` of the target's node v: the data set's own where it has
    ids, else the node's number."""
    import pyarrow as pa  # 25 MB that inference has no use for
    import pyarrow.parquet as pq

    target = store.schema.target
    ids = store.id_column(target, np.arange(store.num_nodes[target]))
    with atomic_file(path) as temporary:
        pq.write_table(pa.table({"id": ids}), temporary)


def write_vectors(path: Path, store: Store, node_type: str, states: States) -> None:
    """Write a Parquet table of a type's states: `id` as `write_ids` has it, and `embedding`, a list of D
    float32 numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    num, width = store.num_nodes[node_type], states.h.shape[1]
    is_numbered = isinstance(store.id_column(node_type, np.arange(0)), np.ndarray)
    schema = pa.schema(
        [("id", pa.int64() if is_numbered else pa.string()), ("embedding", pa.list_(pa.float32(), width))]
    )
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        for first in range(0, num, MAX_BLOCK_ROWS):
            block = slice(first, min(first + MAX_BLOCK_ROWS, num))
            ids = store.id_column(node_type, np.arange(block.start, block.stop))
            values = pa.array(states.of(block).numpy().ravel())
            vectors = pa.FixedSizeListArray.from_arrays(values, width)
            writer.write_table(pa.table([ids, vectors], schema=schema))


def cache_digests(model_file: Path, store: Store) -> dict[str, str]:
    """What an embedding cache is of: the store's digest and that of the model's weights."""
    return {"store": store.digest, "checkpoint": file_digest(model_file)}


def write_cache(
    folder: Path,
    model: GraphModel,
    tables: FeatureTables,
    digests: dict[str, str],
    *,
    memory_bytes: int = DEFAULT_MEMORY,
    progress: OnProgress | None = None,
) -> None:
    """Write the embedding cache: Zarr arrays `h` [N, D] and `score` [N] under `folder`, a Zarr group.

    `digests` (of the store and of the checkpoint) become the group's attributes.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        inference = ExactInference(model, tables, Path(scratch), memory_bytes=memory_bytes, progress=progress)
        h = inference.run()
        with ArrayWriter(folder, "h", np.float32, h.shape[1]) as writer:
            for first in range(0, len(h), MAX_BLOCK_ROWS):
                writer.append(h[first : first + MAX_BLOCK_ROWS])
        write_array(folder, "score", exact_scores(model, h))
    attributes = {**digests, MEAN_SCORES: inference.mean_scores}
    zarr.open_group(str(folder), mode="a").attrs.update(attributes)


def open_cache(folder: Path, digests: dict[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Map a cache's `h` and `score`. TrainerError where it is of another store or checkpoint."""
    _checked(folder, digests)
    return map_array(folder, "h"), map_array(folder, "score")


def cached_mean_scores(folder: Path, digests: dict[str, str]) -> list[list[float]] | None:
    """What the cache's inference found for layers that weigh parts by a mean over all target nodes."""
    scores: list[list[float]] | None = _checked(folder, digests).get(MEAN_SCORES)
    return scores


def _checked(folder: Path, digests: dict[str, str]) -> dict[str, Any]:
    """The cache's attributes."""
    kept: dict[str, Any] = (
        read_json(folder / "zarr.json")["attributes"] if (folder / "zarr.json").exists() else {}
    )
    for name, digest in digests.items():
        if kept.get(name) != digest:
            raise TrainerError(
                f"{folder}: found embeddings of {name} {kept.get(name)}, expected {digest}; "
                "run again: netgpt embed"
            )
    return kept
