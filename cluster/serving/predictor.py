"""A finished run that answers for new rows, loaded once: the store's states, the models, the prompts.

Each record joins the graph alone, so that none changes another's answer, whatever is asked together: the
answers are those of `netgpt predict` for a file of that record.
"""

from __future__ import annotations

import json
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
from netgpt.cluster.features.inline import inline_encoders
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.predict import LanguageScores, Prediction
from netgpt.cluster.progress import bar
from netgpt.cluster.recommend import require_recommender
from netgpt.graphstore import ExtendedGraph, ReadReport
from netgpt.graphstore.dataset import HeldSource
from netgpt.graphstore.documents import documents
from netgpt.graphstore.features import TextEncoder
from netgpt.graphstore.store import RowNumbers
from netgpt.graphstore.writer import build_config
from netgpt.trainers.graph.exact import KeptStates, NewNodes, exact_scores
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import load_model
from netgpt.trainers.stages.names import stage_of

BINS = 24
"""Of a number's distribution."""
_FOLDER = "netgpt-record-"
_FILE = re.compile(rf"\S*/{_FOLDER}[^/\s]*/record\.\w+")


@dataclass(frozen=True)
class Refused:
    """A record that has no answer."""

    id: str
    error: str


@dataclass(frozen=True)
class Answer:
    prediction: Prediction
    embedding: np.ndarray
    """[D] float32: of the graph model."""


@dataclass(frozen=True)
class Reason:
    """What an answer would lack without something."""

    kind: str
    """relation: the row does not hear it; neighbour: of a relation of the nearest one head; features: the
    row's own vector is zero; field: the prompt is without it."""
    name: str
    change: float
    """The answer less what it is without: of classes in the chance of the one that was answered."""


