"""The annotation rule: a level from the indicators of two weeks after the post (SCHEMA of XS-Video).

Source: "Short-video Propagation Influence Rating", the level table of its annotation section.
"""

from __future__ import annotations

import numpy as np

VIEW_THRESHOLDS = (0, 100, 100_000, 1_000_000, 1_000_000, 1_000_000, 10_000_000, 100_000_000, 200_000_000)
OTHER_THRESHOLDS = (0, 10, 20, 80, 300, 1_000, 3_000, 10_000, 50_000)
"""Threshold of level i + 1: for views, and for each of likes, shares, collects and comments."""

INDICATORS = ("views", "likes", "shares", "collects", "comments")

FINAL_DAYS = 14
"""A level is final two weeks after the post."""


def level_of(indicators: np.ndarray) -> np.ndarray:
    """Levels of scaled indicators: [n, 5] in the order of INDICATORS → [n] int64, 0 to 9.

    The highest level of which any one indicator is above (not at) the threshold; 0 where all are zero.
    """
    views = np.searchsorted(VIEW_THRESHOLDS, indicators[:, 0], side="left")
    others = np.searchsorted(OTHER_THRESHOLDS, indicators[:, 1:], side="left")
    return np.maximum(views, others.max(axis=1)).astype(np.int64)
