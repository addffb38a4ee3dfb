"""Errors of the trainers."""

from __future__ import annotations


class TrainerError(ValueError):
    """Base of every error that `trainers` raises on purpose. Picklable: it holds its text alone."""


def require(ok: bool, name: str, found: object, expected: str) -> None:
    """Raise TrainerError in the one form that all settings use, unless `ok`."""
    if not ok:
        raise TrainerError(f"{name}: found {found!r}, expected {expected}")
