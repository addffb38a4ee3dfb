"""Zarr v3 arrays that are also one contiguous run of bytes in one file.

One shard holds the whole array: its uncompressed inner chunks in order, then the shard index
(offset and length of each chunk, two little-endian uint64) and its CRC32C. Any Zarr client reads
such an array; `map_array` memory-maps it whole, without a copy.

Legend: N rows, D width of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import google_crc32c
import numpy as np
import zarr

from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.files import inside, read_json

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 1 << 26
DTYPES = ("int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")
_MAX_LENGTH = 1 << 48
MAX_CHUNK_BYTES = 1 << 26
_COPY_BYTES = 1 << 24


@dataclass(frozen=True)
class ArrayMeta:
    """What an array's zarr.json says of it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunk_rows: int

    @property
    def num_rows(self) -> int:
        return self.shape[0]

    @property
    def width(self) -> int | None:
        return self.shape[1] if len(self.shape) == 2 else None

    @property
    def row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def chunk_bytes(self) -> int:
        return self.chunk_rows * self.row_bytes

    @property
    def num_chunks(self) -> int:
        return -(-self.num_rows // self.chunk_rows)

    @property
    def shard(self) -> str:
        """The data file, relative to the array's folder."""
        return "/".join(["c", *["0"] * len(self.shape)])

    @property
    def file_bytes(self) -> int:
        """Length of the data file: whole chunks, 16 bytes of index a chunk, and its checksum."""
        return self.num_chunks * self.chunk_bytes + self.num_chunks * 16 + 4


def read_meta(root: Path, name: str = "") -> ArrayMeta:
    """Metadata of the array `root/name`. FormatError where it is not one of the layout above."""
    try:
        value = read_json(inside(root, f"{name}/zarr.json" if name else "zarr.json"))
    except FormatError:
        raise
    except (OSError, ValueError) as error:
        raise FormatError(f"{root / name}: not an array of a graph store ({error})") from error
    return parse_meta(value, root / name)


def parse_meta(meta: Any, folder: Path) -> ArrayMeta:
    """Metadata from the value of a zarr.json; FormatError names `folder`."""
    try:
        shape, data_type = meta["shape"], meta["data_type"]
        (shard_codec,) = meta["codecs"]
        config = shard_codec["configuration"]
        chunk = config["chunk_shape"]
        numbers = [*shape, *chunk]
        if len(shape) not in (1, 2) or len(chunk) != len(shape) or data_type not in DTYPES:
            raise ValueError(f"shape {shape}, type {data_type}")
        if any(type(n) is not int or not 0 <= n < _MAX_LENGTH for n in numbers) or chunk[0] < 1:
            raise ValueError(f"shape {shape}, chunks {chunk}")
        row_bytes = np.dtype(data_type).itemsize * math.prod(shape[1:])
        if chunk[0] * row_bytes > MAX_CHUNK_BYTES:
            raise ValueError(f"chunks of {chunk[0] * row_bytes:,} bytes, expected about 1 MB")
        contiguous = (
            shard_codec["name"] == "sharding_indexed"
            and [c["name"] for c in config["codecs"]] == ["bytes"]
            and config["index_location"] == "end"
            and chunk[1:] == shape[1:]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{folder}: not an array of a graph store ({error})") from error
    if not contiguous:
        raise FormatError(f"{folder}: found another chunk layout, expected one uncompressed shard")
    return ArrayMeta(tuple(shape), np.dtype(data_type).newbyteorder("<"), chunk[0])


def _data_file(root: Path, name: str, meta: ArrayMeta) -> Path:
    path = inside(root, f"{name}/{meta.shard}" if name else meta.shard)
    num_bytes = path.stat().st_size
    if num_bytes != meta.file_bytes:
        raise FormatError(
            f"{path}: found {num_bytes} bytes, expected {meta.file_bytes}; the store must be built again"
        )
    return path


def map_array(root: Path, name: str = "") -> np.ndarray:
    """Map the array `root/name` of the layout above, read-only: shape [N] or [N, D], no copy.

    Raises FormatError when the metadata or the file's size is not of that layout, and for links.
    """
    meta = read_meta(root, name)
    if 0 in meta.shape:
        return np.empty(meta.shape, meta.dtype)
    return np.memmap(_data_file(root, name, meta), dtype=meta.dtype, mode="r", shape=meta.shape)


def read_blocks(
    root: Path, name: str, block_bytes: int = BLOCK_BYTES, overlap: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """An array front to back: (first row, rows) of about `block_bytes`, each with `overlap` more rows.

    By reads, since mapped pages count as resident memory. Raises FormatError as `map_array` does.
    """
    meta = read_meta(root, name)
    if 0 in meta.shape:
        return
    path = _data_file(root, name, meta)
    step = max(1, block_bytes // meta.row_bytes)
    for first in range(0, meta.num_rows, step):
        num = min(step + overlap, meta.num_rows - first)
        values = np.fromfile(path, meta.dtype, num * math.prod(meta.shape[1:]), offset=first * meta.row_bytes)
        yield first, values.reshape(num, *meta.shape[1:])


def _chunk_rows(num_rows: int, row_bytes: int) -> int:
    """Rows in an inner chunk: about 1 MB, never more than the array has, at least one."""
    return max(1, min(num_rows, CHUNK_BYTES // max(1, row_bytes)))


class ArrayWriter:
    """Writes an array front to back; its length need not be known beforehand.

    Memory does not grow with the array: rows go straight to the file. The metadata is written by
    `close`, so an array that was not closed is not one that Zarr (or `map_array`) sees.
    """

    def __init__(
        self, root: Path, name: str, dtype: Any, width: int | None = None, *, after: Path | None = None
    ) -> None:
        """`after`: a store whose array of this name is what the new one begins with."""
        self.root, self.name = root, name
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.width = width
        self.num_rows = 0
        self._folder = root / name
        self._folder.mkdir(parents=True, exist_ok=True)
        self._data = self._folder / "data.tmp"
        self._file = self._data.open("wb")
        if after is not None:
            self._copy(after)

    def _copy(self, after: Path) -> None:
        meta = read_meta(after, self.name)
        if (meta.dtype, meta.width) != (self.dtype, self.width):
            raise FormatError(
                f"{after / self.name}: found {meta.dtype} [{meta.width}], "
                f"expected {self.dtype} [{self.width}]"
            )
        for _, rows in read_blocks(after, self.name, _COPY_BYTES):
            self.append(rows)

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


class StringWriter:
    """UTF-8 strings as two arrays: `NAME` (bytes) and `NAME_offset` ([N + 1] int64)."""

    def __init__(self, root: Path, name: str, *, after: Path | None = None) -> None:
        self._bytes = ArrayWriter(root, name, np.uint8, after=after)
        self._offset = ArrayWriter(root, f"{name}_offset", np.int64, after=after)
        if after is None:
            self._offset.append(np.zeros(1, np.int64))

    def append(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        if encoded:
            length = np.array([len(text) for text in encoded], np.int64)
            self._offset.append(self._bytes.num_rows + np.cumsum(length))
            self._bytes.append(np.frombuffer(b"".join(encoded), np.uint8))

    def close(self) -> None:
        self._bytes.close()
        self._offset.close()


class Texts(Sequence[str]):
    """Texts that are made one by one, by `at`."""

    def at(self, index: int) -> str:
        raise NotImplementedError

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self.at(i) for i in range(*index.indices(len(self)))]
        return self.at(index)


class Strings(Texts):
    """A read-only sequence of strings over the two arrays of `StringWriter`.

    Raises FormatError for offsets that fall or point outside.
    """

    def __init__(self, data: np.ndarray, offset: np.ndarray) -> None:
        if data.dtype != np.uint8 or offset.dtype != np.int64 or data.ndim != 1 or offset.ndim != 1:
            raise FormatError(f"texts: found {data.dtype} and {offset.dtype}, expected uint8 and int64")
        if not len(offset) or offset[0] != 0 or offset[-1] != len(data) or (offset[1:] < offset[:-1]).any():
            raise FormatError("texts: found offsets that fall or point outside; build the store again")
        self._data, self._offset = data, offset

    def __len__(self) -> int:
        return len(self._offset) - 1

    def to_arrow(self) -> Any:
        """The same as an Arrow array over the same memory; that it is UTF-8 is not checked."""
        import pyarrow as pa

        data, offset = (pa.py_buffer(np.ascontiguousarray(x)) for x in (self._data, self._offset))
        return pa.LargeStringArray.from_buffers(len(self), offset, data)

    def at(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(index)
        try:
            return bytes(self._data[self._offset[index] : self._offset[index + 1]]).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"text {index}: not UTF-8 ({error.reason}); build the store again") from None
