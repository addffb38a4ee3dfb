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
from netgpt.trainers.graph.exact.workspace import States
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import load_model
from netgpt.trainers.processor import use_cores
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.train import load_vectors
from netgpt.trainers.stages.recommend import Recommend


def write_embeddings(run: Run, out: Path, node_types: Sequence[str] = ()) -> list[str]:
    """Write `out`/TYPE.parquet for each type, by default all that the model reads; returns the types.

    Of a recommender they are its vectors of users and items. Else those of the target are the exact
    embeddings, which the head and the language model read; those of another type are its states as the last
    layer that reads them has them, over all neighbours too: no later one was trained. ClusterError for a type
    that the model does not read, and where the run is not trained; `out` is written whole or not at all.
    """
    refuse_existing(out, run.path)
    run.require_trained()
    store = run.store
    if Recommend.name in run.stages:
        data = Interactions.of(store)
        vectors = load_vectors(run.folder(Recommend.name), store)
        of_type = dict(zip((data.user_type, data.item_type), vectors, strict=True))
        wanted = _wanted(node_types, list(of_type))
        with atomic_dir(out) as folder:
            for name in wanted:
                write_vectors(folder / f"{name}.parquet", store, name, States(of_type[name].numpy(), None))
        return wanted
    model = load_model(run.path / "stage1", store, run.task, torch.device("cpu"))
    wanted = _wanted(node_types, model.shape.node_types)
    use_cores(run.threads)
    tables = FeatureTables.of(store, torch.device("cpu"), model.shape, max_bytes=0)
    with (
        tempfile.TemporaryDirectory(dir=run.scratch, prefix=".states-") as scratch,
        atomic_dir(out) as folder,
    ):
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


def _wanted(node_types: Sequence[str], known: Sequence[str]) -> list[str]:
    """Those that are asked for, by default all that there are."""
    for name in node_types:
        if name not in known:
            raise ClusterError(
                f"--of: found {name!r}, expected types that the model reads: {', '.join(known)}"
            )
    return [name for name in known if name in node_types or not node_types]
