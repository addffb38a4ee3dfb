"""Errors of the command line and the cluster."""

from __future__ import annotations


class ClusterError(ValueError):
    """Base of what `cluster` raises on purpose: wrong usage, one line. Picklable: it holds its text alone."""


def is_bad_input(error: BaseException) -> bool:
    """Whether it is one of the project's own errors: one line that says what was found and expected."""
    return isinstance(error, ValueError) and type(error).__module__.startswith("netgpt.")


class FailedError(RuntimeError):
    """Base of what went wrong without being anyone's bad input; one line that needs no trace."""


class NodeFailedError(FailedError):
    """A node's Ray did not start or could not be reached."""


class StageFailedError(FailedError):
    """A stage's workers failed more often than allowed; the text names the stage and the cause."""
