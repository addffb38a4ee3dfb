"""Edges from files, in pieces of bounded size, checked as they pass.

Legend: n edges of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.delimited import CSV_BLOCK_BYTES, header_of, wrong_value
from netgpt.graphstore.datasets.described import open_npy, reading, require_columns
from netgpt.graphstore.datasets.edges.describe import EdgeDescription
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.sort import CHUNK_EDGES, Piece


def read_edges(edge: EdgeDescription) -> Iterator[Piece]:
    """All edges of a relation, in the order of its files and of their rows. Raises StoreError."""
    if Path(edge.path[0]).suffix == ".npy":
        yield from _npy_pieces(edge.path)
        return
    for file in edge.path:
        first = 0
        for batch in table_batches(file, edge.columns):
            heads, tails = (
                integers(file, name, arrow_column(file, name, batch.column(name), first), first)
                for name in edge.columns
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


def arrow_column(file: str, name: str, column: Any, first: int) -> np.ndarray:
    """The values of an Arrow column without gaps; `first` is the record of its first row."""
    import pyarrow as pa

    if column.null_count:
        row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise StoreError(f"{file}: record {row}: field {name!r}: found nothing, expected a value")
    if pa.types.is_floating(column.type):
        raise StoreError(f"{file}: column {name!r}: found type {column.type}, expected whole numbers")
    return column.to_numpy(zero_copy_only=False)


def table_batches(file: str, columns: Sequence[str], *, texts: Sequence[str] | None = None) -> Iterator[Any]:
    """Record batches of a Parquet or CSV file.

    Columns of a CSV file are whole numbers; with `texts`, these are texts and the others are taken for what
    they look like. Other columns of the file may hold anything. StoreError for what cannot be read.
    """
    if file.endswith(".parquet"):
        import pyarrow.parquet as pq

        # A buffer for what is to be read would keep what was read: all of the file in the end
        with reading(file, "Parquet"), pq.ParquetFile(file, pre_buffer=False) as parquet:
            require_columns(file, columns, parquet.schema_arrow.names)
            yield from parquet.iter_batches(CHUNK_EDGES, columns=list(columns))
        return
    import pyarrow as pa
    import pyarrow.csv

    header = header_of(file)
    require_columns(file, columns, header.names)
    if header.is_alone:
        return
    types = dict.fromkeys(columns, pa.int64()) if texts is None else dict.fromkeys(texts, pa.string())
    options = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(columns))
    read = pyarrow.csv.ReadOptions(block_size=CSV_BLOCK_BYTES)
    with reading(file, "CSV of whole numbers" if texts is None else "CSV"):
        kinds = {name: pa.int64() for name in columns}
        try:
            with pyarrow.csv.open_csv(file, read_options=read, convert_options=options) as reader:
                kinds = {name: reader.schema.field(name).type for name in columns}
                yield from reader
        except pa.ArrowInvalid as error:
            raise (wrong_value(file, kinds) or error) from None


def _npy_pieces(files: list[str]) -> Iterator[Piece]:
    """From one [E, 2] array or from a pair of [E] arrays."""
    arrays = [open_npy(file).require(2 if len(files) == 1 else 1) for file in files]
    shape, last_shape = arrays[0].shape, arrays[-1].shape
    if len(files) == 1 and shape[1] != 2:
        raise StoreError(f"{files[0]}: found shape {list(shape)}, expected [E, 2]")
    if shape != last_shape:
        raise StoreError(f"{files[1]}: found {last_shape[0]} numbers, expected {shape[0]} as in {files[0]}")
    for first in range(0, shape[0], CHUNK_EDGES):
        parts = [array.read(first, min(first + CHUNK_EDGES, shape[0])) for array in arrays]
        heads, tails = parts if len(parts) == 2 else parts[0].T
        yield Piece(
            integers(files[0], "heads", heads, first),
            integers(files[-1], "tails", tails, first),
            files[0],
            first,
            files[-1],
        )
