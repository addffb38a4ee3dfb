"""Pairs as they are kept: numbered, above a number of stars, in a core, each once and in one part.

Legend: n rows or pairs, U users, I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.described import open_features, reading
from netgpt.graphstore.datasets.interactions.describe import Described
from netgpt.graphstore.datasets.interactions.read import (
    ids_of,
    numbered,
    numbers_of,
    read_columns,
    seconds_of,
    texts_of,
)
from netgpt.graphstore.datasets.interactions.splits import PART_NAMES
from netgpt.graphstore.errors import RecordError, SourceError, StoreError


@dataclass(frozen=True)
class Rows:
    """Rows of pairs [n], numbered, and where each stands in its file."""

    users: np.ndarray
    items: np.ndarray
    """[n] int64 each."""
    user_ids: list[str]
    item_ids: list[str]
    times: np.ndarray | None = None
    """[n] int64 seconds."""
    stars: np.ndarray | None = None
    """[n] float64."""
    parts: np.ndarray | None = None
    """[n] int8, of a given split."""
    files: tuple[str, ...] = ("",)
    first: tuple[int, ...] = (0,)
    """Of each file its first row among all."""
    places: np.ndarray | None = None
    """[n] number of each among all rows; None: they are all."""

    def __len__(self) -> int:
        return len(self.users)

    def taken(self, chosen: np.ndarray) -> Rows:
        """Some of them: [n] bool or numbers."""
        own = ("users", "items", "times", "stars", "parts")
        places = np.arange(len(self)) if self.places is None else self.places
        values = {name: one[chosen] for name in own if (one := getattr(self, name)) is not None}
        return replace(self, places=places[chosen], **values)

    def error(self, i: int, field: str | None, found: str, expected: str) -> RecordError:
        """What to raise of row i."""
        place = i if self.places is None else int(self.places[i])
        file = int(np.searchsorted(self.first, place, side="right")) - 1
        return RecordError(self.files[file], str(place - self.first[file]), field, found, expected)


@dataclass(frozen=True)
class ItemTable:
    """The items that there are besides those of pairs, by row: ids, texts and files of vectors."""

    ids: list[str]
    texts: dict[str, list[str]]
    vectors: dict[str, Path]
    where: str
    """What messages call it."""


def read_items(described: Described) -> ItemTable | None:
    """None where a source has pairs alone. SourceError for vectors of another number of rows, RecordError for
    an id twice."""
    own, ids, texts = described.items, list[str](), dict[str, list[str]]()
    if own.path is None and not own.vectors:
        return None
    lengths = {name: open_features(str(file)).shape[0] for name, file in own.vectors.items()}
    if own.path is not None:
        columns = read_columns(own.path, own.form, [own.key, *own.texts])
        key = ids_of(own.path, own.key, columns[own.key], "an item's id")
        ids = texts_of(key)
        texts = {name: texts_of(columns[name]) for name in own.texts}
        seen: set[str] = set()
        for row, one in enumerate(ids):
            if one in seen:
                raise RecordError(str(own.path), str(row), own.key, repr(one), "each item once")
            seen.add(one)
        where, num = own.path, len(ids)
    else:
        where, num = next(iter(own.vectors.values())), next(iter(lengths.values()))
        ids = [str(i) for i in range(num)]
    for name, length in lengths.items():
        if length != num:
            file = str(own.vectors[name])
            raise SourceError(file, None, None, f"{length} rows", f"{num}, as {where} has items")
    return ItemTable(ids, texts, own.vectors, str(where))


def read_rows(described: Described, items: ItemTable | None, report: ReadReport) -> Rows:
    """All rows of the files. RecordError for a row without user or item, of an item that is not in the table,
    of stars out of range, a time that is no whole second, or another value of the split."""
    import pyarrow as pa

    parts: list[dict[str, Any]] = []
    for file in described.files:
        columns = read_columns(file, described.form, described.columns)
        with reading(file, "pairs"):  # whatever else Arrow finds wrong with a column
            parts.append(_checked(described, file, columns))
    first = np.cumsum([0, *(len(part["user"]) for part in parts[:-1])])
    ids = {}
    for end, column in (("user", described.user), ("item", described.item)):
        kinds = {pa.types.is_integer(part[end].type) for part in parts}
        if len(kinds) > 1:
            found = " and ".join(sorted({str(part[end].type) for part in parts}))
            raise SourceError(str(described.path), None, column, f"types {found}", "one type in all files")
        kind = pa.int64() if kinds == {True} else pa.large_string()
        ids[end] = numbered(pa.concat_arrays([part[end].cast(kind) for part in parts]))
    if not len(ids["user"][0]):
        raise SourceError(str(described.path), None, None, "no pair", "at least one")
    values = {
        name: np.concatenate([part[name] for part in parts])
        for name in ("times", "stars", "parts", "keep")
        if name in parts[0]
    }
    keep = values.pop("keep", None)
    rows = Rows(
        ids["user"][0],
        ids["item"][0],
        ids["user"][1],
        ids["item"][1],
        **values,
        files=tuple(map(str, described.files)),
        first=tuple(first.tolist()),
    )
    if items is not None:
        rows = _of_table(rows, items, described.item)
    if keep is not None:
        _left_out(report, "not kept", int((keep == 0).sum()))
        rows = rows.taken(keep != 0)
    return rows


def _checked(described: Described, file: Path, columns: dict[str, Any]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    made: dict[str, Any] = {
        "user": ids_of(file, described.user, columns[described.user], "a user's id"),
        "item": ids_of(file, described.item, columns[described.item], "an item's id"),
    }
    if described.time:
        made["times"] = seconds_of(file, described.time, columns[described.time])
    if described.keep:
        made["keep"] = numbers_of(file, described.keep, columns[described.keep])
    if described.stars:
        stars = made["stars"] = numbers_of(file, described.stars, columns[described.stars])
        low = -np.inf if described.low is None else described.low
        high = np.inf if described.high is None else described.high
        wrong = (stars < low) | (stars > high)
        if wrong.any():
            row = int(np.argmax(wrong))
            expected = f"{low:g} to {high:g}"
            raise RecordError(str(file), str(row), described.stars, f"{stars[row]:g}", expected)
    if described.split:
        texts = pc.fill_null(columns[described.split].cast(pa.large_string()), "")
        parts = pc.index_in(texts, pa.array(described.parts, pa.large_string()))
        if parts.null_count:
            row = int(np.argmax(parts.is_null().to_numpy(zero_copy_only=False)))
            expected = f"{', '.join(described.parts)} ({', '.join(PART_NAMES)})"
            raise RecordError(str(file), str(row), described.split, repr(texts[row].as_py()), expected)
        made["parts"] = parts.to_numpy().astype(np.int8)
    return made


def _of_table(rows: Rows, items: ItemTable, column: str) -> Rows:
    """The rows by the numbers of the table's items."""
    row_of = {one: i for i, one in enumerate(items.ids)}
    numbers = np.array([row_of.get(one, -1) for one in rows.item_ids], np.int64)[rows.items]
    if (numbers < 0).any():
        row = int(np.argmax(numbers < 0))
        found = repr(rows.item_ids[int(rows.items[row])])
        raise rows.error(row, column, found, f"an item of {items.where}")
    return replace(rows, items=numbers, item_ids=items.ids)


