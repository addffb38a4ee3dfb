"""A proxy for users: runs of consecutive pids in a CSV file of real labels that says no users.

Neighbours by pid are nearly always of one user, so that a run is *near* a user: enough to exercise the whole
path on true labels, and never to be called a user in a result. The file's order of all posts in time,
`time_rank`, is the time of a post here, one second a rank: it orders posts, and is no date.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.smpd.posts import Cells, Posts, PostsBuilder
from netgpt.graphstore.errors import RecordError, SourceError

HEADER = ("pid", "label", "n_tags", "category", "subcategory", "time_rank", "postdate", "concept")
"""Columns that there are; a file may have more."""
LEAST, MOST = 5, 30
"""Posts of a run that counts. Longer ones may be of several users."""


def is_proxy(path: Path) -> bool:
    """Whether a file is such a CSV, packed or not, by its name and its header."""
    if not path.name.endswith((".csv", ".csv.gz")) or not path.is_file():
        return False
    try:
        with _opened(path) as file:
            return file.readline(1000).strip().split(",")[: len(HEADER)] == list(HEADER)
    except SourceError:
        return False


def read_runs(path: Path, report: ReadReport, *, skips: bool = False) -> Posts:
    """The posts of runs of 5 to 30 posts, by rising pid; their user is `run-` and the first pid.

    SourceError for what cannot be read and for pids that do not rise, RecordError for wrong values; with
    `skips` such posts are left out and counted, and the run goes on over them.
    """
    posts = PostsBuilder()
    run: list[Cells] = []

    def close() -> None:
        if not LEAST <= len(run) <= MOST:
            return
        user = f"run-{run[0].text('pid')}"
        for cells in run:
            try:
                _add(posts, user, cells)
            except RecordError as error:
                if not skips:
                    raise
                report.count(error)

    before = -1
    for cells in _records(path):
        try:
            pid = cells.whole("pid", 1 << 53)
        except RecordError as error:
            raise SourceError(*error.args) from None
        if pid <= before:
            raise SourceError(cells.file, cells.record, "pid", str(pid), f"one above {before}: pids rise")
        if pid != before + 1:
            close()
            run.clear()
        run.append(cells)
        before = pid
    close()
    return posts.posts()


def _add(posts: PostsBuilder, user: str, cells: Cells) -> None:
    texts = {name: cells.text(name) for name in ("pid", "category", "subcategory", "concept")}
    posts.add(
        cells.whole("time_rank"),
        cells.score("label"),
        texts | {"user": user},
        {"tags": cells.number("n_tags")},
    )


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOBase]:
    try:
        with (
            path.open("rb") as raw,
            gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw as file,
            io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text,  # type: ignore[type-var]
        ):
            yield text
    except (OSError, EOFError, UnicodeDecodeError, zlib.error, csv.Error) as error:
        raise SourceError(str(path), None, None, f"what cannot be read ({error})", "CSV in UTF-8") from None


def _records(path: Path) -> Iterator[Cells]:
    with _opened(path) as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if header[: len(HEADER)] != list(HEADER):
            raise SourceError(str(path), None, None, ",".join(header)[:100], ",".join(HEADER))
        for row, cells in enumerate(lines):
            if len(cells) != len(header):
                raise SourceError(
                    str(path), str(row), None, f"{len(cells)} cells", f"{len(header)}, as in the header"
                )
            yield Cells(str(path), str(row), dict(zip(HEADER, cells, strict=False)))
