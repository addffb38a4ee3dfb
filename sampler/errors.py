"""Errors of the sampler."""

from __future__ import annotations


class SamplerError(ValueError):
    """Base of every error that `sampler` raises on purpose. Picklable: it holds its text alone."""
