"""A finished run that answers for new rows, loaded once: the store's states, the models, the prompts.

Each record joins the graph alone, so that none changes another's answer, whatever is asked together: the
answers are those of `netgpt predict` for a file of that record.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from netgpt.cluster.errors import ClusterError, is_bad_input
from netgpt.cluster.export import language_stages
from netgpt.cluster.features.inline import inline_text, require_text
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.predict import Prediction
from netgpt.cluster.reasons import Explainer
from netgpt.cluster.recommend import require_recommender
from netgpt.cluster.scores import LanguageScores, require_scores
from netgpt.graphstore import ExtendedGraph, ReadReport
from netgpt.graphstore.dataset import HeldSource
from netgpt.graphstore.documents import documents
from netgpt.graphstore.files import value_digest
from netgpt.graphstore.store import RowNumbers
from netgpt.graphstore.writer import build_config
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.graph.exact import exact_scores
from netgpt.trainers.language.text.tokens import RecordTokens
from netgpt.trainers.processor import use_cores
from netgpt.trainers.progress import no_progress
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.names import stage_of

AT_ONCE = 16
"""Records that have joined a graph at once."""
BINS = 24
"""Of a number's distribution."""
_FOLDER = "netgpt-record-"
_FILE = re.compile(rf"\S*/{_FOLDER}[^/\s]*/record\.\w+")


@dataclass(frozen=True)
class Refused:
    """A record that has no answer."""

    id: str
    error: str
    failed: bool = False
    """Through no fault of the record's."""


@dataclass(frozen=True)
class Answer:
    prediction: Prediction
    embedding: np.ndarray
    """[D] float32: of the graph model."""


class Predictor:
    def __init__(self, run: Run, device: torch.device, *, text: str | None = None) -> None:
        """text: features.text, where the run does not name the encoder of its texts. ClusterError for a run
        that gives new rows no answer, or is not done."""
        require_answers(run, text)
        self.run, self.device = run, device
        store, config = run.store, run.config
        use_cores(config.cluster.threads)
        self._config = build_config(store)
        self._text = inline_text(_with_text(run, text), store, device.type)
        node = store.schema.node_type(store.schema.target)
        self._id_columns = ["id", *(c.name for c in node.columns if c.kind == "id")]
        stages = language_stages(run)
        width = run.settings.graph.hidden
        self._language = LanguageScores(run, stages[-1], width, device) if stages else None
        self._explainer = Explainer.of(run, store, self._language)
        self._new_nodes = self._explainer.nodes
        for relation in store.schema.relations:  # what the first record would wait for
            if relation.rule == "group":
                store.members(relation)

    def join(self, record: Mapping[str, Any], name: str) -> ExtendedGraph:
        """The graph with one record, alone. StoreError, RecordError and the like for a bad one.

        name: what it is called where it does not say.
        """
        store = self.run.store
        suffix, data = store.dataset.record_file(record, name)
        with TemporaryDirectory(prefix=_FOLDER) as scratch:
            path = Path(scratch) / f"record{suffix}"
            path.write_bytes(data)
            source = HeldSource(store.dataset.open_new(store, path, self._config, ReadReport()))
            graph = ExtendedGraph(store, source, text=self._text)
        if graph.num_new != 1:
            raise ClusterError(f"record: found {graph.num_new} rows, expected one")
        return graph

    def answers(self, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Answer | Refused]:
        """One for each record, given with what messages call it, in order."""
        made: list[Answer | Refused | None] = []
        names: list[str] = []
        vectors: list[np.ndarray] = []
        prompts: list[RecordTokens] = []
        for first in range(0, len(records), AT_ONCE):  # a joined graph copies arrays of the store
            graphs: list[ExtendedGraph] = []
            for name, record in records[first : first + AT_ONCE]:
                try:
                    graph = self.join(record, name)
                    prompts += self._prompts(graph)
                    graphs.append(graph)
                    names.append(self._name_of(graph, name))
                    made.append(None)
                except Exception as error:
                    made.append(self._refused(name, record, error))
            if graphs:
                vectors += self._new_nodes.of(graphs)
        answered = iter(self._scored(names, vectors, prompts))
        return [next(answered) if one is None else one for one in made]

    def _prompts(self, graph: ExtendedGraph) -> list[RecordTokens]:
        """Tokens of a joined record, where a language model reads them. TrainerError for one too long."""
        if self._language is None:
            return []
        document = self._language.document
        return self._language.tokens(documents(graph, document, graph.new.tolist()))

    def _refused(self, name: str, record: Mapping[str, Any], error: Exception) -> Refused:
        """What is wrong with a record, without paths of this machine; other errors go on."""
        if not is_bad_input(error):
            raise error
        said = _FILE.sub(name, " ".join(str(error).split()))
        for path in (self.run.store.path, self.run.path):
            said = said.replace(str(path), path.name)
        known = [key for key in self._id_columns if key in record]
        return Refused(str(record[known[0]]) if known else name, said)

    def _scored(
        self, names: Sequence[str], vectors: Sequence[np.ndarray], prompts: Sequence[RecordTokens]
    ) -> list[Answer]:
        if not names:
            return []
        task, h = self.run.task, np.concatenate(vectors)
        scores = exact_scores(self._new_nodes.model, h)
        if self._language is not None:
            scores = self._language.of(prompts, h, scores, names, no_progress)
        return [
            Answer(Prediction(name, task.answer(score)), vector)
            for name, score, vector in zip(names, scores, h, strict=True)
        ]

    def _name_of(self, graph: ExtendedGraph, name: str) -> str:
        """The record's id; of rows without one what messages call it."""
        names = graph.node_names(graph.schema.target)
        (node,) = graph.new.tolist()
        return name if isinstance(names, RowNumbers) else names[node]

    def explained(self, record: Mapping[str, Any], name: str) -> Answer | Refused:
        """As `explain`; or what is wrong with the record."""
        try:
            return self.explain(record, name)
        except Exception as error:
            return self._refused(name, record, error)

    def explain(self, record: Mapping[str, Any], name: str) -> Answer:
        """The answer for one record, and what each thing that the models read changes in it, the largest
        first. Errors as of `join`."""
        graph = self.join(record, name)
        own, document = self._name_of(graph, name), None
        if self._language is not None:
            (document,) = documents(graph, self._language.document, graph.new.tolist())
        found = self._explainer.explain(graph, own, document)
        return Answer(Prediction(own, self.run.task.answer(found.score), found.reasons), found.embedding)

    def about(self) -> dict[str, Any]:
        """What is answered, and how the labels of the train examples lie: shares by answer, or by bins of
        equal width between the outermost two in a hundred."""
        task, examples = self.run.task, self.run.task.examples(self.run.store)
        truth = examples.truth[examples.train]
        train: dict[str, Any] = {"num": len(truth)}
        if task.choices and task.noun != "number":
            labels = list(task.choices)
            counts = np.bincount([task.choice_of(one) for one in truth.tolist()], minlength=len(labels))
            train |= {"labels": labels, "shares": (counts / max(1, len(truth))).tolist()}
        else:
            low, high = np.quantile(truth, (0.01, 0.99)) if len(truth) else (0.0, 1.0)
            edges = np.linspace(low, max(high, low + 1e-9), BINS + 1)
            inside = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, BINS - 1)
            counts = np.bincount(inside, minlength=BINS)
            train |= {
                "labels": [f"{edge:.4g}" for edge in edges[:-1]],
                "edges": edges[:-1].tolist(),
                "shares": (counts / max(1, len(truth))).tolist(),
            }
        title = self.run.store.dataset.title
        words = f"A {task.noun} for new rows of {title}; trained on {task.said_train}."
        return {
            "run": self.run.path.name,
            "task": task.config.name,
            "noun": task.noun,
            "words": words,
            "train": train,
        }


