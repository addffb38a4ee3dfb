"""Synthetic data of XS-Video's shape: as released records, and straight to a store."""

from netgpt.graphstore.xsvideo.synth.records import synthetic_records
from netgpt.graphstore.xsvideo.synth.write import build_synthetic, write_synthetic

__all__ = ["build_synthetic", "synthetic_records", "write_synthetic"]
