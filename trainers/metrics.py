"""ACC, MSE and MAE of scores against levels."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_LEVEL = 9


def clip(scores: np.ndarray) -> np.ndarray:
    """Scores as they are reported: [n] float64, 0 to 9."""
    return np.clip(scores.astype(np.float64), 0, MAX_LEVEL)


def to_level(scores: np.ndarray) -> np.ndarray:
    """The level of a score: clipped, halves rounded up; −1 for NaN. [n] → [n] int64."""
    known = ~np.isnan(scores)
    return np.where(known, np.floor(clip(np.where(known, scores, 0)) + 0.5), -1).astype(np.int64)


def rating_metrics(scores: np.ndarray, levels: np.ndarray) -> dict[str, Any]:
    """acc of the rounded score; mse and mae of the clipped, unrounded score.

    A score is NaN where a generated text states no level: such a state counts as wrong in acc and not in
    mse and mae, and their number is `unparsed`, which is there only where it is not zero. None where there
    are no states.
    """
    known = ~np.isnan(scores)
    unparsed = {"unparsed": int((~known).sum())} if not known.all() else {}
    if len(levels) == 0:
        return {"acc": None, "mse": None, "mae": None, "num": 0}
    error = clip(scores[known]) - levels[known]
    return {
        "acc": float(np.mean(to_level(scores) == levels)),
        "mse": float(np.mean(error**2)) if known.any() else None,
        "mae": float(np.mean(np.abs(error))) if known.any() else None,
        "num": len(levels),
        **unparsed,
    }
