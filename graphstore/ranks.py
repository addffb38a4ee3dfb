"""Correlation of ranks."""

from __future__ import annotations

import numpy as np


def rank_correlation(x: np.ndarray, y: np.ndarray) -> float | None:
    """Spearman's, of [n] and [n], ties by their mean rank; None where either is constant."""
    from scipy.stats import rankdata  # imports slowly

    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (x, y)]
    norm = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float(ranks[0] @ ranks[1] / norm) if norm > 0 else None
