"""Columns of a table that lie in other files, found by the table's key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from netgpt.graphstore.datasets.tables.describe import ColumnDescription, TableDescription
from netgpt.graphstore.keys import Keys

if TYPE_CHECKING:
    from netgpt.graphstore.datasets.tables.batch import TableBatch


class Joined:
    """The columns of one further file, in memory, by key."""

    def __init__(self, table: TableDescription, batches: Iterable[TableBatch]) -> None:
        """Keys come once. Rows of keys that the table lacks are no matter."""
        self.table, self._keys = table, Keys()
        columns = table.columns or ()
        parts: dict[str, list[Any]] = {column.name: [] for column in columns}
        for batch in batches:
            cells = {column.name: batch.cells(column) for column in columns}
            batch.distinct(table.key, self._keys)
            rows = np.flatnonzero(batch.kept).tolist()
            for name, values in cells.items():
                parts[name] += [values[i] for i in rows]
        self._values = parts

    def fill(self, cells: dict[str, Any], keys: Any) -> None:
        """Put values in where `cells` [n] by column have none, for the rows of `keys` [n], texts in Arrow."""
        rows = self._keys.rows(keys).tolist()
        for column in self.table.columns or ():
            values, nothing = self._values[column.name], nothing_of(column)
            given = cells.get(column.name)
            found = [values[row] if row >= 0 else nothing for row in rows]
            if given is not None:
                found = [two if is_nothing(one) else one for one, two in zip(given, found, strict=True)]
            is_number = column.kind in ("number", "time")
            cells[column.name] = np.array(found, given_type(column)) if is_number else found


def nothing_of(column: ColumnDescription) -> Any:
    """What stands for no value of a column."""
    return {"number": np.nan, "categories": []}.get(column.kind, "")


def is_nothing(value: Any) -> bool:
    return value != value or (not isinstance(value, int | float | np.number) and len(value) == 0)


def given_type(column: ColumnDescription) -> str:
    return "float64" if column.kind == "number" else "int64"
