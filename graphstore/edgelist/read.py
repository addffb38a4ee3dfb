"""Edges from files, in pieces of bounded size, checked as they pass.

Legend: n edges of a piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphstore.edgelist.describe import EdgeDescription
from graphstore.errors import StoreError

CHUNK_EDGES = 1 << 20


@dataclass(frozen=True)
class Piece:
    """heads, tails [n] int64, none below 0; file and first say where the piece begins, for messages."""

    heads: np.ndarray
    tails: np.ndarray
    file: str
    first: int


def read_edges(edge: EdgeDescription) -> Iterator[Piece]:
    """All edges of a relation, in the order of its files and of their rows. Raises StoreError."""
    kind = Path(edge.path[0]).suffix
    if kind == ".npy":
        yield from _npy(edge.path)
        return
    read = _parquet if kind == ".parquet" else _csv
    for file in edge.path:
        first = 0
        for columns in read(file, edge.columns):
            heads, tails = (
                _integers(file, name, column, first)
                for name, column in zip(edge.columns, columns, strict=True)
            )
            if len(heads):
                yield Piece(heads, tails, file, first)
            first += len(heads)


def _integers(file: str, name: str, values: np.ndarray, first: int) -> np.ndarray:
    if values.dtype.kind not in "iu":
        raise StoreError(f"{file}: column {name!r}: found type {values.dtype}, expected whole numbers")
    if values.dtype == np.uint64 and len(values) and int(values.max()) > np.iinfo(np.int64).max:
        raise StoreError(f"{file}: column {name!r}: found {values.max()}, expected at most 2^63 − 1")
    values = np.ascontiguousarray(values, np.int64)
    if len(values) and values.min() < 0:
        row = int(np.argmax(values < 0))
        raise StoreError(
            f"{file}: record {first + row}: field {name!r}: found {values[row]}, "
            "expected a node number from 0"
        )
    return values


def _arrow_columns(file: str, names: list[str], batch: Any, first: int) -> list[np.ndarray]:
    import pyarrow as pa

    found = []
    for name in names:
        column = batch.column(name)
        if column.null_count:
            row = first + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise StoreError(f"{file}: record {row}: field {name!r}: found nothing, expected a node number")
        if not pa.types.is_integer(column.type):
            raise StoreError(f"{file}: column {name!r}: found type {column.type}, expected whole numbers")
        found.append(column.to_numpy(zero_copy_only=False))
    return found


def _require_columns(file: str, wanted: list[str], names: list[str]) -> None:
    for name in wanted:
        if name not in names:
            raise StoreError(f"{file}: column: found {', '.join(names)}, expected {name!r} among them")


def _parquet(file: str, columns: list[str]) -> Iterator[list[np.ndarray]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file) as parquet:
            _require_columns(file, columns, parquet.schema_arrow.names)
            first = 0
            for batch in parquet.iter_batches(CHUNK_EDGES, columns=columns):
                yield _arrow_columns(file, columns, batch, first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{file}: cannot be read as Parquet ({_line(error)})") from error


def _csv(file: str, columns: list[str]) -> Iterator[list[np.ndarray]]:
    import pyarrow as pa
    import pyarrow.csv

    options = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.int64()))
    read = pyarrow.csv.ReadOptions(block_size=1 << 24)
    try:
        with pyarrow.csv.open_csv(file, read_options=read, convert_options=options) as reader:
            _require_columns(file, columns, reader.schema.names)
            first = 0
            for batch in reader:
                yield _arrow_columns(file, columns, batch, first)
                first += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise StoreError(f"{file}: cannot be read as CSV of whole numbers ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _npy(files: list[str]) -> Iterator[Piece]:
    if len(files) == 1:
        shape, read = _npy_reader(files[0], 2)
        if shape[1] != 2:
            raise StoreError(f"{files[0]}: found shape {list(shape)}, expected [E, 2]")
        for first in range(0, shape[0], CHUNK_EDGES):
            pairs = read(first, min(first + CHUNK_EDGES, shape[0]))
            heads, tails = (
                _integers(files[0], name, pairs[:, i], first) for i, name in enumerate(("heads", "tails"))
            )
            yield Piece(heads, tails, files[0], first)
        return
    (num, *_), read_heads = _npy_reader(files[0], 1)
    (num_tails, *_), read_tails = _npy_reader(files[1], 1)
    if num != num_tails:
        raise StoreError(f"{files[1]}: found {num_tails} numbers, expected {num} as in {files[0]}")
    for first in range(0, num, CHUNK_EDGES):
        last = min(first + CHUNK_EDGES, num)
        heads = _integers(files[0], "heads", read_heads(first, last), first)
        tails = _integers(files[1], "tails", read_tails(first, last), first)
        yield Piece(heads, tails, files[0], first)


def _npy_reader(file: str, ndim: int) -> tuple[tuple[int, ...], Any]:
    """Shape, and a function that reads rows: by reads, since mapped pages count as resident memory."""
    try:
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{file}: cannot be read as npy ({_line(error)})") from error
    shape, dtype = mapped.shape, mapped.dtype
    if len(shape) != ndim or not mapped.flags.c_contiguous:
        raise StoreError(f"{file}: found shape {list(shape)}, expected {ndim} dimension(s) in C order")
    begin, width = mapped.offset, int(np.prod(shape[1:], dtype=np.int64))
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
