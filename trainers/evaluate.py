"""Scores of every stage on every split, their metrics, and the baselines beside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netgpt.graphstore import Store
from netgpt.graphstore.xsvideo.statistics import age_days
from netgpt.trainers.baselines import baseline_metrics
from netgpt.trainers.metrics import clip, rating_metrics, to_level
from netgpt.trainers.splits import Splits, is_age_zero

PREDICTIONS = "predictions.parquet"
STAGE_NAMES = {
    "stage2": "stage 2, likeliest level",
    "stage2_mean": "stage 2, mean level",
    "stage2_generated": "stage 2, generated",
    "stage3": "NetGPT",
    "lora": "LoRA, likeliest level",
    "lora_generated": "LoRA, generated",
}
ALL_PARTS = ("train", "val", "test")


@dataclass
class Scores:
    """What is to be measured: scores [N] of all nodes by name, and the splits that they are known of.

    NaN where a generated text states no level.
    """

    scores: dict[str, np.ndarray] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, name: str, scores: np.ndarray, parts: tuple[str, ...] = ALL_PARTS) -> None:
        self.scores[name], self.parts[name] = scores, parts


def periods(days: list[int]) -> list[tuple[str, int, int]]:
    """Observation periods by bounds in days: name, first and last day."""
    edges = [-1, *days]
    found = [
        (f"{a + 1} to {b} days" if a >= 0 else f"up to {b} days", a + 1 if a >= 0 else -(1 << 40), b)
        for a, b in pairwise(edges)
    ]
    return [*found, (f"over {days[-1]} days", days[-1] + 1, 1 << 40)]


def period_bounds(store: Store, period_days: list[int]) -> list[int]:
    """The given bounds, or the quartiles of the labelled states' whole days since the post."""
    if period_days:
        return list(period_days)
    ages = age_days(store)[np.asarray(store.labels) >= 0]
    return sorted({max(0, int(q)) for q in np.quantile(ages, (0.25, 0.5, 0.75), method="lower")})


def grouped_metrics(
    store: Store, ids: np.ndarray, scores: np.ndarray, period_days: list[int]
) -> dict[str, Any]:
    """Metrics of some states, and apart by platform and by observation period, where there are any.

    scores [n]: of the states `ids` [n]. A period is of whole days from the day of the post to the
    sampling date, in China.
    """
    levels = np.asarray(store.labels).astype(np.int64)[ids]
    codes, names = store.key("platform")
    code, age = np.asarray(codes)[ids], age_days(store)[ids]

    def of(part: np.ndarray) -> dict[str, Any]:
        return rating_metrics(scores[part], levels[part])

    platform = {names[c] if c >= 0 else "": of(code == c) for c in np.unique(code).tolist()}
    bounds = periods(period_bounds(store, period_days))
    period = {name: of((first <= age) & (age <= last)) for name, first, last in bounds}
    return {
        **rating_metrics(scores, levels),
        "platform": platform,
        "period": {name: found for name, found in period.items() if found["num"]},
    }


def evaluation_parts(store: Store, splits: Splits) -> dict[str, np.ndarray]:
    """Node numbers by split; the test states of age zero with no counts apart from the rest too."""
    zero = is_age_zero(store, splits.test)
    return {**splits.named(), "test_age_zero": splits.test[zero], "test_rest": splits.test[~zero]}


def stage_metrics(store: Store, splits: Splits, found: Scores, period_days: list[int]) -> dict[str, Any]:
    """Metrics by what is measured and part."""
    parts = evaluation_parts(store, splits)
    return {
        name: {
            part: grouped_metrics(store, ids, values[ids], period_days)
            for part, ids in parts.items()
            if part.split("_")[0] in found.parts[name]
        }
        for name, values in found.scores.items()
    }


def all_metrics(
    store: Store, splits: Splits, scores: Scores, *, encoder: str, period_days: list[int]
) -> dict[str, Any]:
    """Metrics of the stages and of the baselines, which are fitted on the whole train period.

    encoder: its title, for the table.
    """
    period = np.sort(np.concatenate([splits.train, splits.val]))
    return {
        "encoder": encoder,
        "stages": stage_metrics(store, splits, scores, period_days),
        "baselines": baseline_metrics(store, period, splits.test),
    }


def write_predictions(path: Path, store: Store, splits: Splits, found: Scores) -> None:
    """A row for each labelled state: id, split, level, and score and level of what was measured of all
    splits (level −1 where a text states none)."""
    names = np.full(store.num_nodes["video"], "", object)
    for name, ids in splits.named().items():
        names[ids] = name
    ids = np.flatnonzero(names != "")
    columns: dict[str, Any] = {
        "id": [store.ids[v] for v in ids.tolist()],
        "split": names[ids].tolist(),
        "level": np.asarray(store.labels)[ids].astype(np.int8),
        "age_zero": is_age_zero(store, ids),
    }
    for name, values in found.scores.items():
        if found.parts[name] == ALL_PARTS:
            columns[f"{name}_score"] = clip(values[ids])
            columns[f"{name}_level"] = to_level(values[ids]).astype(np.int8)
    pq.write_table(pa.table(columns), path)


def metrics_table(metrics: dict[str, Any]) -> str:
    """The test split as text: baselines, then stages."""
    lines = [
        f"{'test split':<26}{'ACC':>8}{'MSE':>8}{'MAE':>8}{'MAE age 0':>12}{'MAE rest':>10}",
        "-" * 72,
    ]

    def row(name: str, found: dict[str, dict[str, Any]]) -> str:
        values = [found["test"][m] for m in ("acc", "mse", "mae")]
        apart = [found.get(part, {}).get("mae") for part in ("test_age_zero", "test_rest")]
        cells = zip([*values, *apart], (8, 8, 8, 12, 10), strict=True)
        return f"{name:<26}" + "".join(" " * w if v is None else f"{v:>{w}.4f}" for v, w in cells)

    lines += [row(name, found) for name, found in metrics["baselines"].items()]
    lines.append("-" * 72)
    names = {"stage1": metrics["encoder"], "stage1_sampled": f"{metrics['encoder']}, sampled", **STAGE_NAMES}
    lines += [row(names[stage], found) for stage, found in metrics["stages"].items()]
    lines += [
        f"{names[stage]}: {found['test']['unparsed']} of {found['test']['num']} texts state no level; they "
        "count as wrong in ACC, and not in MSE and MAE"
        for stage, found in metrics["stages"].items()
        if found["test"].get("unparsed")
    ]
    stages = next(iter(metrics["stages"].values()))
    lines.append(
        f"{stages['test']['num']} test states; {stages['test_age_zero']['num']} of them sampled at age 0 "
        "with all counters zero"
    )
    return "\n".join(lines)
