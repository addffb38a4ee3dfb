"""Posts as columns, whatever file they are of, and the values that files say.

Legend: n posts.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.described import NUMBER
from netgpt.graphstore.errors import RecordError, StoreError

CATEGORIES = ("user", "category", "subcategory", "concept", "media")
TEXTS = ("pid", "title", "date", *CATEGORIES)
NUMBERS = (
    *("tags", "title_length", "shown_tags", "shown_title_length", "latitude", "longitude", "accuracy"),
    *("photo_count", "is_pro", "can_buy_pro", "timezone"),
)
"""float64, NaN where one is not known. Those shown are of TPIC2017 alone: prompts of SMPD have titles."""
MAX_SECONDS = 1 << 40
_NUMBER = re.compile(NUMBER)
_OFFSET = re.compile(r"([+-]?)(\d{1,2}):(\d\d)")


@dataclass(frozen=True)
class Posts:
    """Posts of one source, [n] each; an empty text is no value."""

    texts: Mapping[str, Sequence[str]]
    """Each of TEXTS."""
    time: np.ndarray
    """int64, seconds since 1970 where the source says times; else what orders a user's posts."""
    score: np.ndarray
    """float64, log2(views + 1)."""
    numbers: Mapping[str, np.ndarray]
    """Each of NUMBERS."""

    def __len__(self) -> int:
        return len(self.time)

    @property
    def pids(self) -> Sequence[str]:
        return self.texts["pid"]

    @property
    def users(self) -> Sequence[str]:
        return self.texts["user"]

    def take(self, rows: Sequence[int]) -> Posts:
        """The posts of some rows, in their order."""
        places = np.asarray(rows, np.int64)
        return Posts(
            {name: [texts[i] for i in rows] for name, texts in self.texts.items()},
            self.time[places],
            self.score[places],
            {name: numbers[places] for name, numbers in self.numbers.items()},
        )

    def followed_by(self, other: Posts) -> Posts:
        """These posts and then the others."""
        return Posts(
            {name: [*self.texts[name], *other.texts[name]] for name in TEXTS},
            np.concatenate([self.time, other.time]),
            np.concatenate([self.score, other.score]),
            {name: np.concatenate([self.numbers[name], other.numbers[name]]) for name in NUMBERS},
        )


class PostsBuilder:
    """Columns that grow by a post at a time; of texts that come again one copy is held."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {name: [] for name in TEXTS}
        self._time, self._score = array("q"), array("d")
        self._numbers = {name: array("d") for name in NUMBERS}
        self._held: dict[str, str] = {}

    def add(self, time: int, score: float, texts: Mapping[str, str], numbers: Mapping[str, float]) -> None:
        """A post; texts and numbers that are not given have no value."""
        for name, column in self._texts.items():
            text = texts.get(name, "")
            column.append(self._held.setdefault(text, text) if name in CATEGORIES else text)
        for name, values in self._numbers.items():
            values.append(numbers.get(name, math.nan))
        self._time.append(time)
        self._score.append(score)

    def posts(self) -> Posts:
        numbers = {name: np.array(values, np.float64) for name, values in self._numbers.items()}
        return Posts(self._texts, np.array(self._time, np.int64), np.array(self._score, np.float64), numbers)


class Cells:
    """The values of one record; every miss becomes a RecordError that names file, record and field."""

    def __init__(self, file: str, record: str, raw: Mapping[str, Any]) -> None:
        self.file, self.record, self._raw = file, record, raw

    def error(self, name: str, value: Any, expected: str) -> RecordError:
        found = repr(value)
        found = found if len(found) <= 60 else f"{found[:57]}..."
        return RecordError(self.file, self.record, name, found, expected)

    def has(self, name: str) -> bool:
        return name in self._raw

    def value(self, name: str) -> Any:
        """A value; None where it says that there is none: null, an empty text, or `None` as text."""
        if name not in self._raw:
            raise RecordError(self.file, self.record, name, "no such field", "it in each record")
        value = self._raw[name]
        if isinstance(value, str):
            value = value.strip()
        return None if value in ("", "None") else value

    def text(self, name: str) -> str:
        """A text, or a number as one; empty where there is none."""
        value = self.value(name)
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise self.error(name, value, "a text")
        text = str(value)
        try:
            text.encode()
        except UnicodeEncodeError:
            raise self.error(name, ascii(text), "a text of whole characters") from None
        return text

    def key(self, name: str) -> str:
        """A text or whole number that has to be there, as text."""
        if not (text := self.text(name)):
            raise self.error(name, self._raw[name], "an id")
        return text

    def number(self, name: str) -> float:
        """A number, NaN where there is none; no and yes are 0 and 1."""
        value = self.value(name)
        if value is None:
            return math.nan
        if isinstance(value, str) and _NUMBER.match(value):
            value = float(value)
        try:
            number = float(value) if isinstance(value, int | float) else math.inf
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.error(name, value, "a number")
        return number

    def score(self, name: str) -> float:
        """A number that has to be there."""
        number = self.number(name)
        if math.isnan(number):
            raise self.error(name, self._raw[name], "a number")
        return number

    def whole(self, name: str, end: int = MAX_SECONDS) -> int:
        """A whole number from 0, below `end`, that has to be there."""
        number = self.number(name)
        if math.isnan(number) or not (number.is_integer() and 0 <= number < end):
            raise self.error(name, self._raw[name], f"a whole number from 0, below {end}")
        return int(number)

    def hours(self, name: str) -> float:
        """An offset of time in hours, said as a number or as +HH:MM; NaN where there is none."""
        value = self.value(name)
        if isinstance(value, str) and (match := _OFFSET.fullmatch(value)):
            return (-1 if match[1] == "-" else 1) * (int(match[2]) + int(match[3]) / 60)
        return self.number(name)


def pid_order(pid: str) -> tuple[int, int, str]:
    """What pids are ordered by: numbers by size, before others by their characters."""
    return (0, int(pid), "") if pid.isdecimal() and len(pid) < 40 else (1, 0, pid)


def named_files(folder: Path, named: Mapping[str, Sequence[str]], optional: Sequence[str]) -> dict[str, Path]:
    """By kind the file of a folder, under one of its names. StoreError where one lacks that is not optional,
    or is there twice."""
    found = {}
    for kind, names in named.items():
        there = [folder / name for name in names if (folder / name).is_file()]
        if len(there) > 1 or (not there and kind not in optional):
            found_names = f"both {' and '.join(names)}" if there else f"no {' or '.join(names)}"
            raise StoreError(f"{folder}: found {found_names}, expected one of them")
        if there:
            found[kind] = there[0]
    return found
