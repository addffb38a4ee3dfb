"""Edges from files, in pieces of bounded size, checked as they pass.

Legend: n edges of a piece.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphstore.edgelist.describe import EdgeDescription
from graphstore.errors import StoreError

CHUNK_EDGES = 1 << 20
_CSV_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True)
class Piece:
    """heads, tails [n] int64, none below 0; file and first say where the piece begins, for messages."""

    heads: np.ndarray
    tails: np.ndarray
    file: str
    first: int
    tail_file: str | None = None
    """Where tails have a file of their own."""


def read_edges(edge: EdgeDescription) -> Iterator[Piece]:
    """All edges of a relation, in the order of its files and of their rows. Raises StoreError."""
    if Path(edge.path[0]).suffix == ".npy":
        yield from _npy_pieces(edge.path)
        return
    for file in edge.path:
        first = 0
        for batch in table_batches(file, edge.columns):
            heads, tails = (
                integers(file, name, arrow_column(file, name, batch, first), first) for name in edge.columns
            )
            if len(heads):
                yield Piece(heads, tails, file, first)
            first += batch.num_rows


def integers(file: str, name: str, values: np.ndarray, first: int, *, low: int = 0) -> np.ndarray:
    """Numbers of a column as int64, from `low` on; `first` is the record of values[0]. Raises StoreError."""
    if values.dtype.kind not in "iu":
        raise StoreError(f"{file}: column {name!r}: found type {values.dtype}, expected whole numbers")
    if values.dtype == np.uint64 and len(values) and int(values.max()) > np.iinfo(np.int64).max:
        raise StoreError(f"{file}: column {name!r}: found {values.max()}, expected at most 2^63 − 1")
    values = np.ascontiguousarray(values, np.int64)
    if len(values) and values.min() < low:
        row = int(np.argmax(values < low))
        raise StoreError(
            f"{file}: record {first + row}: field {name!r}: found {values[row]}, expected "
            + ("a node number from 0" if low == 0 else f"a number from {low}")
        )
    return values


def arrow_column(file: str, name: str, batch: Any, first: int) -> np.ndarray:
    """A column of a batch or table without gaps; `first` is the record of its first row."""
    import pyarrow as pa

    column = batch.column(name)
    if column.null_count:
        row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise StoreError(f"{file}: record {row}: field {name!r}: found nothing, expected a value")
    if pa.types.is_floating(column.type):
        raise StoreError(f"{file}: column {name!r}: found type {column.type}, expected whole numbers")
    return column.to_numpy(zero_copy_only=False)


def table_batches(file: str, columns: list[str], *, text: str | None = None) -> Iterator[Any]:
    """Record batches of a Parquet or CSV file.

    Columns of a CSV file are whole numbers; with `text`, that column is texts and the others are taken
    for what they look like.
    """
    if file.endswith(".parquet"):
        import pyarrow.parquet as pq

        with _reading(file, "Parquet"), pq.ParquetFile(file) as parquet:
            _require_columns(file, columns, parquet.schema_arrow.names)
            yield from parquet.iter_batches(CHUNK_EDGES, columns=columns)
        return
    import pyarrow as pa
    import pyarrow.csv

    types = dict.fromkeys(columns, pa.int64()) if text is None else {text: pa.string()}
    options = pyarrow.csv.ConvertOptions(column_types=types)
    read = pyarrow.csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    with (
        _reading(file, "CSV of whole numbers" if text is None else "CSV"),
        pyarrow.csv.open_csv(file, read_options=read, convert_options=options) as reader,
    ):
        _require_columns(file, columns, reader.schema.names)
        yield from reader


@contextmanager
def _reading(file: str, kind: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{file}: cannot be read as {kind} ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _require_columns(file: str, wanted: list[str], names: list[str]) -> None:
    for name in wanted:
        if names.count(name) != 1:
            raise StoreError(f"{file}: column: found {', '.join(names)}, expected {name!r} once among them")


def open_npy(file: str) -> np.ndarray:
    """Map an .npy file; StoreError where it is none."""
    try:
        found = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be read as npy ({_line(error)})") from error
    return np.asarray(found) if not isinstance(found, np.memmap) else found


def _npy_pieces(files: list[str]) -> Iterator[Piece]:
    """From one [E, 2] array or from a pair of [E] arrays."""
    if len(files) == 1:
        shape, read = npy_reader(files[0], 2)
        if shape[1] != 2:
            raise StoreError(f"{files[0]}: found shape {list(shape)}, expected [E, 2]")

        def columns(first: int, last: int) -> tuple[np.ndarray, ...]:
            return tuple(read(first, last).T)

    else:
        (shape, heads), (other, tails) = (npy_reader(file, 1) for file in files)
        if shape != other:
            raise StoreError(f"{files[1]}: found {other[0]} numbers, expected {shape[0]} as in {files[0]}")

        def columns(first: int, last: int) -> tuple[np.ndarray, ...]:
            return heads(first, last), tails(first, last)

    for first in range(0, shape[0], CHUNK_EDGES):
        last = min(first + CHUNK_EDGES, shape[0])
        found_heads, found_tails = columns(first, last)
        yield Piece(
            integers(files[0], "heads", found_heads, first),
            integers(files[-1], "tails", found_tails, first),
            files[0],
            first,
            files[-1],
        )


def npy_reader(file: str, ndim: int) -> tuple[tuple[int, ...], Callable[[int, int], np.ndarray]]:
    """Shape, and a function that reads rows: by reads, since mapped pages count as resident memory."""
    mapped: Any = open_npy(file)
    shape, dtype = mapped.shape, mapped.dtype
    if len(shape) != ndim or not mapped.flags.c_contiguous:
        raise StoreError(f"{file}: found shape {list(shape)}, expected {ndim} dimension(s) in C order")
    begin, width = mapped.offset if mapped.size else 0, int(np.prod(shape[1:], dtype=np.int64))
    del mapped

    def read(first: int, last: int) -> np.ndarray:
        count = (last - first) * width
        values = np.fromfile(file, dtype, count, offset=begin + first * width * dtype.itemsize)
        if len(values) != count:
            raise StoreError(
                f"{file}: found fewer numbers than its header says, expected shape {list(shape)}"
            )
        return values.reshape(last - first, *shape[1:])

    return shape, read
