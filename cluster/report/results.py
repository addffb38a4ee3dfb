"""A finished evaluation as a report shows it: results, headline figures, confusion matrices, periods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from netgpt.cluster.pipeline.run import EVALUATION, Run
from netgpt.cluster.report.charts import NUM_STYLES
from netgpt.cluster.report.facts import (
    Chart,
    ChartGroup,
    Comparison,
    Confusion,
    HeadlineFigure,
    Metrics,
    Missing,
    Result,
    Results,
    Series,
)
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.base import Metric, Task
from netgpt.trainers.tasks.baselines import Measures, RunMetrics
from netgpt.trainers.tasks.evaluate import PREDICTIONS, REST
from netgpt.trainers.tasks.split import PARTS

UNFAIR = ("constant (best on test)",)
"""Baselines that have seen the test labels: shown, but no measure of what is to be beaten."""


@dataclass(frozen=True)
class ResultWords:
    """What the run calls what was measured, and which of it comes first."""

    titles: Mapping[str, str]
    order: tuple[str, ...]
    """Keys of the stages that give scores: the last of a whole run, the first, the others, baselines."""
    groupings: Mapping[str, str]
    """Title of each column that metrics are told apart by."""

    @staticmethod
    def of(run: Run) -> ResultWords:
        config, titles = run.config, run.titles
        first = {name: next(iter(stage_of(name).titles(config)), "") for name in run.possible_stages}
        whole = [first[name] for name in run.stages if first[name]]
        order = list(dict.fromkeys([*whole[-1:], *whole, *(k for k in first.values() if k)]))
        node = run.store.schema.node_type(run.store.schema.target)
        groupings = {c.name: node.title_of(c.name) for c in node.columns if c.name in config.evaluation.by}
        return ResultWords(titles, tuple(order), groupings)


def read_results(run: Run, metrics: RunMetrics, words: ResultWords) -> Results:
    """metrics: of the evaluation's manifest."""
    task, dataset, within = run.task, run.store.dataset, run.intervals()
    flag, apart = run.apart

    def result(key: str, title: str, measured: Mapping[str, Measures]) -> Result:
        test = measured["test"]
        return Result(
            key=key,
            title=title,
            test=_metrics(task, test),
            splits={name: _metrics(task, measured[name]) for name in PARTS if name in measured},
            apart=_metrics(task, measured[f"test_{flag}"]) if f"test_{flag}" in measured else None,
            rest=_metrics(task, measured[f"test_{REST}"]) if f"test_{REST}" in measured else None,
            groups={
                title: {dataset.shown(name, value): _metrics(task, m) for value, m in test[name].items()}
                for name, title in words.groupings.items()
                if name in test
            },
            periods={name: _metrics(task, m) for name, m in test.get("period", {}).items()},
            within=within.get(key, {}),
        )

    stages = tuple(result(key, words.titles.get(key, key), m) for key, m in metrics["stages"].items())
    baselines = tuple(result(key, key, m) for key, m in metrics["baselines"].items())
    by_key = {one.key: one for one in stages}
    order = [key for key in words.order if key in by_key] or [one.key for one in stages[:1]]
    chosen = next(m for m in task.metrics if m.name == task.chooses)
    shown = Results(
        main=by_key[order[0]].title if order else "",
        headline=(),
        sentences=(),
        baselines=baselines,
        stages=stages,
        confusions=_confusions(
            task, run.path / EVALUATION / PREDICTIONS, {k: by_key[k].title for k in order}
        ),
        metrics=task.metrics,
        chosen=chosen,
        noun=task.noun,
        apart=apart if flag else "",
        published=dataset.published,
        compared=tuple(order[:NUM_STYLES]),
    )
    if not order:
        return shown
    main, first = by_key[order[0]], next((by_key[k] for k in order[1:2]), None)
    graph = first if first is not None and words.order.index(first.key) == 1 else None
    return Results(
        **{
            **vars(shown),
            "headline": _headline(shown, main, graph),
            "sentences": _sentences(shown, main, graph, task),
        }
    )


def _metrics(task: Task, measured: Measures) -> Metrics:
    values = {m.name: measured.get(m.name) for m in task.metrics}
    return Metrics(values, int(measured.get("num", 0)), int(measured.get("unparsed", 0)))


def best_of(results: Sequence[Result], metric: Metric) -> Result | None:
    """The best fair one of some results by a metric of the test split; None where none has it."""
    known = [r for r in results if r.key not in UNFAIR and r.test.values[metric.name] is not None]
    sign = -1 if metric.larger_is_better else 1
    return min(known, key=lambda r: sign * (r.test.values[metric.name] or 0.0), default=None)


