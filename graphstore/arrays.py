"""Zarr v3 arrays that are also one contiguous run of bytes in one file.

One shard holds the whole array: its uncompressed inner chunks in order, then the shard index
(offset and length of each chunk, two little-endian uint64) and its CRC32C. Any Zarr client reads
such an array; `map_array` memory-maps it whole, without a copy.

Legend: N rows, D width of a row.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import google_crc32c
import numpy as np
import zarr

from graphstore.errors import FormatError
from graphstore.files import read_json

CHUNK_BYTES = 1 << 20


def _chunk_rows(num_rows: int, row_bytes: int) -> int:
    """Rows in an inner chunk: about 1 MB, never more than the array has, at least one."""
    return max(1, min(num_rows, CHUNK_BYTES // max(1, row_bytes)))


class ArrayWriter:
    """Writes an array front to back; its length need not be known beforehand.

    Memory does not grow with the array: rows go straight to the file. The metadata is written by
    `close`, so an array that was not closed is not one that Zarr (or `map_array`) sees.
    """

    def __init__(self, root: Path, name: str, dtype: Any, width: int | None = None) -> None:
        self.root, self.name = root, name
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.width = width
        self.num_rows = 0
        self._folder = root / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._data = self._folder / "data.tmp"
        self._file = self._data.open("wb")

    def append(self, rows: np.ndarray) -> None:
        """Add rows: [n] or, for a writer with a width, [n, width]."""
        expected = () if self.width is None else (self.width,)
        if rows.shape[1:] != expected:
            raise ValueError(f"{self.name}: rows of shape {rows.shape[1:]}, expected {expected}")
        if len(rows):  # a memory view of no rows has no bytes to cast to
            self._file.write(np.ascontiguousarray(rows, dtype=self.dtype).data.cast("B"))
            self.num_rows += len(rows)

    def close(self) -> None:
        width = (self.width,) if self.width is not None else ()
        row_bytes = self.dtype.itemsize * math.prod(width)
        chunk = _chunk_rows(self.num_rows, row_bytes)
        num_chunks = -(-self.num_rows // chunk)
        self._file.write(b"\0" * ((num_chunks * chunk - self.num_rows) * row_bytes))
        size = np.full(num_chunks, chunk * row_bytes, dtype="<u8")
        index = np.stack([np.arange(num_chunks, dtype="<u8") * size, size], axis=1).tobytes()
        self._file.write(index + np.uint32(google_crc32c.value(index)).astype("<u4").tobytes())
        self._file.close()
        zarr.create_array(
            str(self.root),
            name=self.name,
            shape=(self.num_rows, *width),
            chunks=(chunk, *width),
            shards=(max(1, num_chunks) * chunk, *width),
            dtype=self.dtype,
            compressors=None,
            fill_value=0,
            config={"write_empty_chunks": True},
        )
        if self.num_rows == 0:  # Zarr has no shard file for an array of no rows
            self._data.unlink()
            return
        shard = self._folder.joinpath("c", *["0"] * (1 + len(width)))
        shard.parent.mkdir(parents=True, exist_ok=True)
        self._data.rename(shard)

    def __enter__(self) -> ArrayWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self._file.close()


def write_array(root: Path, name: str, values: np.ndarray) -> None:
    """Write a whole array of one or two dimensions."""
    with ArrayWriter(root, name, values.dtype, values.shape[1] if values.ndim == 2 else None) as writer:
        writer.append(values)


def map_array(folder: Path) -> np.ndarray:
    """Map an array of the layout above, read-only: shape [N] or [N, D], no copy.

    Raises FormatError when the metadata or the file's size is not of that layout.
    """
    try:
        meta = read_json(folder / "zarr.json")
        shape = tuple(meta["shape"])
        dtype = np.dtype(meta["data_type"]).newbyteorder("<")
        (shard_codec,) = meta["codecs"]
        config = shard_codec["configuration"]
        chunk = config["chunk_shape"]
        contiguous = (
            shard_codec["name"] == "sharding_indexed"
            and [c["name"] for c in config["codecs"]] == ["bytes"]
            and config["index_location"] == "end"
            and list(chunk[1:]) == list(shape[1:])
        )
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder}: not an array of a graph store ({error})") from error
    if not contiguous:
        raise FormatError(f"{folder}: found another chunk layout, expected one uncompressed shard")
    if shape[0] == 0:
        return np.empty(shape, dtype)
    shard = folder.joinpath("c", *["0"] * len(shape))
    num_chunks = -(-shape[0] // chunk[0])
    expected = num_chunks * chunk[0] * math.prod(shape[1:]) * dtype.itemsize + num_chunks * 16 + 4
    found = os.path.getsize(shard) if shard.exists() else -1
    if found != expected:
        raise FormatError(f"{shard}: found {found} bytes, expected {expected}; the store must be built again")
    return np.memmap(shard, dtype=dtype, mode="r", shape=shape)


class StringWriter:
    """UTF-8 strings as two arrays: `NAME` (bytes) and `NAME_offset` ([N + 1] int64)."""

    def __init__(self, root: Path, name: str) -> None:
        self._bytes = ArrayWriter(root, name, np.uint8)
        self._offset = ArrayWriter(root, f"{name}_offset", np.int64)
        self._offset.append(np.zeros(1, np.int64))

    def append(self, text: str) -> None:
        self._bytes.append(np.frombuffer(text.encode(), np.uint8))
        self._offset.append(np.array([self._bytes.num_rows], np.int64))

    def close(self) -> None:
        self._bytes.close()
        self._offset.close()


class Strings:
    """A read-only sequence of strings over the two arrays of `StringWriter`."""

    def __init__(self, data: np.ndarray, offset: np.ndarray) -> None:
        self._data, self._offset = data, offset

    def __len__(self) -> int:
        return len(self._offset) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return bytes(self._data[self._offset[index] : self._offset[index + 1]]).decode()
