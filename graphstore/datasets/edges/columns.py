"""Columns of nodes: keys, times and marks, of Parquet, CSV and .npy files. Row i is node i.

Legend: n rows of a batch, N nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.described import open_npy
from netgpt.graphstore.datasets.edges.describe import NearestDescription
from netgpt.graphstore.datasets.edges.read import arrow_column, integers, table_batches
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.features import DAY_S

LOWEST = np.iinfo(np.int64).min


def keys(file: str, name: str, column: Any, first: int, code_of: dict[str, int]) -> np.ndarray:
    """Numbers as they are, from −1; texts by their codes, −1 where there is none: [n] int64."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return integers(file, name, arrow_column(file, name, column, first), first, low=-1)
    encoded = column.dictionary_encode()
    values = (
        code_of.setdefault(text, len(code_of)) if text else -1 for text in encoded.dictionary.to_pylist()
    )
    codes = np.array([*values, -1], np.int64)  # the last for what is null
    return codes[encoded.indices.fill_null(len(codes) - 1).to_numpy(zero_copy_only=False)]


def times(file: str, name: str, column: Any, first: int) -> np.ndarray:
    """Dates and times as numbers of their own unit, so that none is rounded or out of range."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_date32(kind):
        column = column.cast(pa.int32())
    elif pa.types.is_date64(kind) or pa.types.is_timestamp(kind):
        column = column.cast(pa.int64())
    elif not pa.types.is_integer(kind):
        raise StoreError(
            f"{file}: column {name!r}: found type {kind}, expected whole numbers, dates or times"
        )
    return integers(file, name, arrow_column(file, name, column, first), first, low=LOWEST)


def seconds(file: str, name: str, column: Any, first: int) -> np.ndarray:
    """Dates and times as seconds since 1970, of fractions the whole ones; whole numbers as they are: [n]
    int64."""
    import pyarrow as pa

    kind, values = column.type, times(file, name, column, first)
    if pa.types.is_date32(kind):
        return values * DAY_S
    if pa.types.is_date64(kind):
        return values // 1000
    if pa.types.is_timestamp(kind):
        return values // {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]
    return values


def _marks_of(file: str, name: str, column: Any, first: int) -> np.ndarray:
    import pyarrow as pa

    if not (pa.types.is_boolean(column.type) or pa.types.is_integer(column.type)):
        raise StoreError(
            f"{file}: column {name!r}: found type {column.type}, expected true or false, or 1 or 0"
        )
    return marks(file, name, arrow_column(file, name, column, first), first)


def marks(file: str, name: str, values: np.ndarray, first: int) -> np.ndarray:
    """Which rows are meant: true, or not 0: [n] bool."""
    if values.dtype == bool:
        return values
    return integers(file, name, values, first, low=LOWEST) != 0


@dataclass(frozen=True)
class NodeColumns:
    """The columns that a rule of retrieval names; None where it names none."""

    time: np.ndarray | None
    """[N] int64 seconds since 1970, or what whole numbers say."""
    apart: np.ndarray | None
    """[N] int64 codes; −1: of no group."""
    apart_values: tuple[str, ...] | None
    """The texts of the codes; None where they are numbers, or there are none."""
    bank: np.ndarray | None
    """[N] bool."""

    def __len__(self) -> int:
        return next((len(x) for x in (self.time, self.apart, self.bank) if x is not None), 0)

    def apart_texts(self, rows: slice) -> list[str]:
        """As values of a category, the empty text where there is none."""
        assert self.apart is not None
        codes, values = self.apart[rows].tolist(), self.apart_values
        return ["" if code < 0 else str(code) if values is None else values[code] for code in codes]


def read_columns(nearest: NearestDescription) -> NodeColumns:
    """All rows of the columns. Raises StoreError."""
    if nearest.path is None:
        return _of_arrays(nearest)
    names = [name for name in (nearest.time, nearest.apart, nearest.bank) if name]
    code_of: dict[str, int] = {}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
    first = 0
    # Values of a CSV file that tell nodes apart are texts: "007" and "7" are two
    texts = [nearest.apart] if nearest.apart else []
    for batch in table_batches(nearest.path, names, texts=texts):
        for name in names:
            column = batch.column(name)
            if name == nearest.apart:
                parts[name].append(keys(nearest.path, name, column, first, code_of))
            elif name == nearest.time:
                parts[name].append(seconds(nearest.path, name, column, first))
            else:
                parts[name].append(_marks_of(nearest.path, name, column, first))
        first += batch.num_rows
    if not first:
        raise StoreError(f"{nearest.path}: found no rows, expected one for each node")
    whole = {name: np.concatenate(of) for name, of in parts.items()}
    return NodeColumns(
        whole.get(nearest.time),
        whole.get(nearest.apart),
        tuple(code_of) or None,
        whole.get(nearest.bank),
    )


def _of_arrays(nearest: NearestDescription) -> NodeColumns:
    def read(file: str) -> np.ndarray | None:
        if not file:
            return None
        rows = open_npy(file).require(1)
        return rows.read(0, rows.shape[0])

    time, apart, bank = read(nearest.time), read(nearest.apart), read(nearest.bank)
    lengths = {len(x) for x in (time, apart, bank) if x is not None}
    if len(lengths) > 1:
        files = [file for file in (nearest.time, nearest.apart, nearest.bank) if file]
        raise StoreError(f"{files[-1]}: found columns of {sorted(lengths)} rows, expected one for each node")
    return NodeColumns(
        None if time is None else integers(nearest.time, "time", time, 0, low=LOWEST),
        None if apart is None else integers(nearest.apart, "apart", apart, 0, low=-1),
        None,
        None if bank is None else marks(nearest.bank, "bank", bank, 0),
    )
