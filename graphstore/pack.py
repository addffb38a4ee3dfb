"""The cold form of a store, for shipping: the same Zarr group, compressed, in shards of some 64 MB.

Whole numbers are kept as differences and compressed with Zstandard, floats with Blosc (bit shuffle,
Zstandard), all through Zarr's own codecs, so that any zarr-python reads a packed store as it is.
PACK.json, written last, holds the store's seal and metadata, and the digests of the packed files; so
`unpack` gives back the very bytes that were packed, whatever version of Zarr unpacks them.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs import blosc, zstd
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.codecs.numcodecs import Delta
from zarr.errors import ZarrUserWarning

from netgpt.graphstore.arrays import ArrayMeta, ArrayWriter, parse_meta, read_blocks, read_meta
from netgpt.graphstore.errors import FormatError
from netgpt.graphstore.files import atomic_dir, file_digest, inside, read_json, refuse_existing, write_json
from netgpt.graphstore.schema import NAME
from netgpt.graphstore.seal import (
    PACK,
    SEAL,
    Seal,
    array_of,
    check_sizes,
    file_problems,
    parse_seal,
    read_seal,
    require_file,
    seal_value,
    store_files,
)
from netgpt.graphstore.verify import OnProgress

PACK_FORMAT, PACK_VERSION = "netgpt-graph-pack", 1
SHARD_BYTES = 1 << 26
_THREADS = 4
_MAX_NAME, _MAX_DEPTH = 200, 16


def pack(store: Path | str, out: Path | str, progress: OnProgress | None = None) -> None:
    """Compress the sealed store `store` into the new folder `out`.

    Every file is checked against the seal first. Raises FormatError for a store that is not whole,
    StoreError where `out` is taken; then nothing is left at `out`.
    """
    store, out = Path(store), Path(out)
    refuse_existing(out, store)
    seal = read_seal(store)
    check_sizes(store, seal)
    metadata = {}
    sizes = {name: inside(store, name).stat().st_size for name in seal.files}
    done, total = 0, sum(sizes.values())
    with atomic_dir(out) as root:
        zarr.create_group(str(root), attributes={"format": PACK_FORMAT, "version": PACK_VERSION})
        for name in seal.files:
            require_file(store, name, seal)
            if name.endswith("zarr.json"):
                metadata[name] = inside(store, name).read_bytes().decode(errors="replace")
            else:
                _pack_array(store, root, array_of(name))
            done += sizes[name]
            if progress:
                progress(done, total)
        for name, text in metadata.items():  # arrays of no rows have metadata alone
            if not (root / name).exists() and _parse(store, name, text)["node_type"] == "array":
                _pack_array(store, root, array_of(name))
        files = {name: file_digest(root / name) for name in store_files(root)}
        value = {
            "format": PACK_FORMAT,
            "version": PACK_VERSION,
            "seal": seal_value(seal),
            "metadata": metadata,
            "files": files,
        }
        write_json(root / PACK, value)


def _pack_array(store: Path, root: Path, name: str) -> None:
    meta = read_meta(store, name)
    width = meta.shape[1:]
    shard_chunks = max(1, min(SHARD_BYTES // max(1, meta.chunk_bytes), meta.num_chunks))
    integer = meta.dtype.kind in "iu"
    with warnings.catch_warnings():  # Delta is not in the specification
        warnings.simplefilter("ignore", ZarrUserWarning)
        array = zarr.create_array(
            str(root),
            name=name,
            shape=meta.shape,
            chunks=(meta.chunk_rows, *width),
            shards=(shard_chunks * meta.chunk_rows, *width),
            dtype=meta.dtype,
            filters=[Delta(dtype=meta.dtype.str)] if integer else None,  # type: ignore[list-item]
            compressors=[ZstdCodec(level=3) if integer else BloscCodec(cname="zstd", shuffle="bitshuffle")],
            fill_value=0,
            config={"write_empty_chunks": True},
        )
    shard_bytes = shard_chunks * meta.chunk_bytes
    for first, rows in read_blocks(store, name, shard_bytes):
        array[first : first + len(rows)] = rows


def unpack(source: Path | str, out: Path | str, progress: OnProgress | None = None) -> None:
    """Restore the store that was packed into the folder `source` at `out`, byte for byte.

    Nothing of a damaged or hostile pack is trusted: names stay inside the folders, chunks decode into
    buffers of the length that the metadata gives, and the result must match the seal. Raises FormatError
    with the array's name, StoreError where `out` is taken; then nothing is left at `out`.
    """
    source, out = Path(source), Path(out)
    refuse_existing(out, source)
    seal, metadata = _read_pack(source)
    with atomic_dir(out) as root:
        for done, (name, text) in enumerate(metadata.items()):
            value = _parse(source, name, text)
            if value["node_type"] == "array":
                _unpack_array(source, root, array_of(name), parse_meta(value, source / array_of(name)))
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
            if progress:
                progress(done + 1, len(metadata))
        write_json(root / SEAL, seal_value(seal))
        files = store_files(root)
        for name in sorted({*files, *seal.files}):
            if name not in seal.files or (problem := file_problems(root, name, seal)):
                raise FormatError(f"{source}: {array_of(name)}: not as it was packed: {problem[0]}")


def _parse(where: Path, name: str, text: str) -> dict[str, Any]:
    """The value of an array's or group's zarr.json."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: {array_of(name)}: damaged metadata ({error})") from None
    if not isinstance(value, dict) or "node_type" not in value:
        raise FormatError(f"{where}: {array_of(name)}: damaged metadata (of no array and no group)")
    return value