def predictor_of(run: Run, device: torch.device, *, text: str | None = None) -> Any:
    """What answers for a run, by its task: `answers`, `explain` and `about`."""
    if run.task.ranks:
        from netgpt.cluster.serving.lists import ListPredictor

        return ListPredictor(run)
    return Predictor(run, device, text=text)


def trained_digest(run: Run) -> str:
    """Of the store and all that the run's stages made."""
    return value_digest([run.store.digest, *(folder.stage_digest(run.folder(name)) for name in run.stages)])


def require_unchanged(run: Run, made: str) -> None:
    """ClusterError where a run is not what it was by its `trained_digest`."""
    if trained_digest(run) != made:
        raise ClusterError(
            f"{run.path}: found another model than the service began with, expected it unchanged; "
            "start the service again"
        )


def require_answers(run: Run, text: str | None = None) -> None:
    """ClusterError for a run that gives new rows no answer, or is not done. text: as of `Predictor`."""
    if run.task.ranks:
        require_recommender(run)
        return
    kinds = {stage_of(name).kind for name in run.stages}
    if "graph" not in kinds:
        raise ClusterError(
            f"{run.path}: found a run of the stages {', '.join(run.stages)}, expected one with stage1 whose "
            "examples are nodes"
        )
    run.require_trained()
    store = run.store
    if not store.dataset.can_join:
        raise ClusterError(f"{run.path}: found a store of {store.dataset.title}, which no rows can join")
    require_text(_with_text(run, text), store)
    if stages := language_stages(run):
        require_scores(run, stages[-1])


def _with_text(run: Run, text: str | None) -> FeaturesConfig:
    """The run's encoders, of texts the one that is given, if any."""
    return replace(run.config.features, text=text or run.config.features.text)
