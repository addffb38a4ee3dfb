"""Synthetic records to a file of the released layout, or through the builder to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import atomic_dir, atomic_file, refuse_existing, value_digest
from netgpt.graphstore.xsvideo.build import BuildConfig, write_store
from netgpt.graphstore.xsvideo.records import ReadReport, Record, parse_record, written_records
from netgpt.graphstore.xsvideo.synth.records import synthetic_records

Pairs = Iterator[tuple[str, dict[str, Any]]]
"""State ids and raw records."""

GENERATOR = "synth-2"
"""Recorded in the store: another version makes other data of the same scale and seed."""


def write_synthetic(path: Path, scale: float, seed: int) -> int:
    """Write the records as one released-layout JSON file, streamed; returns the number of states."""
    with atomic_file(path) as temporary:
        return sum(1 for _ in written_records(synthetic_records(scale, seed), temporary))


def build_synthetic(
    out: Path,
    scale: float,
    seed: int,
    config: BuildConfig | None = None,
    *,
    json_file: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Build the store that `build` makes of the records, without a file between; returns the states.

    With `json_file` the records are written as well.
    """
    config = config or BuildConfig()
    refuse_existing(out)
    if json_file is not None and json_file.resolve().is_relative_to(out.resolve()):
        raise StoreError(f"{json_file}: inside the store {out}; choose another file for the records")
    report = ReadReport()

    def checked(records: Pairs) -> Iterator[Record]:
        for state, record in records:
            report.num_read += 1
            yield parse_record(GENERATOR, state, record)

    def source_digest() -> str:
        return value_digest({"generator": GENERATOR, "scale": scale, "seed": seed})

    with ExitStack() as stack:
        root = stack.enter_context(atomic_dir(out))
        records = synthetic_records(scale, seed)
        if json_file is not None:
            records = written_records(records, stack.enter_context(atomic_file(json_file)))
        write_store(
            root, checked(records), config, report=report, source_digest=source_digest, progress=progress
        )
    return report.num_read
