"""Errors of the trainers."""

from __future__ import annotations

import math


class TrainerError(ValueError):
    """Base of every error that `trainers` raises on purpose. Picklable: it holds its text alone."""


def require(ok: bool, name: str, found: object, expected: str) -> None:
    """Raise TrainerError in the one form that all settings use, unless `ok`."""
    if not ok:
        raise TrainerError(f"{name}: found {found!r}, expected {expected}")


def require_finite(value: float, what: str, stage: str) -> float:
    """The value, or TrainerError: training has diverged, and what it would leave is worthless."""
    if not math.isfinite(value):
        raise TrainerError(
            f"{what}: found {value}, expected a finite number; lower {stage}.lr or {stage}.clip"
        )
    return value
