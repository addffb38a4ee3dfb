"""TPIC2017's files: tab-separated, each with a header, joined by pid and uid.

Views that came later are no part of a post when it is new: of `USER_META.txt` the lengths of title and tags
are read, and `avgview` and `commentcount` never are.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.smpd.posts import Cells, Posts, PostsBuilder, named_files
from netgpt.graphstore.errors import RecordError, SourceError

NAMES = {
    "meta": ("USER_META.txt", "USERMETA.txt"),
    "time": ("TIME_FLAG.txt", "TIMEFLAG.txt"),
    "label": ("LABEL.txt", "LABELS.txt"),
    "photo": ("PHOTO_URL.txt", "PHOTOURL.txt"),
}
"""By kind the names of its file: of the README, and of the archives."""
FIELDS = {
    "meta": ("titlelen", "tagcount"),
    "time": ("year", "month", "day", "hour_index"),
    "label": ("logview",),
    "photo": (),
}
"""By kind the columns that are read beside pid and uid."""
OPTIONAL = ("photo",)
HOURS = 4
"""Hours of a part of the day; the first, 0, begins at 2."""
Key = tuple[str, str]
"""pid and uid."""
Value = tuple[float, ...]


def find_files(folder: Path) -> dict[str, Path]:
    """By kind the file of a folder. StoreError where one lacks, or is there under both names."""
    return named_files(folder, NAMES, OPTIONAL)


def read_posts(folder: Path, report: ReadReport, *, skips: bool = False) -> Posts:
    """All posts of a folder, in the order of `USER_META.txt`; `time` begins the part of the day, as UTC.

    StoreError for files that lack, SourceError for what cannot be read and for a post that some file lacks,
    RecordError for wrong values; with `skips` such posts are left out and counted.
    """
    files = find_files(folder)
    place: dict[Key, int] = {}
    values = {kind: _values(kind, files, place, report if skips else None) for kind in READ if kind in files}
    posts = PostsBuilder()
    for (pid, user), lengths, time, label in zip(
        place, values["meta"], values["time"], values["label"], strict=True
    ):
        if lengths is None or time is None or label is None:
            continue
        (length, tags), (moment,), (score,) = lengths, time, label
        day = datetime.fromtimestamp(moment, UTC)
        texts = {"pid": pid, "user": user, "date": f"{day.year}-{day.month}-{day.day}"}
        shown = {"shown_tags": tags, "shown_title_length": length}
        posts.add(int(moment), score, texts, {"tags": tags, "title_length": length} | shown)
    return posts.posts()


def _values(
    kind: str, files: Mapping[str, Path], place: dict[Key, int], report: ReadReport | None
) -> list[Value | None]:
    """What a file holds of each post, by the post's place; `meta`, which is read first, says the places.

    report: counts wrong values, which are None; without one they are errors.
    """
    is_first, meta = kind == "meta", files["meta"].name
    values: list[Value | None] = [None] * len(place)
    seen = bytearray(len(place))
    for cells in _records(files[kind], FIELDS[kind]):
        key = (cells.key("pid"), cells.key("uid"))
        if is_first and key not in place:
            place[key] = len(place)
            values.append(None)
            seen.append(0)
        at = place.get(key)
        if at is None:
            raise SourceError(cells.file, cells.record, "pid", repr(key[0]), f"a post of {meta}")
        if seen[at]:
            raise SourceError(cells.file, cells.record, "pid", f"{key[0]!r} once more", "each once")
        seen[at] = 1
        try:
            values[at] = READ[kind](cells)
        except RecordError as error:
            if report is None:
                raise
            report.count(error)
    if (at := seen.find(0)) >= 0:
        pid = next(islice(place, at, None))[0]
        raise SourceError(str(files[kind]), None, "pid", f"no {pid!r}", f"it, as in row {at} of {meta}")
    return values


def _moment(cells: Cells) -> Value:
    day = [cells.whole(name, 10_000) for name in ("year", "month", "day")]
    hour = 2 + HOURS * cells.whole("hour_index", 6)
    try:
        return (datetime(day[0], day[1], day[2], hour, tzinfo=UTC).timestamp(),)
    except ValueError:
        raise cells.error("day", "-".join(map(str, day)), "a date") from None


READ: dict[str, Callable[[Cells], Value]] = {
    "meta": lambda cells: (cells.number("titlelen"), cells.number("tagcount")),
    "time": _moment,
    "label": lambda cells: (cells.score("logview"),),
    "photo": lambda cells: (),
}
"""By kind what is held of a record."""


def _records(path: Path, names: tuple[str, ...]) -> Iterator[Cells]:
    """The records of a file, by rows from 0. SourceError for what is no such file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            header = [name.strip() for name in next(lines, [])]
            wanted = ("pid", "uid", *names)
            if missing := [name for name in wanted if header.count(name) != 1]:
                found = " ".join(header)[:100] or "nothing"
                raise SourceError(str(path), None, missing[0], f"the header {found}", "it once among them")
            places = {name: header.index(name) for name in wanted}
            for row, cells in enumerate(line for line in lines if any(map(str.strip, line))):
                if len(cells) != len(header):
                    raise SourceError(
                        str(path), str(row), None, f"{len(cells)} cells", f"{len(header)}, as in the header"
                    )
                yield Cells(str(path), str(row), {name: cells[place] for name, place in places.items()})
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(str(path), None, None, f"what cannot be read ({error})", "tabs in UTF-8") from None
