"""Errors of the command line and the cluster."""

from __future__ import annotations


class ClusterError(ValueError):
    """Base of what `cluster` raises on purpose: wrong usage, one line. Picklable: it holds its text alone."""


class StageFailedError(RuntimeError):
    """A stage's workers failed more often than allowed; the text names the stage and the cause."""
