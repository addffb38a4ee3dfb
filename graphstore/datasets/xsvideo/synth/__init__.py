"""Synthetic data of XS-Video's shape: as released records, and straight to a store."""

from netgpt.graphstore.datasets.xsvideo.synth.records import synthetic_records
from netgpt.graphstore.datasets.xsvideo.synth.write import build_synthetic, synthetic_source, write_synthetic

__all__ = ["build_synthetic", "synthetic_records", "synthetic_source", "write_synthetic"]
