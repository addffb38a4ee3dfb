"""Released records as blocks of columns.

Legend: n records of a block, C comments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from netgpt.graphstore.columns import batched
from netgpt.graphstore.dataset import Block, ReadReport, Source
from netgpt.graphstore.datasets.xsvideo.annotation import INDICATORS
from netgpt.graphstore.datasets.xsvideo.records import CHINA_OFFSET_S, COUNTS, Record, read_records
from netgpt.graphstore.datasets.xsvideo.schema import KEYS, Config, schema_of
from netgpt.graphstore.features import DAY_S
from netgpt.graphstore.files import file_digest, value_digest

BATCH_RECORDS = 1024


def age_days(post: np.ndarray, sampled: np.ndarray) -> np.ndarray:
    """Days from the day of the post to the sampling date, in China: seconds [n], [n] → [n] int32."""
    days = (np.asarray(sampled) + CHINA_OFFSET_S) // DAY_S - (np.asarray(post) + CHINA_OFFSET_S) // DAY_S
    return days.astype(np.int32)


def age_zero(post: np.ndarray, sampled: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """States sampled on the day of the post with all five indicators at zero: [n] int8.

    post, sampled [n]: seconds; counts [n, 5].
    """
    age_s = np.asarray(sampled) - np.asarray(post)
    return ((counts == 0).all(axis=1) & (age_s <= 0) & (age_s > -DAY_S)).astype(np.int8)


def record_blocks(records: Iterable[Record]) -> Iterator[Block]:
    """A block of states and one of their comments for every 1,024 records."""
    first = 0
    for batch in batched(records, BATCH_RECORDS):
        yield _states(batch)
        yield _comments(batch, first)
        first += len(batch)


def _states(records: Sequence[Record]) -> Block:
    post = np.array([r.post_time for r in records], np.int64)
    sampled = np.array([r.sampling_time for r in records], np.int64)
    counts = {name: np.array([r.counts[name] for r in records], np.float64) for name in COUNTS}
    indicators = np.stack([counts[name] for name in INDICATORS], axis=1)
    return Block(
        "video",
        {
            "id": [r.id for r in records],
            "text": [r.text for r in records],
            "label": np.array([r.level for r in records], np.int64),
            "time": post,
            "ctime": sampled,
            **{key: [getattr(r, key) for r in records] for key in KEYS},
            "age_days": age_days(post, sampled),
            "age_zero": age_zero(post, sampled, indicators),
            "title": [r.title for r in records],
            "description": [r.description for r in records],
            "video_time": np.array([r.duration_s for r in records], np.float64),
            **counts,
        },
    )


def _comments(records: Sequence[Record], first: int) -> Block:
    """first: number of the first of the records."""
    comments = [c for r in records for c in r.comments]
    return Block(
        "comment",
        {
            "text": [c.text for c in comments],
            "time": np.array([c.time for c in comments], np.int64),
            "video": first + np.repeat(np.arange(len(records)), [len(r.comments) for r in records]),
        },
    )


class RecordSource(Source):
    """Records that are made or held here; `records` is called for each pass over them."""

    def __init__(
        self,
        records: Callable[[], Iterable[Record]],
        file: str,
        config: Config | None = None,
        *,
        digest: Callable[[], str] | None = None,
        report: ReadReport | None = None,
    ) -> None:
        config = config or Config()
        self._records, self.file = records, file
        self._digest = digest or (lambda: value_digest([r.id for r in records()]))
        self.report = report if report is not None else ReadReport()
        self.schema = schema_of(config)

    def digest(self) -> str:
        return self._digest()

    def blocks(self) -> Iterator[Block]:
        self.report.clear()
        yield from record_blocks(self._records())


def file_source(
    path: Path,
    config: Config,
    *,
    report: ReadReport | None = None,
    require_labels: bool = True,
    known_ids: Collection[str] = frozenset(),
    check_history: bool = True,
) -> RecordSource:
    """The records of a file of the released layout."""
    report = report if report is not None else ReadReport()

    def records() -> Iterator[Record]:
        return read_records(
            path,
            on_error=config.on_error,
            require_level=require_labels,
            known_ids=known_ids,
            bad_numbers=config.bad_numbers,
            check_history=check_history,
            report=report,
        )

    return RecordSource(records, str(path), config, digest=lambda: file_digest(path), report=report)