def kept_rows(rows: Rows, *, least_stars: float, core: int, fixed_items: bool, report: ReadReport) -> Rows:
    """Each pair once, the first, of at least so many stars, and of users and items that have at least `core`
    pairs each; in the order (user, item), numbered anew where some users or items are none any more.

    What is left out is counted in the report. fixed_items: items keep their numbers, also those of no pair.
    StoreError where nothing is left, RecordError for a pair of two parts.
    """
    num = len(rows)
    if not num:
        raise StoreError(f"{rows.files[0]}: found no pair that is kept, expected some")
    if least_stars:
        if rows.stars is None:
            raise StoreError(f"least_stars: found {least_stars:g}, expected 0 of pairs without stars")
        rows = rows.taken(rows.stars >= least_stars)
        _left_out(report, "below least_stars", num - len(rows))
    num = len(rows)
    rows = _once(rows)
    _left_out(report, "pairs again", num - len(rows))
    num, inner = len(rows), np.ones(len(rows), bool)
    while core:
        users = np.bincount(rows.users, inner, minlength=1)
        items = np.bincount(rows.items, inner, minlength=1)
        left = inner & (users[rows.users] >= core) & (items[rows.items] >= core)
        if left.sum() == inner.sum():
            break
        inner = left
    rows = rows.taken(inner)
    _left_out(report, "outside the core", num - len(rows))
    if not len(rows):
        raise StoreError(f"{rows.files[0]}: found no pair that is left, expected some: least_stars and core")
    report.num_read = len(rows)
    rows = _renumbered(rows, "users", "user_ids")
    return rows if fixed_items else _renumbered(rows, "items", "item_ids")


def _left_out(report: ReadReport, why: str, num: int) -> None:
    if num:
        report.skipped[why] = report.skipped.get(why, 0) + num


def _once(rows: Rows) -> Rows:
    """The first row of each pair, in the order (user, item)."""
    key = rows.users * (int(rows.items.max(initial=0)) + 1) + rows.items
    order = np.argsort(key, kind="stable")
    again = np.diff(key[order], prepend=-1) == 0
    if rows.parts is not None:
        other = again & (np.diff(rows.parts[order], prepend=-1) != 0)
        if other.any():
            place = int(np.argmax(other))
            row, before = int(order[place]), int(order[place - 1])
            user, item = rows.user_ids[rows.users[row]], rows.item_ids[rows.items[row]]
            parts = [PART_NAMES[int(rows.parts[i])] for i in (row, before)]
            found = f"user {user!r} with item {item!r} in {parts[0]}, after it was in {parts[1]}"
            raise rows.error(row, None, found, "each pair in one part")
    return rows.taken(order[~again])


def _renumbered(rows: Rows, name: str, ids: str) -> Rows:
    """Numbers of those alone that have pairs."""
    codes, names = getattr(rows, name), getattr(rows, ids)
    there = np.zeros(len(names), bool)
    there[codes] = True
    if there.all():
        return rows
    number = np.cumsum(there) - 1
    left: Sequence[int] = np.flatnonzero(there).tolist()
    return replace(rows, **{name: number[codes], ids: [names[i] for i in left]})
