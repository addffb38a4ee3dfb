"""New records join a sealed store as a new sealed version of it.

Node arrays are the old ones with rows behind them. The lists of groups are made anew from the columns of
all states: same-day heads lengthen old rows and a late record shifts the ranks behind it, and sorting N
states takes less time than reading their texts. Files that come out with equal bytes are hard links to
the old store's. In every array the result is the store that one build from all records makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.files import atomic_dir, file_digest, refuse_existing, value_digest
from netgpt.graphstore.integrity.seal import require_whole
from netgpt.graphstore.store import Store
from netgpt.graphstore.xsvideo.build import BuildConfig, write_store
from netgpt.graphstore.xsvideo.records import OnError, ReadReport, read_records


def next_version(path: Path) -> Path:
    """Where the version after `path` goes if nobody says: store, store-2, store-3, …"""
    found = re.fullmatch(r"(.*)-(\d+)", path.name)
    base, number = (found[1], int(found[2])) if found else (path.name, 1)
    return path.with_name(f"{base}-{number + 1}")


def append(
    store: Path | str,
    source: Path | str,
    out: Path | str | None = None,
    *,
    on_error: OnError = "fail",
    features: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Path, ReadReport]:
    """Write the store of `store`'s states followed by those of `source`; returns where, and what was read.

    `out` is by default the next version beside `store` (store, store-2, …). The old store is read whole
    first and stays as it is. Raises RecordError and SourceError for bad records, also for ids that the
    store has, FormatError for a store that is damaged or not of records, StoreError where `out` is taken
    and for `features` (a folder of vectors of the new records) of other encoders than the store's.
    """
    old, source = Store(store), Path(source)
    out = Path(out) if out is not None else next_version(old.path)
    refuse_existing(out, old.path)
    if not old.has_records:
        raise FormatError(f"{old.path}: found a store of edge lists, expected one of released records")
    try:
        config = BuildConfig(**{**old.attributes["build"], "on_error": on_error})
    except TypeError:
        raise FormatError(f"{old.path}: found build settings of another version of netgpt") from None
    # What is copied and linked is sealed anew: damage must not be sealed with it
    require_whole(old.path, old.seal)
    known, report = frozenset(old.ids) | old.skipped_ids, ReadReport()

    def source_digest() -> str:
        return value_digest({"parent": old.attributes["source_digest"], "file": file_digest(source)})

    records = read_records(
        source, on_error=on_error, known_ids=known, bad_numbers=config.bad_numbers, report=report
    )
    with atomic_dir(out) as root:
        write_store(
            root,
            records,
            config,
            report=report,
            source_digest=source_digest,
            features=features,
            after=old,
            progress=progress,
        )
    return out, report
