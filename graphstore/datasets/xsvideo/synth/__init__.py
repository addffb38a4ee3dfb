"""Synthetic data of XS-Video's shape: as released records, and straight to a store."""

from netgpt.graphstore.datasets.xsvideo.synth.records import MADE_URL, synthetic_records
from netgpt.graphstore.datasets.xsvideo.synth.write import build_synthetic, synthetic_source, write_synthetic

__all__ = ["MADE_URL", "build_synthetic", "synthetic_records", "synthetic_source", "write_synthetic"]
