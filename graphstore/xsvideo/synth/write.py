"""Synthetic records to a file of the released layout, or through the builder to a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from graphstore.errors import StoreError
from graphstore.files import atomic_dir, atomic_file, refuse_existing, value_digest
from graphstore.xsvideo.build import BuildConfig, write_store
from graphstore.xsvideo.records import Record, parse_record
from graphstore.xsvideo.synth.records import synthetic_records

Pairs = Iterator[tuple[str, dict[str, Any]]]
"""State ids and raw records."""

GENERATOR = "synth-2"
"""Recorded in the store: another version makes other data of the same scale and seed."""


def _written(records: Pairs, path: Path) -> Pairs:
    """Pass records on while they are written to `path` as one JSON object."""
    with path.open("w", encoding="utf-8") as file:
        separator = "{\n"
        for state, record in records:
            file.write(f"{separator}{json.dumps(state)}: {json.dumps(record, ensure_ascii=False)}")
            separator = ",\n"
            yield state, record
        file.write("\n}\n")


def write_synthetic(path: Path, scale: float, seed: int) -> int:
    """Write the records as one released-layout JSON file, streamed; returns the number of states."""
    with atomic_file(path) as temporary:
        return sum(1 for _ in _written(synthetic_records(scale, seed), temporary))


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
    num = 0

    def checked(records: Pairs) -> Iterator[Record]:
        nonlocal num
        for state, record in records:
            num += 1
            yield parse_record(GENERATOR, state, record)

    def provenance() -> dict[str, Any]:
        source = {"generator": GENERATOR, "scale": scale, "seed": seed}
        return {"source_digest": value_digest(source), "num_skipped": 0, "parent_digest": None}

    with ExitStack() as stack:
        root = stack.enter_context(atomic_dir(out))
        records = synthetic_records(scale, seed)
        if json_file is not None:
            records = _written(records, stack.enter_context(atomic_file(json_file)))
        write_store(root, checked(records), config, provenance=provenance, progress=progress)
    return num
