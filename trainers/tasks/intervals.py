"""How far a figure of the test part may be from what other examples would give: bootstrap intervals.

Examples are drawn again with replacement, as many as there are, and measured; the interval lies between the
2.5% and 97.5% quantiles of those figures (Efron's percentile method). It is of the examples alone: what
another seed of the training would give is not in it. Two models on the same examples differ by less than
their intervals suggest, as their errors go together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

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

    def measured(drawn: np.ndarray) -> Mapping[str, float | None]:
        return task.measure(scores[drawn], truth[drawn])

    return resampled(len(truth), [m.name for m in task.metrics], measured)


def resampled(
    num: int, names: Sequence[str], measured: Callable[[np.ndarray], Mapping[str, float | None]]
) -> dict[str, Interval]:
    """The same of any `num` that can be drawn again. measured: metrics of those drawn [num], by name."""
    if num < 2:
        return {}
    found: dict[str, list[float]] = {name: [] for name in names}
    for drawn in drawn_again(num):
        values = measured(drawn)
        for name, known in found.items():
            if (value := values[name]) is not None:
                known.append(float(value))
    return {name: interval(known) for name, known in found.items() if known}


def interval(drawn: Sequence[float] | np.ndarray) -> Interval:
    """Between the quantiles of some figures that hold the `SHARE` of them."""
    outside = (1 - SHARE) / 2
    low, high = np.quantile(drawn, (outside, 1 - outside))
    return float(low), float(high)


def drawn_again(num: int) -> Iterator[np.ndarray]:
    """Places of examples that are drawn with replacement, as many as there are: [num], some hundred times.
    The same for the same number."""
    rng = np.random.default_rng(0)
    for _ in range(min(1000, max(100, _DRAWN // num)) if num else 0):
        yield rng.integers(0, num, num)
