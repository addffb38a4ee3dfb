"""Predictions for new rows by a finished run: nothing is retrained, nothing is written to the store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
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
from netgpt.cluster.stores import say_skipped
from netgpt.graphstore import Document, ExtendedGraph, ReadReport
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
from netgpt.trainers.language.text.tokens import RecordTokens
from netgpt.trainers.precision import cpu_products
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of


@dataclass(frozen=True)
class Prediction:
    id: str
    answer: dict[str, Any]
    """As the task says it: level and score, …"""

    def to_json(self) -> str:
        return json.dumps({"id": self.id, **self.answer}, ensure_ascii=False)

    def to_row(self) -> dict[str, Any]:
        """Of one depth: chances by class are `chance_CLASS` each."""
        row: dict[str, Any] = {"id": self.id}
        for name, value in self.answer.items():
            some = value.items() if isinstance(value, dict) else ()
            row |= {f"{name.removesuffix('s')}_{one}": number for one, number in some} or {name: value}
        return row


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
) -> Iterator[Prediction]:
    """Predict for the rows of a file, whose label may be absent, in the file's order: by the run's last
    language stage that reads the graph, or by stage 1 where it has none.

    Their keys and history resolve against the run's store and the file together; their texts go through
    the run's encoder (or `text`, where the run does not name it), and the files of the folder `videos`
    through its vision tower (or `video`); without `videos` they have the zero vector. Raises RecordError,
    also for an id that the store already has.
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
    torch.set_num_threads(cluster.threads)
    model = load_graph_model(run.path / "stage1", store, task, device)
    tables = FeatureTables.of(graph, device, model.shape, max_bytes=0)
    digests = cache_digests(run.path / "stage1" / MODEL, store)
    h, graph_scores = embed(
        model,
        tables,
        memory_bytes=settings.graph.inference_bytes,
        progress=bar("embeddings", "relation"),
        # What is asked for together must not change each other's predictions
        mean_scores=cached_mean_scores(run.path / "embeddings" / VECTORS, digests),
    )
    h, scores = h[graph.new], graph_scores[graph.new]
    names, new = graph.node_names(target), graph.new.tolist()
    if stages := language_stages(run):
        language = LanguageScores(run, stages[-1], h.shape[1], device)
        prompts = language.tokens(documents(graph, language.document, new))
        scores = language.of(prompts, h, scores, [names[node] for node in new], bar("predictions", "pack"))
    say_skipped(source.report)
    # Rows that have no key are known by their place in the file
    first = graph.num_old if isinstance(names, RowNumbers) else 0
    for node, score in zip(new, scores, strict=True):
        yield Prediction(names[node - first], task.answer(score))


def require_scores(run: Run, stage: LanguageStage) -> None:
    """ClusterError for a stage whose objective gives new rows no score."""
    from netgpt.trainers.language.objectives.names import objective_class

    named = stage.config(run.settings).objective
    if "" not in objective_class(named, f"{stage.name}.objective").predicts:
        found = f"the objective {named} of {stage.name}"
        raise ClusterError(f"{run.path}: found {found}, expected one that gives new rows a score")


class LanguageScores:
    """Scores of new nodes by a language stage of a run, whose model is loaded once."""

    def __init__(self, run: Run, stage: LanguageStage, width: int, device: torch.device) -> None:
        """width: of h_v. ClusterError for a stage that gives new rows no score."""
        # Here and not above: bad input is refused before transformers is imported, which some runs do without
        from netgpt.trainers.language.assembly import Assembly
        from netgpt.trainers.language.objectives.names import objective_class

        require_scores(run, stage)
        config = stage.config(run.settings)
        objective = objective_class(config.objective, f"{stage.name}.objective")
        self._language, self._device = run.settings.language, device
        self._assembly = Assembly(run.path, run.store, run.settings, run.task, device)
        builder = self._assembly.builder
        model = stage.trained_model(self._assembly, width)
        self._objective = objective(model, run.task, builder, config)
        # The scale is the train examples': the run's, also for nodes of another graph
        states = stage.graph(self._assembly)
        assert states is not None
        self._states = states

    @property
    def document(self) -> Document:
        """What prompts say of a node."""
        return self._assembly.builder.document

    def tokens(self, records: Iterable[tuple[str, str]]) -> list[RecordTokens]:
        """Of ids and texts of the document. TrainerError for one that is too long."""
        return self._assembly.builder.tokenize(records)

    def of(
        self,
        records: Sequence[RecordTokens],
        h_MD: np.ndarray,
        graph_scores: np.ndarray,
        names: Sequence[str],
        progress: OnProgress,
        hidden: np.ndarray | None = None,
    ) -> np.ndarray:
        """Scores [M] or [M, width]. names: ids that clips go by. hidden [M, fields] bool: fields that a
        prompt is without."""
        from netgpt.trainers.language.samples import Samples
        from netgpt.trainers.language.text.tokens import Tokens

        builder, states = self._assembly.builder, self._states
        samples = Samples(
            np.arange(len(h_MD)),
            Tokens.of(records),
            builder,
            self._device,
            replace(states, embeddings=h_MD, scores=None if states.scores is None else graph_scores),
            names=names,
            pixels=self._assembly.pixels,
        ).without(self._assembly.hidden)
        if hidden is not None:
            samples = replace(samples, hidden=hidden if samples.hidden is None else hidden | samples.hidden)
        none = replace(samples, ids=np.empty(0, np.int64))
        with cpu_products(self._language.precision):
            predicted = self._objective.predict(samples, none, self._language.token_budget, progress)
        return np.asarray(predicted[""])