class Predictor:
    def __init__(self, run: Run, device: torch.device, *, text: str | None = None) -> None:
        """text: features.text, where the run does not name the encoder of its texts. ClusterError for a run
        that gives new rows no answer, or is not done."""
        require_answers(run)
        self.run, self.device = run, device
        store, config = run.store, run.config
        torch.set_num_threads(config.cluster.threads)
        self._config = build_config(store)
        named = config.features.text if text is None else text
        self._features = replace(config.features, text=named, video="", videos="")
        self._text: TextEncoder | None = None
        cpu = torch.device("cpu")
        model = load_model(run.path / "stage1", store, run.task, cpu)
        tables = FeatureTables.of(store, cpu, model.shape, max_bytes=0)
        kept = KeptStates.of(
            model,
            tables,
            memory_bytes=run.settings.graph.inference_bytes,
            progress=bar("embeddings", "relation"),
            scratch=run.path,
        )
        self._new_nodes, self._model = NewNodes(model, tables, kept), model
        stages = language_stages(run)
        self._language = LanguageScores(run, stages[-1], model.shape.hidden, device) if stages else None

    def join(self, record: Mapping[str, Any], name: str) -> ExtendedGraph:
        """The graph with one record, alone. StoreError, RecordError and the like for a bad one.

        name: what it is called where it does not say.
        """
        store = self.run.store
        suffix, text = store.dataset.record_file(record, name)
        with TemporaryDirectory(prefix=_FOLDER) as folder:
            path = Path(folder) / f"record{suffix}"
            path.write_text(text, encoding="utf-8")
            source = HeldSource(store.dataset.open_new(store, path, self._config, ReadReport()))
            if self._text is None:
                self._text, _ = inline_encoders(self._features, store, source, self.device.type)
            graph = ExtendedGraph(store, source, text=self._text)
        if graph.num_new != 1:
            raise ClusterError(f"record: found {graph.num_new} rows, expected one")
        return graph

    def answers(self, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Answer | Refused]:
        """One for each record, given with what it is called where it does not say, in order."""
        made: list[Answer | Refused | None] = []
        graphs: list[ExtendedGraph] = []
        for name, record in records:
            try:
                graphs.append(self.join(record, name))
                made.append(None)
            except Exception as error:
                if not is_bad_input(error):
                    raise
                said = _FILE.sub(name, " ".join(str(error).split()))
                made.append(Refused(_id_of(record, name), said))
        answered = iter(self._answers(graphs))
        return [next(answered) if one is None else one for one in made]

    def explain(self, record: Mapping[str, Any], name: str) -> tuple[Answer, list[Reason]]:
        """The answer for one record, and what each thing that the models read changes in it, the largest
        first. Errors as of `join`."""
        graph = self.join(record, name)
        target, (node,) = graph.schema.target, graph.new.tolist()
        told: list[tuple[str, str]] = []
        graphs = [graph]
        for edge_type in self._model.shape.ending_in(target):
            heads = graph.relation(edge_type).neighbors(node)
            if not len(heads):
                continue
            told.append(("relation", edge_type[1]))
            graphs.append(graph.without_heads(edge_type))
            if graph.schema.relation_type(edge_type).rule == "nearest":
                names = graph.node_names(edge_type[0])
                for head in heads.tolist():
                    told.append(("neighbour", names[head]))
                    graphs.append(graph.without_heads(edge_type, [head]))
        if target in graph.schema.encoded_types and graph.features(target).gather(graph.new).any():
            told.append(("features", target))
            graphs.append(graph.without_features())
        h = np.concatenate(self._new_nodes.of(graphs))
        scores, own = exact_scores(self._model, h), _name_of(graph)
        if self._language is not None:
            document = self._language.document
            ((prompt_id, text),) = documents(graph, document, [node])
            there = json.loads(text)
            fields = [i for i, field in enumerate(document.fields) if field.name in there]
            told += [("field", document.fields[i].name) for i in fields]
            num, first = len(told) + 1, len(graphs)
            hidden = np.zeros((num, len(document.fields)), bool)
            hidden[np.arange(first, num), fields] = True
            h = np.concatenate([h, np.repeat(h[:1], len(fields), axis=0)])
            scores = np.concatenate([scores, np.repeat(scores[:1], len(fields), axis=0)])
            prompts = [(prompt_id, text)] * num
            scores = self._language.of(prompts, h, scores, [own] * num, _unseen, hidden)
        task = self.run.task
        values = task.said_values(scores, scores[0])
        changes = (values[0] - values[1:]).tolist()
        reasons = [Reason(kind, name, change) for (kind, name), change in zip(told, changes, strict=True)]
        answer = Answer(Prediction(own, task.answer(scores[0])), h[0])
        return answer, sorted(reasons, key=lambda one: -abs(one.change))

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

    def _answers(self, graphs: Sequence[ExtendedGraph]) -> list[Answer]:
        if not graphs:
            return []
        task = self.run.task
        h = np.concatenate(self._new_nodes.of(graphs))
        scores = exact_scores(self._model, h)
        names = [_name_of(graph) for graph in graphs]
        if self._language is not None:
            document = self._language.document
            prompts = [one for g in graphs for one in documents(g, document, g.new.tolist())]
            scores = self._language.of(prompts, h, scores, names, _unseen)
        return [
            Answer(Prediction(name, task.answer(score)), vector)
            for name, score, vector in zip(names, scores, h, strict=True)
        ]


def predictor_of(run: Run, device: torch.device, *, text: str | None = None) -> Any:
    """What answers for a run, by its task: `answers`, `explain` and `about`."""
    if run.task.ranks:
        from netgpt.cluster.serving.lists import ListPredictor

        return ListPredictor(run)
    return Predictor(run, device, text=text)


def require_answers(run: Run) -> None:
    """ClusterError for a run that gives no answer, or is not done."""
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


def _name_of(graph: ExtendedGraph) -> str:
    names = graph.node_names(graph.schema.target)
    (node,) = graph.new.tolist()
    return names[node - (graph.num_old if isinstance(names, RowNumbers) else 0)]


def _id_of(record: Mapping[str, Any], name: str) -> str:
    return str(record["id"]) if isinstance(record, Mapping) and "id" in record else name


def _unseen(done: int, total: int) -> None:
    """Progress that nobody watches."""
