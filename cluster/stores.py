"""Stores made for a person: with progress, and with a word on what was left out."""

from __future__ import annotations

import re
from pathlib import Path

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.progress import counting_bar, say
from netgpt.graphstore.relations import Layout
from netgpt.graphstore.xsvideo.records import OnError


def build_store(data: Path, out: Path, config: graphstore.BuildConfig, features: Path | None = None) -> None:
    """Build a store with a progress bar, and say what was skipped."""
    with counting_bar("graph store", " records") as progress:
        say_skipped(graphstore.build(data, out, config, features=features, progress=progress))
    made = graphstore.open(str(out)).attributes
    if "video" in made["features"]:
        say(f"{made['num_without_video']:,} states without a video have zeros")


def say_skipped(report: graphstore.ReadReport) -> None:
    if report.imputed:
        counts = ", ".join(f"{field}: {num}" for field, num in report.imputed.items())
        say(f"0 for {sum(report.imputed.values())} numbers that were not there or negative ({counts})")
    if report.num_skipped:
        counts = ", ".join(f"{field}: {num}" for field, num in report.skipped.items())
        say(f"left out {report.num_skipped} of {report.num_read + report.num_skipped} records ({counts})")
        say(f"first: {report.first_skipped}")


def memory_size(text: str) -> int:
    """Bytes of a size such as 500MB or 4GB (powers of 1000)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text, re.IGNORECASE)
    if not found:
        raise ClusterError(f"--memory: found {text!r}, expected a size such as 500MB or 4GB")
    return int(float(found[1]) * 1000 ** " KMGT".index(found[2].upper() or " "))


def build_edge_store(description: Path, out: Path, layout: Layout, memory: str) -> None:
    """Build a store from edge lists with a progress bar, and say what was dropped."""
    memory_bytes = memory_size(memory)
    with counting_bar("edges", " edges", scaled=True) as progress:
        stats = graphstore.build_edges(
            description, out, layout=layout, memory_bytes=memory_bytes, progress=progress
        )
    for name, one in stats.items():
        say(
            f"{name}: {one.num_edges:,} edges"
            + (f", {one.num_duplicates:,} duplicates dropped" if one.num_duplicates else "")
            + (f", {one.num_self_loops:,} self-loops dropped" if one.num_self_loops else "")
        )


def append_records(
    store: Path, data: Path, out: Path | None, on_error: OnError, features: Path | None = None
) -> Path:
    """Append with a progress bar; returns where the new version is."""
    with counting_bar("append", " records") as progress:
        made, report = graphstore.append(
            store, data, out, on_error=on_error, features=features, progress=progress
        )
    say_skipped(report)
    return made