def _headline(shown: Results, main: Result, graph: Result | None) -> tuple[HeadlineFigure, ...]:
    """graph: the first stage's result, where the main one is another's."""
    figures = []
    published = next((p for p in shown.published if p.main), None)
    for metric in shown.metrics:
        beside = []
        if graph is not None:
            beside.append(Comparison(f"{graph.title} alone", figure(graph.test.values[metric.name])))
        if (best := best_of(shown.baselines, metric)) is not None:
            beside.append(Comparison(f"best baseline: {best.title}", figure(best.test.values[metric.name])))
        if published is not None and metric.name in published.figures:
            beside.append(
                Comparison(f"published {published.name}, on its full data", published.figures[metric.name])
            )
        value = main.test.values[metric.name]
        figures.append(HeadlineFigure(metric.title, metric.meaning, value, tuple(beside)))
    return tuple(figures)


def figure(value: float | None) -> str:
    """A metric with four decimals."""
    return "–" if value is None else f"{value:.4f}"


def _sentences(shown: Results, main: Result, graph: Result | None, task: Task) -> tuple[str, ...]:
    measured = ", ".join(
        f"{m.title} {figure(main.test.values[m.name])} ({m.meaning})"
        for m in shown.metrics
        if main.test.values[m.name] is not None
    )
    said = []
    if measured:
        said.append(
            f"{main.title} was trained on {task.said_train}, and measured on {main.test.num:,} "
            f"{task.said_test}: {measured}."
        )
    if graph is not None and main.test.num and graph.test.num:
        said.append(_beside(shown.metrics, main, graph))
    if main.apart and main.apart.num and main.rest and main.rest.values[shown.chosen.name] is not None:
        name, title = shown.chosen.name, shown.chosen.title
        said.append(
            f"{main.apart.num:,} of the test examples are apart ({shown.apart}): there the {title} is "
            f"{figure(main.apart.values[name])}, and {figure(main.rest.values[name])} on the rest."
        )
    said += [
        f"{r.title}: {r.test.unparsed:,} of {r.test.num:,} texts state no {shown.noun}: {task.unparsed_said}."
        for r in shown.stages
        if r.test.unparsed
    ]
    return tuple(said)


def _beside(metrics: Sequence[Metric], main: Result, graph: Result) -> str:
    """What the later stages change: differences of the figures as they are shown."""
    changes = []
    for metric in metrics:
        ours, theirs = main.test.values[metric.name], graph.test.values[metric.name]
        if ours is not None and theirs is not None:
            difference = round(ours, 4) - round(theirs, 4)
            word = "is the same" if abs(difference) < 5e-5 else f"changes by {difference:+.4f}"
            changes.append(f"{metric.title} {word}".replace("-", "−"))
    listed = " and ".join(filter(None, [", ".join(changes[:-1]), *changes[-1:]]))
    return f"Beside the {graph.title} alone, {listed}."


def _confusions(task: Task, predictions: Path, titles: Mapping[str, str]) -> tuple[Confusion, ...]:
    """Tables of the test split's answers, for what has predictions of every example. None of a task whose
    answers are no list."""
    names, columns = task.choices, pq.read_schema(predictions).names
    keys = [key for key in titles if f"{key}_{task.noun}" in columns]
    label = task.truth_column(np.empty(0))[0]
    if not names or not keys:
        return ()
    table = pq.read_table(predictions, columns=["split", label, *(f"{key}_{task.noun}" for key in keys)])
    is_test = np.array(table["split"].to_pylist()) == "test"
    truth = task.choices_said(table[label].to_numpy(zero_copy_only=False)[is_test])
    made = []
    for key in keys:
        given = task.choices_said(table[f"{key}_{task.noun}"].to_numpy(zero_copy_only=False)[is_test])
        counts = np.zeros((len(names), len(names)), np.int64)
        known = given >= 0  # a text that states no answer has no column
        np.add.at(counts, (truth[known], given[known]), 1)
        made.append(Confusion(titles[key], names, tuple(tuple(row) for row in counts.tolist())))
    return tuple(made)


def period_charts(
    results: Results | None, metrics: Sequence[Metric], xlabel: str, missing: Missing | None
) -> ChartGroup:
    """Errors of the test split by period, for what the run has measured. xlabel: what the periods are of."""
    by_key = {r.key: r for r in results.stages} if results else {}
    compared = [(i, by_key[key]) for i, key in enumerate(results.compared)] if results else []
    names = tuple(compared[0][1].periods) if compared else ()
    charts = [
        Chart(
            title=f"{metric.title} by period",
            xlabel=xlabel,
            ylabel=metric.title,
            series=tuple(
                _by_place(r.title, style, [r.periods[n].values[metric.name] for n in names])
                for style, r in compared
            ),
            ticks=tuple(name.removesuffix(" days") for name in names),
        )
        for metric in metrics
        if names and not metric.larger_is_better
    ]
    caption = (
        f"Test examples by the {xlabel}. Unless the configuration gives bounds, periods are quartiles of all "
        "labelled examples."
    )
    return ChartGroup("Error by period", tuple(charts), caption, missing)


def _by_place(name: str, style: int, values: list[float | None]) -> Series:
    known = [(float(place), value) for place, value in enumerate(values) if value is not None]
    return Series(name, style, tuple(x for x, _ in known), tuple(y for _, y in known))
