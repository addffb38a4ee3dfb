"""SMPD's official train files, joined row by row.

A folder has one file of each kind, under the name that releases from 2022 on give it or that of 2019 and
2020. Rows of all files are in one order. Where a file says Uid and Pid they must be those of the other files
in the same row; files that do not say them (the scores, and users' data in some releases) must have as many
rows. A file that does not fit is refused by name and row, counted from 0: the odd one out of all. JSON is
read as a stream, as a list of rows or as columns by name (`{"Pid": {"0": …}}`, as pandas writes it), and the
numbers of descriptions are passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.smpd.posts import Cells, Posts, PostsBuilder, named_files
from netgpt.graphstore.errors import RecordError, SourceError
from netgpt.graphstore.json_stream import BrokenJsonError, JsonStream, decoded

NAMES = {
    "label": ("train_label.txt",),
    "category": ("train_category.json",),
    "text": ("train_text.json", "train_tags.json"),
    "place": ("train_temporalspatial_information.json", "train_temporalspatial.json"),
    "user": ("train_user_data.json", "train_userdata.json"),
    "additional": ("train_additional_information.json", "train_additional.json"),
    "image": ("train_img_filepath.txt", "train_img.txt"),
}
"""By kind the names of its file, the newer first."""
OPTIONAL = ("additional", "image")
"""Kinds that nothing is read of: where they are there, their rows have to fit."""
KEYED = ("category", "text", "place", "additional")
"""Kinds whose rows say Uid and Pid in every release."""
_READ = {
    *("Uid", "Pid", "Category", "Subcategory", "Concept", "Title", "Tile", "Mediatype", "Alltags"),
    *("Postdate", "Latitude", "Longitude", "Geoaccuracy"),
    *("photo_count", "ispro", "canbuypro", "timezone_offset"),
}
"""What is held of a file of columns, of which each is whole in the file before the next."""
Key = tuple[str, str]
"""Uid and Pid."""


@dataclass(frozen=True)
class _Row:
    key: Key | None
    cells: Mapping[str, Any]


def is_official(folder: Path) -> bool:
    """Whether a folder has the scores and the categories of SMPD's train part."""
    return all((folder / NAMES[kind][0]).is_file() for kind in ("label", "category"))


def find_files(folder: Path) -> dict[str, Path]:
    """By kind the file of a folder. StoreError where one lacks, or is there under both names."""
    return named_files(folder, NAMES, OPTIONAL)


def read_posts(folder: Path, report: ReadReport, *, skips: bool = False) -> Posts:
    """All posts of a folder, in the order of its rows.

    Held are a few hundred bytes a post, whatever the files' length. StoreError for files that lack,
    SourceError for what cannot be read and for rows that do not fit together, RecordError for values that are
    wrong and for a pid twice; with `skips` such posts are left out and counted.
    """
    files = find_files(folder)
    posts, seen = PostsBuilder(), set[str]()
    for row, key, cells in _aligned(files):
        try:
            if key[1] in seen:
                raise RecordError(
                    str(files["category"]), str(row), "Pid", f"{key[1]!r} once more", "each once"
                )
            _add(posts, key, {kind: Cells(str(files[kind]), str(row), cells[kind]) for kind in files})
        except RecordError as error:
            if not skips:
                raise
            report.count(error)
            continue
        seen.add(key[1])
    return posts.posts()


def _add(posts: PostsBuilder, key: Key, cells: Mapping[str, Cells]) -> None:
    category, text, place, user = (cells[kind] for kind in ("category", "text", "place", "user"))
    title = text.text("Title" if text.has("Title") or not text.has("Tile") else "Tile")  # the site's sample
    texts = {"user": key[0], "pid": key[1], "title": title, "media": text.text("Mediatype")}
    texts |= {name: category.text(name.capitalize()) for name in ("category", "subcategory", "concept")}
    numbers = {"tags": float(len(text.text("Alltags").split())), "title_length": float(len(title))}
    for name, field in (("latitude", "Latitude"), ("longitude", "Longitude"), ("accuracy", "Geoaccuracy")):
        numbers[name] = place.number(field)
    for name, field in (("photo_count", "photo_count"), ("is_pro", "ispro"), ("can_buy_pro", "canbuypro")):
        numbers[name] = user.number(field)
    numbers["timezone"] = user.hours("timezone_offset")
    posts.add(place.whole("Postdate"), cells["label"].score("score"), texts, numbers)


def _aligned(files: Mapping[str, Path]) -> Iterator[tuple[int, Key, dict[str, Mapping[str, Any]]]]:
    """Row by row its number, Uid and Pid, and the cells by kind. SourceError where files do not fit."""
    readers = {kind: _rows(kind, path) for kind, path in files.items()}
    for row in count():
        rows = {kind: next(reader, None) for kind, reader in readers.items()}
        ended = [kind for kind, one in rows.items() if one is None]
        if ended:
            if len(ended) < len(files):
                _refuse_length(files, row, ended)
            return
        keys = {kind: one.key for kind, one in rows.items() if one is not None and one.key is not None}
        key = keys["category"]
        if any(other != key for other in keys.values()):
            _refuse_key(files, row, keys)
        yield row, key, {kind: one.cells for kind, one in rows.items() if one is not None}


