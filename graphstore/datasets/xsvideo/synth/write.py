"""Synthetic records to a file of the released layout, or through the builder to a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.xsvideo.records import Record, parse_record, written_records
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.datasets.xsvideo.source import RecordSource
from netgpt.graphstore.datasets.xsvideo.synth.records import synthetic_records
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import atomic_file, refuse_existing, value_digest
from netgpt.graphstore.writer import build

GENERATOR = "synth-2"
"""Recorded in the store: another version makes other data of the same scale and seed."""


def write_synthetic(path: Path, scale: float, seed: int) -> int:
    """Write the records as one released-layout JSON file, streamed; returns the number of states."""
    with atomic_file(path) as temporary:
        return sum(1 for _ in written_records(synthetic_records(scale, seed), temporary))


def synthetic_source(
    scale: float, seed: int, config: Config | None = None, *, json_file: Path | None = None
) -> RecordSource:
    """The records as a source; with `json_file` each pass over them writes them there as well."""
    report = ReadReport()

    def records() -> Iterator[Record]:
        pairs = synthetic_records(scale, seed)
        if json_file is not None:
            pairs = written_records(pairs, json_file)
        for state, record in pairs:
            report.keep()
            yield parse_record(GENERATOR, state, record)

    def digest() -> str:
        return value_digest({"generator": GENERATOR, "scale": scale, "seed": seed})

    return RecordSource(records, GENERATOR, config, digest=digest, report=report)


def build_synthetic(
    out: Path,
    scale: float,
    seed: int,
    config: Config | None = None,
    *,
    json_file: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Build the store that `build` makes of the records, without a file between; returns the states.

    With `json_file` the records are written as well.
    """
    config = config or Config()
    refuse_existing(out)
    if json_file is not None and json_file.resolve().is_relative_to(out.resolve()):
        raise StoreError(f"{json_file}: inside the store {out}; choose another file for the records")
    with ExitStack() as stack:
        temporary = None if json_file is None else stack.enter_context(atomic_file(json_file))
        source = synthetic_source(scale, seed, config, json_file=temporary)
        return build(source, out, config, progress=progress).num_read
