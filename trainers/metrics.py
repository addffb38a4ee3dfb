"""ACC, MSE and MAE of scores against levels."""

from __future__ import annotations

from typing import Any

import numpy as np

MAX_LEVEL = 9


def clip(scores: np.ndarray) -> np.ndarray:
    """Scores as they are reported: [n] float64, 0 to 9."""
    return np.clip(scores.astype(np.float64), 0, MAX_LEVEL)


def to_level(scores: np.ndarray) -> np.ndarray:
    """The level of a score: clipped, halves rounded up. [n] → [n] int64."""
    return np.floor(clip(scores) + 0.5).astype(np.int64)


def rating_metrics(scores: np.ndarray, levels: np.ndarray) -> dict[str, Any]:
    """acc of the rounded score; mse and mae of the clipped, unrounded score.

    None where there are no states.
    """
    if len(levels) == 0:
        return {"acc": None, "mse": None, "mae": None, "num": 0}
    error = clip(scores) - levels
    return {
        "acc": float(np.mean(to_level(scores) == levels)),
        "mse": float(np.mean(error**2)),
        "mae": float(np.mean(np.abs(error))),
        "num": len(levels),
    }