def _read_pack(source: Path) -> tuple[Seal, dict[str, str]]:
    """The seal and the metadata of a pack whose files are all right."""
    if not (source / PACK).exists():
        raise FormatError(
            f"{source}: no {PACK}, so not a packed store; make one with: netgpt pack STORE --out DIR"
        )
    try:
        value = read_json(inside(source, PACK))
        if value["format"] != PACK_FORMAT or value["version"] != PACK_VERSION:
            found = (value["format"], value["version"])
            raise FormatError(f"{source}: found format {found}, expected {(PACK_FORMAT, PACK_VERSION)}")
        files = {str(name): str(digest) for name, digest in value["files"].items()}
        metadata = {str(name): str(text) for name, text in value["metadata"].items()}
        for text in metadata.values():
            text.encode()  # a lone surrogate cannot be written
        seal = parse_seal(value["seal"], source / PACK)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{source / PACK}: damaged ({error}); pack the store again") from None
    _check_names(source / PACK, {*metadata, *seal.files}, set(metadata))
    for name, digest in files.items():
        if file_digest(inside(source, name)) != digest:
            raise FormatError(f"{source}: {array_of(name)}: file {name} is damaged (its digest differs)")
    for name in store_files(source):
        if name not in files and name != PACK:
            raise FormatError(f"{source}: {name}: not part of the packed store")
    return seal, metadata


def _check_names(where: Path, names: set[str], metadata: set[str]) -> None:
    """Names stay inside the folder, and none is a folder of another."""
    folders = {SEAL, *names}
    for name in names:
        parts = name.split("/")
        wrong = not all(NAME.fullmatch(part) and len(part) <= _MAX_NAME for part in parts)
        wrong |= len(parts) > _MAX_DEPTH or (name in metadata and parts[-1] != "zarr.json")
        wrong |= any("/".join(parts[:i]) in folders for i in range(1, len(parts)))
        if wrong:
            raise FormatError(f"{where}: found the file name {name[:100]!r}, expected one of a store")


def _unpack_array(source: Path, root: Path, name: str, meta: ArrayMeta) -> None:
    try:
        packed = read_json(inside(source, f"{name}/zarr.json"))
        (shard_rows, *_) = packed["chunk_grid"]["configuration"]["chunk_shape"]
        codecs = [codec["name"] for codec in packed["codecs"][0]["configuration"]["codecs"]]
        same = (
            packed["shape"] == list(meta.shape)
            and packed["codecs"][0]["configuration"]["chunk_shape"] == [meta.chunk_rows, *meta.shape[1:]]
            and codecs == _codecs(meta)
            and shard_rows % meta.chunk_rows == 0
            and 0 < shard_rows * meta.row_bytes <= 2 * max(SHARD_BYTES, meta.chunk_bytes)
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{source}: {name}: damaged metadata ({error})") from None
    if not same:
        raise FormatError(
            f"{source}: {name}: found another shape or other codecs than those of a packed store"
        )
    with (
        ThreadPoolExecutor(_THREADS) as threads,
        ArrayWriter(root, name, meta.dtype, meta.width) as writer,
    ):
        for shard in range(-(-meta.num_rows // shard_rows)):
            path = inside(source, "/".join([name, "c", str(shard), *["0"] * (len(meta.shape) - 1)]))
            num_rows = min(shard_rows, meta.num_rows - shard * shard_rows)
            blobs = _chunks(path, shard_rows // meta.chunk_rows, -(-num_rows // meta.chunk_rows), meta)
            rows = np.concatenate(list(threads.map(partial(_decoded, path, meta), blobs)))
            writer.append(rows[:num_rows])


def _codecs(meta: ArrayMeta) -> list[str]:
    return ["numcodecs.delta", "bytes", "zstd"] if meta.dtype.kind in "iu" else ["bytes", "blosc"]


def _chunks(path: Path, num_chunks: int, num_wanted: int, meta: ArrayMeta) -> Iterator[bytes]:
    """The first compressed chunks of a shard, by its index at the end (offset and length, then CRC32C)."""
    most = 2 * num_chunks * (meta.chunk_bytes + 1024)
    if (size := path.stat().st_size) > most:
        raise FormatError(f"{path}: found {size:,} bytes, expected at most {most:,}")
    data = path.read_bytes()
    index_bytes = num_chunks * 16
    index = data[-index_bytes - 4 : -4]
    if len(index) != index_bytes or google_crc32c.value(index) != int.from_bytes(data[-4:], "little"):
        raise FormatError(f"{path}: damaged shard index")
    for offset, length in np.frombuffer(index, "<u8").reshape(-1, 2)[:num_wanted].tolist():
        if offset + length > len(data):
            raise FormatError(f"{path}: chunk outside the shard")
        yield data[offset : offset + length]


def _decoded(path: Path, meta: ArrayMeta, blob: bytes) -> np.ndarray:
    """One chunk's rows. The buffer is ours, so that a lying frame cannot ask for more."""
    out = np.empty((meta.chunk_rows, *meta.shape[1:]), meta.dtype)
    try:
        if meta.dtype.kind in "iu":
            zstd.decompress(blob, out)
            flat = out.reshape(-1)  # differences run in memory order, whatever the shape
            np.cumsum(flat, dtype=flat.dtype, out=flat)
        else:
            # Blosc is told no length: its header must say those of the two buffers
            header = struct.unpack("<III", blob[4:16]) if len(blob) >= 16 else (0, 0, 0)
            if (header[0], header[2]) != (out.nbytes, len(blob)):
                raise ValueError("a header of another length")
            blosc.decompress(blob, out)
    except (RuntimeError, ValueError) as error:
        raise FormatError(f"{path}: chunk cannot be decompressed ({error})") from None
    return out
