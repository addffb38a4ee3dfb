"""The curves of the training stages: loss, and accuracy and error by group, as they were trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from netgpt.cluster.report.charts import NUM_STYLES
from netgpt.cluster.report.facts import Chart, ChartGroup, Missing, Series, Trained
from netgpt.graphstore import Store
from netgpt.graphstore.files import Json
from netgpt.trainers.stages.folder import Manifest
from netgpt.trainers.stages.names import stage_of

DRAWN = ("acc", "mse")
"""Metrics by group that are drawn, where the points have them."""
Manifests = Mapping[str, Manifest]
"""Manifests of the stages that are done, by name."""


def training_stages(names: Sequence[str]) -> list[str]:
    """Those that train a model."""
    return [name for name in names if stage_of(name).kind in ("graph", "language", "pairs", "modal")]


def loss_charts(manifests: Manifests, titles: Mapping[str, str], missing: Missing | None) -> ChartGroup:
    """Training loss of every stage that is done."""
    charts = []
    for name in training_stages(list(titles)):
        if name in manifests:
            points, unit = _points(manifests[name]["metrics"])
            if points:
                series = _series("loss", 0, points, unit, lambda point: point["loss"])
                charts.append(Chart(_upper(titles[name]), unit, "loss", (series,)))
    caption = (
        "Mean training loss: the task’s own where a stage learns scores, cross-entropy of the tokens where "
        "it learns responses. Without a curve a stage has a point an epoch, else one every few steps."
    )
    return ChartGroup("Loss", tuple(charts), caption, missing)


def _points(metrics: Json) -> tuple[list[Json], str]:
    """Points of a stage's curve and what they are counted in: its own curve, or its epochs."""
    if metrics.get("curve"):
        return list(metrics["curve"]), "step"
    return list(metrics.get("history", [])), "epoch"


def _upper(title: str) -> str:
    return title[:1].upper() + title[1:]


def _place(point: Json, unit: str) -> float:
    # Epochs are numbered from 0; a person counts those that are behind
    return float(point["step"]) if unit == "step" else float(point["epoch"] + 1)


def _series(name: str, style: int, points: Sequence[Json], unit: str, value: Any) -> Series:
    """value: a point's number, or None where it has none."""
    known = [(_place(point, unit), value(point)) for point in points]
    known = [(x, y) for x, y in known if y is not None]
    return Series(name, style, tuple(x for x, _ in known), tuple(float(y) for _, y in known))


def convergence_charts(
    manifests: Manifests,
    titles: Mapping[str, str],
    store: Store,
    by: Sequence[str],
    missing: Mapping[str, Missing],
) -> tuple[ChartGroup, ...]:
    """Metrics by the first grouping: of graph stages on the validation split, of others on what they train.

    by: categories of the target that metrics are told apart by. The largest groups are drawn.
    """
    made = []
    for column in by[:1]:
        groups = _Drawn.of(store, column)
        for name in training_stages(list(titles)):
            of_graph = stage_of(name).kind == "graph"
            unit, key = ("epoch", f"val_{column}") if of_graph else ("step", column)
            kind = "history" if of_graph else "curve"
            metrics = manifests[name]["metrics"] if name in manifests else {}
            points = [p for p in metrics.get(kind, []) if key in p]
            split = "validation" if of_graph else "training"
            if not points and (name not in missing or not _tells_apart(name)):
                continue
            what = (
                "Validation examples after every epoch, under exact inference."
                if of_graph
                else "Train examples as the steps saw them: before their update, with dropout. Groups of few "
                "examples jump."
            )
            made.append(
                ChartGroup(
                    f"{_upper(titles[name])}: {split} by {groups.title}",
                    _by_group(points, unit, key, groups, split),
                    what + groups.left_out,
                    missing.get(name),
                )
            )
    return tuple(made)


def _tells_apart(name: str) -> bool:
    """Whether a stage that is not done will have a curve by group."""
    return stage_of(name).kind == "graph"


@dataclass(frozen=True)
class _Drawn:
    """Groups of a column that charts have lines for."""

    title: str
    values: tuple[str, ...]
    names: tuple[str, ...]
    """As they are shown."""
    left_out: str

    @staticmethod
    def of(store: Store, column: str) -> _Drawn:
        target = store.schema.target
        codes, values = store.category(target, column)
        codes = np.asarray(codes)
        order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(values)), kind="stable").tolist()
        drawn = tuple(values[i] for i in order[:NUM_STYLES])
        title = store.schema.node_type(target).title_of(column)
        left = len(values) - len(drawn)
        more = f" The {len(drawn)} largest groups are drawn, {left:,} are left out." if left else ""
        return _Drawn(title, drawn, tuple(store.dataset.shown(column, v) for v in drawn), more)


def _by_group(points: list[Json], unit: str, key: str, groups: _Drawn, split: str) -> tuple[Chart, ...]:
    """A chart for each metric that the points have of their groups."""
    measured = [m for point in points for of_group in point[key].values() for m in of_group]
    charts = []
    for metric in (m for m in dict.fromkeys(measured) if m.removeprefix("train_") in DRAWN):

        def value(group: str, metric: str = metric) -> Callable[[Json], Any]:
            return lambda point: point[key].get(group, {}).get(metric)

        named = enumerate(zip(groups.names, groups.values, strict=True))
        lines = [_series(name, style, points, unit, value(group)) for style, (name, group) in named]
        lines = [line for line in lines if line.xs]
        title = metric.removeprefix("train_").upper()
        if lines:
            top = 1.0 if title == "ACC" else None
            charts.append(Chart(f"{title}, {split}", unit, title, tuple(lines), top=top))
    return tuple(charts)


def trained_stages(manifests: Manifests, titles: Mapping[str, str]) -> tuple[Trained, ...]:
    """What every finished training stage trained, and for how long."""
    trained = []
    for name in training_stages(list(titles)):
        if name not in manifests:
            continue
        metrics = manifests[name]["metrics"]
        history = metrics.get("history", [])
        steps = [f"{metrics['steps']:,} steps"] if "steps" in metrics else []
        steps.append(f"{len(history)} epoch{'' if len(history) == 1 else 's'}")
        best = metrics.get("best")
        trained.append(
            Trained(
                title=_upper(titles[name]),
                parameters=tuple(metrics.get("trained_parameters", {}).items()),
                steps=", ".join(steps),
                last_loss=history[-1]["loss"] if history else None,
                kept=f"epoch {best['epoch'] + 1}" if best else "",
            )
        )
    return tuple(trained)
