"""Embeddings of any node types of a finished run as Parquet, by the data set's own ids."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import bar
from netgpt.graphstore.files import atomic_dir, refuse_existing
from netgpt.trainers.graph.exact import ExactInference, write_vectors
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import load_model


def write_embeddings(run: Run, out: Path, node_types: Sequence[str] = ()) -> list[str]:
    """Write `out`/TYPE.parquet for each type, by default all that the model reads; returns the types.

    Of the target they are the exact embeddings, which the head and the language model read. Of another type
    they are its states as the last layer that reads them has them, over all neighbours too: no later one was
    trained. ClusterError for a type that the model does not read, and where the run is not trained; `out` is
    written whole or not at all.
    """
    refuse_existing(out, run.path)
    run.require_trained()
    store = run.store
    model = load_model(run.path / "stage1", store, run.task, torch.device("cpu"))
    known = model.shape.node_types
    for name in node_types:
        if name not in known:
            raise ClusterError(
                f"--of: found {name!r}, expected types that the model reads: {', '.join(known)}"
            )
    wanted = [name for name in known if name in node_types] if node_types else list(known)
    torch.set_num_threads(run.threads)
    tables = FeatureTables.of(store, torch.device("cpu"), model.shape, max_bytes=0)
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".states-") as scratch, atomic_dir(out) as folder:
        inference = ExactInference(
            model,
            tables,
            Path(scratch),
            memory_bytes=run.settings.graph.inference_bytes,
            progress=bar("embeddings", "relation"),
            keep=wanted,
        )
        inference.run()
        for name in wanted:
            write_vectors(folder / f"{name}.parquet", store, name, inference.states[name])
    return wanted
