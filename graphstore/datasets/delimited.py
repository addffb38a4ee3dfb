"""Files of rows with a separator between columns: their header, and where a value is wrong."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import reading
from netgpt.graphstore.errors import RecordError, SourceError

LONG = "\x1f"
"""Stands for a separator of several bytes; no text has it."""
WHOLE = re.compile(r"[+-]?[0-9]+")


@dataclass(frozen=True)
class Header:
    names: list[str]
    is_alone: bool
    """Whether nothing follows it, not even the end of its line: Arrow takes such a file for an empty one."""


def one_separator(file: Path, separator: str) -> Any:
    """A file whose separator is several bytes, with `LONG` in its place. SourceError where a text has it."""
    data = file.read_bytes()
    if LONG.encode() in data:
        raise SourceError(
            str(file), None, None, "the character 1F", "texts without it beside a long separator"
        )
    return io.BytesIO(data.replace(separator.encode(), LONG.encode()))


def header_of(
    file: Path | str, source: Any = None, *, separator: str = ",", encoding: str = "utf-8", quote: bool = True
) -> Header:
    """The names in the first line of a file.

    source: the file's bytes where they are not as on the disk, at their start and left there. A name may have
    bytes that are not of the encoding, as long as nobody asks for it. StoreError for a file that cannot be
    read, SourceError for an empty one.
    """
    kind = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8", "utf_8") else encoding
    errors = "surrogateescape" if kind == "utf-8-sig" else "replace"
    lines: list[str] = []
    with reading(file, f"text with {separator!r} between columns"), ExitStack() as stack:
        data = stack.enter_context(Path(file).open("rb")) if source is None else source
        text = io.TextIOWrapper(data, encoding=kind, errors=errors, newline="")
        stack.callback(text.detach)
        rows = csv.reader(
            _noted(text, lines),
            delimiter=separator,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
        )
        names = next(rows, None)
    if source is not None:
        source.seek(0)
    if names is None:
        raise SourceError(str(file), None, None, "an empty file", "a line of names")
    return Header(names, is_alone=not lines[-1].endswith(("\n", "\r")))


def _noted(lines: Iterable[str], into: list[str]) -> Iterator[str]:
    for line in lines:
        into.append(line)
        yield line


def wrong_number(file: str, columns: Sequence[str]) -> RecordError | None:
    """The first value of some columns of a CSV file that is no whole number of 64 bits, by its record and
    field: for a message, after a reader that says neither found one."""
    import pyarrow as pa
    import pyarrow.csv

    types = dict.fromkeys(columns, pa.string())
    options = pyarrow.csv.ConvertOptions(
        column_types=types, include_columns=list(columns), strings_can_be_null=True
    )
    first = 0
    with pyarrow.csv.open_csv(file, convert_options=options) as reader:
        for batch in reader:
            for name in columns:
                for i, text in enumerate(batch.column(name).to_pylist()):
                    if text is not None and not _is_whole(text):
                        return RecordError(file, str(first + i), name, repr(text)[:60], "a whole number")
            first += batch.num_rows
    return None


def _is_whole(text: str) -> bool:
    said = text.strip()
    return WHOLE.fullmatch(said) is not None and len(said) < 25 and -(2**63) <= int(said) < 2**63
