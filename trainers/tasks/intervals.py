"""How far a figure of the test part may be from what other examples would give: bootstrap intervals.

Examples are drawn again with replacement, as many as there are, and measured; the interval lies between the
2.5% and 97.5% quantiles of those figures (Efron's percentile method). It is of the examples alone: what
another seed of the training would give is not in it. Two models on the same examples differ by less than
their intervals suggest, as their errors go together.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from netgpt.trainers.tasks.base import Task

Interval = tuple[float, float]
Intervals = Mapping[str, Mapping[str, Interval]]
"""By what is measured and metric."""
SHARE = 0.95
_DRAWN = 2_000_000
"""Examples that are measured at most, over all resamples: of ten thousand test examples 200 resamples."""


def intervals(task: Task, scores: np.ndarray, truth: np.ndarray) -> dict[str, Interval]:
    """By metric the interval of some scores [n] or [n, width] with labels [n]; metrics that no examples have
    are left out, and all where there are fewer than two examples. A function of its arguments."""
    num = len(truth)
    if num < 2:
        return {}
    rng = np.random.default_rng(0)
    found: dict[str, list[float]] = {m.name: [] for m in task.metrics}
    for _ in range(min(1000, max(100, _DRAWN // num))):
        drawn = rng.integers(0, num, num)
        measured = task.measure(scores[drawn], truth[drawn])
        for name, values in found.items():
            if (value := measured[name]) is not None:
                values.append(float(value))
    outside = (1 - SHARE) / 2
    bounds = {name: np.quantile(values, (outside, 1 - outside)) for name, values in found.items() if values}
    return {name: (float(low), float(high)) for name, (low, high) in bounds.items()}