def _refuse_length(files: Mapping[str, Path], row: int, ended: list[str]) -> NoReturn:
    are_few = 2 * len(ended) <= len(files)
    odd = next(kind for kind in files if (kind in ended) == are_few)
    other = next(kind for kind in files if (kind in ended) != are_few)
    found = "no such row" if are_few else "a row"
    expected = f"as many rows as {files[other].name} has" + ("" if are_few else f", {row}")
    raise SourceError(str(files[odd]), str(row), None, found, expected)


def _refuse_key(files: Mapping[str, Path], row: int, keys: Mapping[str, Key]) -> NoReturn:
    ((most, _),) = Counter(keys.values()).most_common(1)
    odd = next(kind for kind in keys if keys[kind] != most)
    other = next(kind for kind in keys if keys[kind] == most)
    found = "Uid {!r}, Pid {!r}".format(*keys[odd])
    expected = "Uid {!r}, Pid {!r}".format(*most) + f", as in {files[other].name}"
    raise SourceError(str(files[odd]), str(row), None, found, expected)


def _rows(kind: str, path: Path) -> Iterator[_Row]:
    """A file's rows, with Uid and Pid where it says them."""
    if kind == "label":
        for _, line in text_lines(path):
            yield _Row(None, {"score": line})
    elif kind == "image":
        for _, line in text_lines(path):
            parts = line.removesuffix(".jpg").split("/")
            # train/UID/PID.jpg; of 2019 it is an address of Flickr's
            yield _Row((parts[1], parts[2]) if len(parts) == 3 and parts[0] == "train" else None, {})
    else:
        for row, raw in enumerate(json_rows(path)):
            if not isinstance(raw, dict):
                raise SourceError(str(path), str(row), None, f"{raw!r:.60}", "an object")
            key = None
            if kind in KEYED or {"Uid", "Pid"} <= raw.keys():
                cells = Cells(str(path), str(row), raw)
                try:
                    key = (cells.key("Uid"), cells.key("Pid"))
                except RecordError as error:  # nothing says what the row is of
                    raise SourceError(*error.args) from None
            yield _Row(key, {} if kind in OPTIONAL else raw)


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a text and their numbers from 0, without empty ones at the end. SourceError."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            empty = 0
            for row, line in enumerate(file):
                if not (line := line.strip()):
                    empty += 1
                    continue
                yield from ((row - i, "") for i in range(empty, 0, -1))
                empty = 0
                yield row, line
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(str(path), None, None, f"what cannot be read ({error})", "text in UTF-8") from None


def json_rows(path: Path) -> Iterator[Any]:
    """The rows of a JSON list, or of an object of columns by row number, as a stream. SourceError."""
    row = 0
    try:
        with path.open("rb") as file:
            stream = JsonStream(file)
            head = stream.peek()
            if head == "{":
                yield from _column_rows(path, stream)
                return
            if head != "[":
                raise SourceError(str(path), None, None, f"what begins with {head!r}", "a list")
            for raw in stream.elements():
                yield raw
                row += 1
    except SourceError:
        raise
    except (OSError, BrokenJsonError) as error:  # a file that is cut off too
        raise SourceError(str(path), str(row), None, f"what cannot be read ({error})", "JSON") from None


def _column_rows(path: Path, stream: JsonStream) -> Iterator[dict[str, Any]]:
    """Rows of `{"column": {"0": value, …}, …}`; columns that nobody reads are counted alone."""
    columns: dict[str, list[Any]] = {}
    lengths: dict[str, int] = {}
    for name in stream.members():
        if stream.peek() != "{":
            raise SourceError(str(path), "0", name, f"{stream.value()!r:.40}", "a value a row")
        values: list[Any] | None = None
        if name in _READ:
            values = columns[name] = []
        row = 0
        for key in stream.members():
            if key != str(row):
                raise SourceError(str(path), str(row), name, f"row {key!r:.40}", "rows from 0, in order")
            value = stream.value()
            if isinstance(value, (dict, list)):
                raise SourceError(str(path), str(row), name, f"{value!r:.40}", "a value a row")
            if values is not None:
                values.append(value)
            row += 1
        lengths[name] = row
    for other, num in lengths.items():
        if num != lengths[name]:
            raise SourceError(
                str(path), str(min(num, lengths[name])), other, f"{num} rows", f"{lengths[name]} as {name}"
            )
    for row in range(lengths[name] if lengths else 0):
        yield {one: values[row] for one, values in columns.items()}


def read_captions(path: Path, wanted: set[str]) -> dict[str, str]:
    """By pid the caption of the wanted posts, of JSON lines {"Pid": …, "caption": …}. SourceError, and
    RecordError for a post twice."""
    captions: dict[str, str] = {}
    for row, line in text_lines(path):
        raw: Any = None
        with suppress(ValueError):
            raw = decoded(line)
        if not isinstance(raw, dict):
            raise SourceError(str(path), str(row), None, f"{line!r:.60}", "a JSON object a line")
        cells = Cells(str(path), str(row), raw)
        pid, caption = cells.key("Pid"), " ".join(cells.text("caption").split())
        if pid not in wanted:
            continue
        if pid in captions:
            raise cells.error("Pid", pid, "each once")
        captions[pid] = caption
    return captions


def read_pids(path: Path) -> set[str]:
    """The pids of a text, one a line. SourceError, and RecordError for lines that are none."""
    pids = set()
    for row, line in text_lines(path):
        if len(line.split()) > 1 or len(line) > 40:
            raise RecordError(str(path), str(row), "pid", f"{line!r:.60}", "one pid a line")
        if line:
            pids.add(line)
    return pids
