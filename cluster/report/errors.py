"""What the test split's answers are off by: how told and true go together, and the worst, with reasons."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from netgpt.cluster.errors import is_bad_input
from netgpt.cluster.export import language_stages
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.reasons import Explainer
from netgpt.cluster.report.facts import Chart, ChartGroup, Series, WorstAnswer, WorstAnswers
from netgpt.cluster.scores import LanguageScores, require_scores
from netgpt.graphstore import NodeCopies
from netgpt.graphstore.documents import documents
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.base import Task

NUM_WORST, NUM_REASONS, NUM_FIELDS, FIELD_LENGTH = 5, 6, 8, 160
BINS = 10
SMALL = "tiny"
"""The model that answers soon enough everywhere."""
MOST_BYTES = 1 << 30
"""Of states that a report makes without being asked."""


@dataclass(frozen=True)
class Tested:
    """What was measured of the test split."""

    nodes: np.ndarray
    truth: np.ndarray
    said: list[str]
    """The labels as they are written."""
    scores: Mapping[str, np.ndarray]

    @staticmethod
    def of(run: Run, keys: Iterable[str]) -> Tested:
        """keys: of what is looked at; those without scores of all examples are not there."""
        task, columns = run.task, run.test_predictions()
        scores = {}
        for key in keys:
            try:
                scores[key] = task.scores_from(key, columns)
            except KeyError:  # of a stage whose scores are not known of all examples
                continue
        examples = task.examples(run.store)
        label = task.truth_column(np.empty(0))[0]
        said = [_short(one) for one in columns[label].tolist()]
        return Tested(examples.test, examples.truth[examples.test], said, scores)


def calibration(tested: Tested, task: Task, titles: Mapping[str, str]) -> ChartGroup:
    """Of what is compared, by key and title: what was told against what came, in parts of as many examples.
    No chart where nothing is known."""
    series, gaps = [], []
    ends: list[float] = []
    for style, (key, title) in enumerate(titles.items()):
        if key not in tested.scores:
            continue
        known = task.known(tested.scores[key])
        told, came = task.calibration(tested.scores[key][known], tested.truth[known])
        if not len(told):
            continue
        order = np.argsort(told, kind="stable")
        parts = [part for part in np.array_split(order, min(BINS, len(order))) if len(part)]
        xs, ys = ([float(values[part].mean()) for part in parts] for values in (told, came))
        gap = sum(len(part) * abs(x - y) for part, x, y in zip(parts, xs, ys, strict=True)) / len(order)
        gaps.append(f"{title} {gap:.4f}")
        series.append(Series(title, style, tuple(xs), tuple(ys)))
        ends += xs
    if not series:
        return ChartGroup("Calibration", (), "")
    line = (min(ends), max(ends))
    series.append(Series("told and came are equal", len(series), line, line))
    told_words, came_words = task.said_calibration
    caption = (
        f"Test examples in {BINS} parts of equal size by {told_words}; above it {came_words}. "
        f"What is between them on average: {', '.join(gaps)}."
    )
    chart = Chart("Told and came", told_words, came_words, tuple(series))
    return ChartGroup("Calibration", (chart,), caption)


def worst_answers(run: Run, tested: Tested, key: str, title: str, *, whole: bool = False) -> WorstAnswers:
    """The test examples that the answers of `key` are furthest from, with what they say, and what the answers
    would lack without each thing that the models read.

    whole: reasons whatever they cost; else none of a large graph, and of the graph model alone where the
    other is not `tiny`.
    """
    if key not in tested.scores:
        return WorstAnswers(title, (), "")
    task, scores = run.task, tested.scores[key]
    known = np.flatnonzero(task.known(scores))
    off = task.errors(scores[known], tested.truth[known])
    places = known[np.argsort(-off, kind="stable")[:NUM_WORST]]
    target = run.store.schema.target
    document = run.store.schema.document(target)
    explained, note = _Reasons.of(run, whole)
    rows = []
    for place in places.tolist():
        node = int(tested.nodes[place])
        shown = []
        name = str(run.store.id_column(target, np.array([node]))[0])
        if document is not None:
            ((_, text),) = documents(run.store, document, [node])
            cells = json.loads(text)
            shown = [(k, _short(v)) for k, v in cells.items() if v not in ("", [], {}, None)][:NUM_FIELDS]
        answer = task.answer(scores[place])
        rows.append(
            WorstAnswer(
                id=name,
                truth=tested.said[place],
                answer=", ".join(f"{k} {_short(v)}" for k, v in answer.items() if not isinstance(v, dict)),
                fields=tuple(shown),
                reasons=() if explained is None else explained.of_node(node, name),
            )
        )
    return WorstAnswers(title, tuple(rows), note)


@dataclass(frozen=True)
class _Reasons:
    run: Run
    explainer: Explainer

    @staticmethod
    def of(run: Run, whole: bool) -> tuple[_Reasons | None, str]:
        """None where there are none; and a sentence about them."""
        kinds = {stage_of(name).kind for name in run.stages}
        if run.task.ranks or "graph" not in kinds or not run.is_done("stage1"):
            return None, ""
        if not whole and _state_bytes(run) > MOST_BYTES:
            return None, "Reasons take an exact inference over this graph: netgpt report RUN --reasons."
        language, note = None, "What the answer would lack without each thing that the models read."
        try:
            if stages := language_stages(run):
                if whole or run.config.language.model == SMALL:
                    require_scores(run, stages[-1])
                    width = run.settings.graph.hidden
                    language = LanguageScores(run, stages[-1], width, torch.device("cpu"))
                else:
                    note = (
                        "What the graph model’s answer would lack without each thing that it reads; of the "
                        "language model: netgpt report RUN --reasons."
                    )
            return _Reasons(run, Explainer.of(run, run.store, language)), note
        except Exception as error:
            if not is_bad_input(error):
                raise
            return None, f"No reasons: {error}"

    def of_node(self, node: int, name: str) -> tuple[tuple[str, str, float], ...]:
        """Kind, name and change of the largest."""
        said = None
        if self.explainer.language is not None:
            ((_, text),) = documents(self.run.store, self.explainer.language.document, [node])
            said = (name, text)
        found = self.explainer.explain(NodeCopies(self.run.store, np.array([node])), name, said)
        return tuple((one.kind, one.name, one.change) for one in found.reasons[:NUM_REASONS])


def _state_bytes(run: Run) -> int:
    """At most what the states of all nodes that relations end in take, before all layers."""
    graph, tails = run.settings.graph, {edge_type[2] for edge_type in run.store.edge_types}
    return sum(run.store.num_nodes[name] for name in tails) * graph.hidden * graph.layers * 4


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= FIELD_LENGTH else text[: FIELD_LENGTH - 1] + "…"
