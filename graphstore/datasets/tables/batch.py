"""Batches of a table's rows with their place in the files, and what becomes of bad ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.dataset import ReadReport
from netgpt.graphstore.datasets.described import open_features
from netgpt.graphstore.datasets.tables import read
from netgpt.graphstore.datasets.tables.describe import ColumnDescription, TableDescription
from netgpt.graphstore.datasets.tables.join import nothing_of
from netgpt.graphstore.errors import RecordError, SourceError
from netgpt.graphstore.files import ahead
from netgpt.graphstore.keys import Keys


def table_batches(
    table: TableDescription, columns: Sequence[str], check: Callable[[Path], None]
) -> Iterator[tuple[Place, int, Any]]:
    """All batches of a table: where they are, the number of their first row among all, and the columns.

    check: raises where a file has changed; asked before and after it is read.
    """
    first = 0
    for file in table.paths:
        check(file)
        start = first
        for batch in ahead(read.batches(table, file, columns)):
            yield Place(file, start), first, batch
            first += batch.num_rows
        check(file)


@dataclass(frozen=True)
class Place:
    """A file of a table, and the number of its first row among all."""

    file: Path
    first: int


class TableBatch:
    """Some rows of a table, [n]. What is bad in them is raised, or left out, and counted where a report is
    given."""

    def __init__(
        self, place: Place, first: int, batch: Any, *, skips: bool, report: ReadReport | None
    ) -> None:
        self.file, self.first = place.file, first
        self.kept = np.ones(batch.num_rows, bool)
        self._place, self._batch, self._skips, self._report = place, batch, skips, report

    def __len__(self) -> int:
        return int(self._batch.num_rows)

    def row_in_file(self, i: int) -> int:
        """The number, from 0, of a row in its file."""
        return self.first + i - self._place.first

    def keys(self, name: str) -> Any:
        """A column of links: texts, null where there is none."""
        return self._converted(name, read.keys_of)

    def links(self, name: str, many: ColumnDescription | None = None) -> tuple[np.ndarray, Any]:
        """Rows [m] of this batch, and the texts [m] that they link to.

        many: the column of categories where a row may link to several.
        """
        if many is None:
            return np.arange(len(self)), self.keys(name)
        import pyarrow as pa

        lists = self.cells(many)
        rows = np.repeat(np.arange(len(self)), [len(one) for one in lists])
        return rows, pa.array([text for one in lists for text in one], pa.string())

    def codes(self, name: str, known: Keys) -> np.ndarray:
        """A column's values by their numbers: [n] int64. Rows without one are bad."""
        codes = known.rows(self.keys(name))
        for i in np.flatnonzero((codes < 0) & self.kept).tolist():
            self._bad(i, name, "nothing", "a relation")
        return codes

    def cells(self, column: ColumnDescription) -> Any:
        """A column as the store keeps it; bad rows have something in it that is to be left out."""
        if column.file:
            return self._vector(column)
        if column.absent:
            return _absent(column, len(self))
        if column.constant:
            return [column.constant] * len(self)
        return self._converted(column.name, read.converter(column))

    def distinct(self, name: str, taken: Keys) -> list[str]:
        """The primary key, numbered in `taken`; rows without one, and with one that is there already, are
        bad. To be asked for last: what is numbered stays."""
        keys = self.keys(name)
        is_new = taken.add(keys, self.kept)
        for i in np.flatnonzero(self.kept & ~is_new).tolist():
            key = keys[i].as_py()
            if key is None:
                self._bad(i, name, "nothing", "a key")
            else:
                self._bad(i, name, repr(key), "each key once")
        return [key or "" for key in keys.to_pylist()]

    def _converted(self, name: str, convert: Callable[[Any], Any]) -> Any:
        values = self._batch.column(name)
        try:
            return convert(values)
        except read.TypeFoundError as bad:
            raise SourceError(str(self.file), None, name, f"type {bad.found}", bad.expected) from None
        except read.CellsError as bad:
            for i in np.flatnonzero(bad.bad & self.kept).tolist():
                self._bad(i, name, bad.found[i], bad.expected)
            return self._repaired(values, bad.bad, convert)

    def _repaired(self, values: Any, bad: np.ndarray, convert: Callable[[Any], Any]) -> Any:
        """The column with a good value, where there is one, in place of the bad ones, whose rows are left
        out."""
        import pyarrow as pa

        good = np.flatnonzero(~bad)
        if not len(good):
            none = convert(values.slice(0, 0))
            num = len(values)
            return (
                np.zeros((num, *none.shape[1:]), none.dtype) if isinstance(none, np.ndarray) else [""] * num
            )
        places = np.where(bad, good[0], np.arange(len(values)))
        return convert(values.take(pa.array(places)))

    def _vector(self, column: ColumnDescription) -> np.ndarray:
        rows = open_features(column.file)
        last = self.first + len(self)
        if rows.shape[0] < last:
            raise SourceError(column.file, None, None, f"{rows.shape[0]} rows", f"a row for each of {last}")
        x = rows.read(self.first, last)
        for i in np.flatnonzero(~np.isfinite(x).all(axis=1) & self.kept).tolist():
            self._bad(i, column.name, "a value that is not finite", "numbers")
        return x

    def _bad(self, i: int, name: str, found: str, expected: str) -> None:
        error = RecordError(str(self.file), str(self.row_in_file(i)), name, found, expected)
        if not self._skips:
            raise error
        if self._report is not None:
            self._report.count(error)
        self.kept[i] = False


def _absent(column: ColumnDescription, num: int) -> Any:
    """Cells of a column that a file lacks: [num]."""
    if column.kind == "time":
        return np.zeros(num, np.int64)
    nothing = nothing_of(column)
    return np.full(num, nothing) if column.kind == "number" else [nothing] * num
