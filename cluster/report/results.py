"""A finished evaluation as a report shows it: results, headline figures, confusion matrices, periods."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

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
from netgpt.cluster.report.names import platform_title
from netgpt.cluster.report.paper import NETGPT
from netgpt.graphstore.store import MAX_LEVEL
from netgpt.trainers.evaluate import STAGE_NAMES

METRIC_NAMES = ("acc", "mse", "mae")
MEANINGS = {
    "acc": "states whose rounded score is their level",
    "mse": "mean squared error of the score, in levels squared",
    "mae": "mean absolute error of the score, in levels",
}
UNFAIR = ("constant (best on test)",)
"""Baselines that have seen the test levels: shown, but no measure of what is to be beaten."""
MAIN = ("stage3", "lora", "stage1")
"""What the headline is about: the first of these that was measured."""
MATRICES = ("stage3", "stage1", "lora")
COMPARED = ("stage3", "stage1", "stage2", "lora")
"""Whose error by period is drawn; their styles are their places here."""


def read_results(metrics: dict[str, Any], predictions: Path, last_train_day: str) -> Results:
    """metrics: of the evaluation's manifest. predictions: its Parquet file."""
    titles = {"stage1": metrics["encoder"], "stage1_sampled": f"{metrics['encoder']}, sampled", **STAGE_NAMES}
    stages = tuple(_result(key, titles.get(key, key), found) for key, found in metrics["stages"].items())
    baselines = tuple(_result(key, key, found) for key, found in metrics["baselines"].items())
    by_key = {result.key: result for result in stages}
    main = next((by_key[key] for key in MAIN if key in by_key), stages[0])
    return Results(
        main=main.title,
        headline=_headline(main, by_key, baselines),
        sentences=_sentences(main, by_key, stages, last_train_day),
        baselines=baselines,
        stages=stages,
        confusions=_confusions(predictions, titles),
        num_age_zero=main.age_zero.num if main.age_zero else 0,
    )


def _metrics(found: dict[str, Any]) -> Metrics:
    return Metrics(
        found["acc"], found["mse"], found["mae"], int(found.get("num", 0)), int(found.get("unparsed", 0))
    )


def _result(key: str, title: str, found: dict[str, Any]) -> Result:
    test = found["test"]
    return Result(
        key=key,
        title=title,
        test=_metrics(test),
        splits={name: _metrics(found[name]) for name in ("train", "val", "test") if name in found},
        age_zero=_metrics(found["test_age_zero"]) if "test_age_zero" in found else None,
        rest=_metrics(found["test_rest"]) if "test_rest" in found else None,
        platforms={platform_title(name): _metrics(m) for name, m in test.get("platform", {}).items()},
        periods={name: _metrics(m) for name, m in test.get("period", {}).items()},
    )


def best_of(results: Sequence[Result], metric: str) -> Result | None:
    """The best fair one of some results by a metric of the test split; None where none has it."""
    known = [r for r in results if r.key not in UNFAIR and getattr(r.test, metric) is not None]
    sign = -1 if metric == "acc" else 1
    return min(known, key=lambda r: sign * getattr(r.test, metric), default=None)


def _headline(
    main: Result, by_key: dict[str, Result], baselines: tuple[Result, ...]
) -> tuple[HeadlineFigure, ...]:
    figures = []
    for metric in METRIC_NAMES:
        beside = []
        if "stage1" in by_key and main.key != "stage1":
            encoder = by_key["stage1"]
            beside.append(Comparison(f"{encoder.title} alone", figure(getattr(encoder.test, metric))))
        if (best := best_of(baselines, metric)) is not None:
            beside.append(Comparison(f"best baseline: {best.title}", figure(getattr(best.test, metric))))
        beside.append(Comparison("paper's NetGPT, on its full data", getattr(NETGPT, metric)))
        value = getattr(main.test, metric)
        figures.append(HeadlineFigure(metric.upper(), MEANINGS[metric], value, tuple(beside)))
    return tuple(figures)


def figure(value: float | None) -> str:
    """A metric with four decimals."""
    return "–" if value is None else f"{value:.4f}"


