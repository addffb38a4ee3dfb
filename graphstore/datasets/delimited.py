"""Files of rows with a separator between columns: their header, and where a value is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from netgpt.graphstore.datasets.described import reading
from netgpt.graphstore.errors import RecordError, SourceError

LONG = "\x1f"
"""Stands for a separator of several bytes; no text has it."""
CSV_BLOCK_BYTES = 1 << 24


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
        names = next((row for row in rows if row), None)  # empty lines before are none
    if source is not None:
        source.seek(0)
    if names is None:
        raise SourceError(str(file), None, None, "an empty file", "a line of names")
    return Header(names, is_alone=not lines[-1].endswith(("\n", "\r")))


def _noted(lines: Iterable[str], into: list[str]) -> Iterator[str]:
    for line in lines:
        into.append(line)
        yield line


def wrong_value(file: str, types: Mapping[str, Any]) -> RecordError | None:
    """The first value of some columns of a CSV file that Arrow cannot take for their types, by its record and
    field: for a message, after a reader that says neither found one."""
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(types, pa.binary()), include_columns=list(types), strings_can_be_null=True
    )
    read, first = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES), 0
    with pyarrow.csv.open_csv(file, read_options=read, convert_options=options) as reader:
        for batch in reader:
            found = [(_first_wrong(batch.column(name), kind), name) for name, kind in types.items()]
            rows = [(row, name) for row, name in found if row is not None]
            if rows:
                row, name = min(rows)
                text = batch.column(name)[row].as_py().decode(errors="backslashreplace")
                expected = "a whole number" if pa.types.is_integer(types[name]) else str(types[name])
                return RecordError(file, str(first + row), name, repr(text)[:60], expected)
            first += batch.num_rows
    return None


def _first_wrong(values: Any, kind: Any) -> int | None:
    """The row of the first value that cannot be cast, by halves."""
    if _can_be(values, kind):
        return None
    low, high = 0, len(values)  # the first is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if not _can_be(values[low:middle], kind) else (middle, high)
    return low


def _can_be(values: Any, kind: Any) -> bool:
    """Whether Arrow's reader takes such bytes for a type: it knows no signs before a number but -."""
    import pyarrow as pa
    import pyarrow.csv

    texts = [b"" if value is None else value for value in values.to_pylist()]
    if any(b"\n" in text or b'"' in text or b"," in text for text in texts):
        return pa.types.is_string(kind)
    data = io.BytesIO(b"x\n" + b"".join(text + b"\n" for text in texts))
    options = pyarrow.csv.ConvertOptions(column_types={"x": kind})
    try:
        pyarrow.csv.read_csv(data, convert_options=options)
    except pa.ArrowInvalid:
        return False
    return True
