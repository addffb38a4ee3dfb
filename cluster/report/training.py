"""The curves of the training stages: loss, and accuracy and error by platform, as they were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from netgpt.cluster.report.facts import Chart, ChartGroup, Missing, Series, Trained
from netgpt.cluster.report.names import platform_title

TRAINING = ("stage1", "stage2", "stage3", "lora")
NUM_STYLES = 6
"""Lines that a reader can tell apart."""
Json = dict[str, Any]
Manifests = Mapping[str, Json]
"""Manifests of the stages that are done, by name."""


def loss_charts(manifests: Manifests, titles: Mapping[str, str], missing: Missing | None) -> ChartGroup:
    """Training loss of every stage that is done."""
    charts = []
    for name in TRAINING:
        if name in manifests:
            points, unit = _points(manifests[name]["metrics"])
            if points:
                series = _series("loss", 0, points, unit, lambda point: point["loss"])
                charts.append(Chart(_upper(titles[name]), unit, "loss", (series,)))
    caption = (
        "Mean training loss: Smooth L1 of the score in stages 1 and 3, cross-entropy of the response’s "
        "tokens in stage 2 and LoRA. Stage 1 has a point an epoch, the others one every few steps."
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
    manifests: Manifests, platforms: Sequence[str], missing: Mapping[str, Missing]
) -> tuple[ChartGroup, ...]:
    """ACC and MSE by platform: of stage 1 on the validation split, of stage 3 on the train states.

    platforms: the store's names, the most frequent first: the first few are drawn.
    """
    drawn = list(platforms[:NUM_STYLES])
    left = len(platforms) - len(drawn)
    more = f" The {len(drawn)} largest platforms are drawn, {left:,} are left out." if left else ""
    stage1 = _by_platform(
        manifests, "stage1", "history", "epoch", "val_platform", ("acc", "mse"), drawn, "validation"
    )
    stage3 = _by_platform(
        manifests, "stage3", "curve", "step", "platform", ("train_acc", "train_mse"), drawn, "training"
    )
    return (
        ChartGroup(
            "Stage 1: validation by platform",
            stage1,
            "Validation states after every epoch, under exact inference." + more,
            missing.get("stage1"),
        ),
        ChartGroup(
            "Stage 3: training by platform",
            stage3,
            "Train states as the steps saw them: before their update, with dropout. Platforms of few states "
            "jump." + more,
            missing.get("stage3"),
        ),
    )


def _by_platform(
    manifests: Manifests,
    stage: str,
    kind: str,
    unit: str,
    key: str,
    metrics: tuple[str, str],
    platforms: list[str],
    split: str,
) -> tuple[Chart, ...]:
    if stage not in manifests:
        return ()
    points = [point for point in manifests[stage]["metrics"].get(kind, []) if key in point]
    charts = []
    for metric, name in zip(metrics, ("ACC", "MSE"), strict=True):
        lines = [
            _series(
                platform_title(platform),
                style,
                points,
                unit,
                lambda point, p=platform, m=metric: point[key].get(p, {}).get(m),
            )
            for style, platform in enumerate(platforms)
        ]
        lines = [line for line in lines if line.xs]
        if lines:
            top = 1.0 if name == "ACC" else None
            charts.append(Chart(f"{name}, {split}", unit, name, tuple(lines), top=top))
    return tuple(charts)


def trained_stages(manifests: Manifests, titles: Mapping[str, str]) -> tuple[Trained, ...]:
    """What every finished training stage trained, and for how long."""
    found = []
    for name in TRAINING:
        if name not in manifests:
            continue
        metrics = manifests[name]["metrics"]
        history = metrics.get("history", [])
        steps = [f"{metrics['steps']:,} steps"] if "steps" in metrics else []
        steps.append(f"{len(history)} epoch{'' if len(history) == 1 else 's'}")
        best = metrics.get("best")
        found.append(
            Trained(
                title=_upper(titles[name]),
                parameters=tuple(metrics.get("trained_parameters", {}).items()),
                steps=", ".join(steps),
                last_loss=history[-1]["loss"] if history else None,
                kept=f"epoch {best['epoch'] + 1}" if best else "",
            )
        )
    return tuple(found)