def _sentences(
    main: Result, by_key: dict[str, Result], stages: tuple[Result, ...], last_train_day: str
) -> tuple[str, ...]:
    said = []
    if main.test.acc is not None and main.test.mae is not None:
        said.append(
            f"{main.title} was trained on videos posted up to {last_train_day}, and measured on "
            f"{main.test.num:,} states of later ones. It gives {100 * main.test.acc:.1f}% of them their "
            f"exact level, and is {main.test.mae:.2f} levels off on average."
        )
    encoder = by_key.get("stage1")
    if encoder and encoder is not main and main.test.num and encoder.test.num:
        said.append(_beside(main, encoder))
    if main.age_zero and main.age_zero.num and main.rest and main.rest.mae is not None:
        said.append(
            f"{main.age_zero.num:,} of the test states were sampled on the day of the post, with all "
            f"counters at zero: there the MAE is {figure(main.age_zero.mae)}, and "
            f"{figure(main.rest.mae)} on the rest."
        )
    said += [
        f"{r.title}: {r.test.unparsed:,} of {r.test.num:,} texts name no level. They count as wrong in ACC, "
        "and not in MSE and MAE."
        for r in stages
        if r.test.unparsed
    ]
    return tuple(said)


def _beside(main: Result, encoder: Result) -> str:
    """What the language stages change: differences of the figures as they are shown."""
    changes = []
    for metric in METRIC_NAMES:
        ours, theirs = getattr(main.test, metric), getattr(encoder.test, metric)
        if ours is not None and theirs is not None:
            difference = round(ours, 4) - round(theirs, 4)
            word = "is the same" if abs(difference) < 5e-5 else f"changes by {difference:+.4f}"
            changes.append(f"{metric.upper()} {word}".replace("-", "−"))
    return f"Beside the {encoder.title} alone, {', '.join(changes[:-1])} and {changes[-1]}."


def _confusions(predictions: Path, titles: dict[str, str]) -> tuple[Confusion, ...]:
    """Of what has predictions for every state; of the test split."""
    names = pq.read_schema(predictions).names
    keys = [key for key in MATRICES if f"{key}_level" in names]
    table = pq.read_table(predictions, columns=["split", "level", *(f"{key}_level" for key in keys)])
    is_test = np.array(table["split"].to_pylist()) == "test"
    truth = table["level"].to_numpy()[is_test].astype(np.int64)
    made = []
    for key in keys:
        rated = table[f"{key}_level"].to_numpy()[is_test].astype(np.int64)
        counts = np.zeros((MAX_LEVEL + 1, MAX_LEVEL + 1), np.int64)
        known = rated >= 0  # a text that names no level has no column
        np.add.at(counts, (truth[known], rated[known]), 1)
        made.append(Confusion(titles[key], tuple(tuple(row) for row in counts.tolist())))
    return tuple(made)


def period_charts(results: Results | None, missing: Missing | None) -> ChartGroup:
    """MSE and MAE of the test split by observation period, for what the run has measured."""
    by_key = {r.key: r for r in results.stages} if results else {}
    compared = [(style, by_key[key]) for style, key in enumerate(COMPARED) if key in by_key]
    names = tuple(compared[0][1].periods) if compared else ()
    charts = [
        Chart(
            title=f"{metric.upper()} by observation period",
            xlabel="days from the post to the sampling date",
            ylabel=metric.upper(),
            series=tuple(
                _by_place(r.title, style, [getattr(r.periods[n], metric) for n in names])
                for style, r in compared
            ),
            ticks=tuple(name.removesuffix(" days") for name in names),
        )
        for metric in ("mse", "mae")
        if names
    ]
    caption = (
        "Test states by the days between the post and the sampling date. Unless the configuration gives "
        "bounds, periods are quartiles of all labelled states."
    )
    return ChartGroup("Error by observation period", tuple(charts), caption, missing)


def _by_place(name: str, style: int, values: list[float | None]) -> Series:
    known = [(float(place), value) for place, value in enumerate(values) if value is not None]
    return Series(name, style, tuple(x for x, _ in known), tuple(y for _, y in known))
