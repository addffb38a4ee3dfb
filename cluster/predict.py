"""Predictions for new rows by a finished run: nothing is retrained, nothing is written to the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.export import language_stages
from netgpt.cluster.features.inline import inline_encoders
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import bar
from netgpt.cluster.reasons import Explainer, Reason, as_json
from netgpt.cluster.scores import LanguageScores
from netgpt.cluster.stores import say_skipped
from netgpt.graphstore import ExtendedGraph, NodeCopies, ReadReport
from netgpt.graphstore.dataset import HeldSource
from netgpt.graphstore.documents import documents
from netgpt.graphstore.files import atomic_file
from netgpt.graphstore.store import RowNumbers
from netgpt.graphstore.writer import build_config
from netgpt.trainers.graph.exact import cache_digests, cached_mean_scores, embed
from netgpt.trainers.graph.files import VECTORS
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import MODEL
from netgpt.trainers.graph.train import load_model as load_graph_model
from netgpt.trainers.processor import use_cores
from netgpt.trainers.progress import no_progress
from netgpt.trainers.stages.names import stage_of


@dataclass(frozen=True)
class Prediction:
    id: str
    answer: dict[str, Any]
    """As the task says it: level and score, …"""
    why: Sequence[Reason] | None = None
    """Where reasons were asked for."""

    def to_dict(self) -> dict[str, Any]:
        why = {} if self.why is None else {"why": as_json(self.why)}
        return {"id": self.id, **self.answer, **why}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_row(self) -> dict[str, Any]:
        """Of one depth: chances by class are `chance_CLASS` each."""
        row: dict[str, Any] = {"id": self.id}
        for name, value in self.answer.items():
            some = value.items() if isinstance(value, dict) else ()
            row |= {f"{name.removesuffix('s')}_{one}": number for one, number in some} or {name: value}
        return row if self.why is None else row | {"why": as_json(self.why)}


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    """Write JSON lines; or, where the name ends in .parquet, a table with a column for each thing said."""
    with atomic_file(path) as temporary:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.Table.from_pylist([one.to_row() for one in predictions]), temporary)
        else:
            temporary.write_text("".join(f"{one.to_json()}\n" for one in predictions), encoding="utf-8")


def predict(
    run: Run,
    data: Path,
    *,
    text: str | None = None,
    video: str | None = None,
    videos: str | None = None,
    explain: bool = False,
) -> Iterator[Prediction]:
    """Predict for the rows of a file, whose label may be absent, in the file's order: by the run's last
    language stage that reads the graph, or by stage 1 where it has none.

    Their keys and history resolve against the run's store and the file together; their texts go through
    the run's encoder (or `text`, where the run does not name it), and the files of the folder `videos`
    through its vision tower (or `video`); without `videos` they have the zero vector. explain: with reasons;
    each row is some tens of answers more. Raises RecordError, also for an id that the store already has.
    """
    if run.task.ranks:
        raise ClusterError(
            f"{run.path}: found a recommender's run, expected: netgpt recommend RUN --out F.parquet"
        )
    kinds = {stage_of(name).kind for name in run.config.stages}
    if "modal" in kinds and "graph" not in kinds:
        raise ClusterError(
            f"{run.path}: found a run of the stage multimodal, expected one with stage1 or a language stage: "
            "its own scores are in predictions.parquet"
        )
    run.require_trained()
    store, config = run.store, run.config
    target = store.schema.target
    source = HeldSource(store.dataset.open_new(store, data, build_config(store), ReadReport()))
    cluster = config.cluster
    on_gpu = cluster.device == "cuda" or (cluster.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    features = replace(
        config.features,
        text=text or config.features.text,
        video=(video or config.features.video) if videos is not None else "",
        videos=videos or "",
    )
    texts, clips = inline_encoders(features, store, source, device.type)
    graph = ExtendedGraph(store, source, text=texts, video=clips)

    settings, task = run.settings, run.task
    use_cores(cluster.threads)
    model = load_graph_model(run.path / "stage1", store, task, device)
    tables = FeatureTables.of(graph, device, model.shape, max_bytes=0)
    digests = cache_digests(run.path / "stage1" / MODEL, store)
    # What is asked for together must not change each other's predictions
    mean_scores = cached_mean_scores(run.path / "embeddings" / VECTORS, digests)
    h, graph_scores = embed(
        model,
        tables,
        memory_bytes=settings.graph.inference_bytes,
        progress=bar("embeddings", "relation"),
        mean_scores=mean_scores,
    )
    h, scores = h[graph.new], graph_scores[graph.new]
    all_names, new = graph.node_names(target), graph.new.tolist()
    # Rows that have no key are known by their place in the file
    first = graph.num_old if isinstance(all_names, RowNumbers) else 0
    names = [all_names[node - first] for node in new]
    language, said = None, []
    if stages := language_stages(run):
        language = LanguageScores(run, stages[-1], h.shape[1], device)
        said = list(documents(graph, language.document, new))
        prompts = language.tokens(said)
        scores = language.of(prompts, h, scores, [one for one, _ in said], bar("predictions", "pack"))
    say_skipped(source.report)
    explainer = Explainer.of(run, graph, language, mean_scores) if explain else None
    shown = bar("reasons", "row") if explain else no_progress
    for i, (node, name, score) in enumerate(zip(new, names, scores, strict=True)):
        why = None
        if explainer is not None:
            copied = NodeCopies(graph, np.array([node]))
            why = explainer.explain(copied, name, said[i] if said else None).reasons
            shown(i + 1, len(new))
        yield Prediction(name, task.answer(score), why)
