"""Vectors of distinct contents, made once by an encoder, and found again by content.

    DIR/text/encoder.json                   name of the encoder, width of its vectors
    DIR/text/parts/NAME/key                 hashes of the contents [n, 16] uint8
                        {status, stamp}     why a content has no vector [n] int8, and of which file [n] int64
                        x                   vectors of those that have one, in order [m, D] float16
    DIR/video/…                             the same of videos

A content is a text, or the address of a video. Parts are written whole by rename and never changed, by any
number of processes: what was encoded before a crash, or for other records, stays. Of a content that is in
several parts one with a vector counts, else the newest. All vectors of a kind are one encoder's: another
one is refused.

Legend: n contents, m of them with a vector, D width.
"""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from netgpt.graphstore.arrays import map_array, write_array
from netgpt.graphstore.dataset import Source
from netgpt.graphstore.errors import FormatError, StoreError
from netgpt.graphstore.features import (
    KEY_BYTES,
    NoVideos,
    TextEncoder,
    VideoEncoder,
    content_key,
    inputs_of,
    text_encoder,
)
from netgpt.graphstore.files import atomic_dir, read_json, write_json

FORMAT, VERSION = "netgpt-features", 1
KINDS = ("text", "video")
_MAPPED_PARTS = 64
"""Parts of a folder that are open at once."""
OK = 0
"""Status of a content that has a vector; others are reasons of the kind's encoder."""


def _read_encoder(root: Path, kind: str) -> tuple[str, int] | None:
    """(name, width) of the encoder of a kind's vectors; None where there are none. FormatError for what is
    something else."""
    path = root / kind / "encoder.json"
    try:
        encoder = read_json(path)
        if (encoder["format"], encoder["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {encoder['format']!r} version {encoder['version']!r}")
        return str(encoder["encoder"]), int(encoder["dim"])
    except FileNotFoundError:
        return None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise FormatError(f"{path}: not of a feature folder ({error})") from error


class FeatureTable:
    """All vectors of one kind that are there when it is opened."""

    def __init__(self, root: Path, kind: str) -> None:
        """FormatError where the folder holds something else; StoreError where it holds nothing."""
        self.root, self.kind = root / kind, kind
        encoder = _read_encoder(root, kind)
        if encoder is None:
            raise StoreError(
                f"{root}: found no {kind} features; make them: netgpt features RECORDS --out {root} --{kind} "
                "MODEL"
            )
        self.name, self.dim = encoder
        self._read_parts()

    @staticmethod
    def create(root: Path, kind: str, name: str, dim: int) -> FeatureTable:
        """The table of an encoder, new or as it is, for a caller that holds the folder: what killed writers
        left is removed. StoreError where it is another encoder's."""
        path, parts = root / kind / "encoder.json", root / kind / "parts"
        for left in parts.glob(".*.tmp"):
            shutil.rmtree(left, ignore_errors=True)
        if not path.exists() or not any(parts.glob("[!.]*")):  # of an attempt that came to nothing
            write_json(path, {"format": FORMAT, "version": VERSION, "encoder": name, "dim": dim})
        table = FeatureTable(root, kind)
        if table.name != name:
            raise StoreError(
                f"{table.root}: found {kind} features of {table.name}, expected those of {name}: vectors "
                "of two encoders do not go together; use another folder"
            )
        if table.dim != dim:
            raise StoreError(f"{path}: found vectors of width {table.dim}, expected {dim} of {name}")
        return table

    def _read_parts(self) -> None:
        self._x: list[Path] = []
        self._mapped: dict[int, np.ndarray] = {}
        self._place: dict[bytes, tuple[int, int]] = {}
        self._failed: dict[bytes, tuple[int, int]] = {}
        parts = (self.root / "parts").glob("[!.]*")
        for part in sorted(parts, key=lambda p: (p.stat().st_mtime_ns, p.name)):
            x, key = map_array(part, "x"), map_array(part, "key")
            status, stamp = np.asarray(map_array(part, "status")), np.asarray(map_array(part, "stamp"))
            num, known = len(key), status == OK
            shapes = [array.shape for array in (x, key, status, stamp)]
            if shapes != [(int(known.sum()), self.dim), (num, KEY_BYTES), (num,), (num,)]:
                raise FormatError(
                    f"{part}: found vectors {list(x.shape)} with keys {list(key.shape)}, expected vectors of "
                    f"width {self.dim}, a key each; remove it and run netgpt features again"
                )
            self._x.append(part)
            rows = np.cumsum(known) - 1
            for i, one in enumerate(np.asarray(key)):
                content = one.tobytes()
                if known[i]:
                    self._place[content] = (len(self._x) - 1, int(rows[i]))
                    self._failed.pop(content, None)
                elif content not in self._place:
                    self._failed[content] = (int(status[i]), int(stamp[i]))

    def __len__(self) -> int:
        """Contents that were tried."""
        return len(self._place) + len(self._failed)

    def status(self, key: bytes) -> int | None:
        """Why a content has no vector; OK where it has one, None where it was never encoded."""
        if key in self._place:
            return OK
        return self._failed[key][0] if key in self._failed else None

    def stamp(self, key: bytes) -> int:
        """The stamp of the file that had no vector, for a content without one."""
        return self._failed[key][1]

    def gather(self, keys: Sequence[bytes]) -> np.ndarray:
        """Vectors of contents that have one: [n, D] float16. KeyError for others."""
        x = np.empty((len(keys), self.dim), np.float16)
        for i, key in enumerate(keys):
            part, row = self._place[key]
            x[i] = self._vectors(part)[row]
        return x

    def _vectors(self, part: int) -> np.ndarray:
        """A part's vectors [m, D], mapped: of parts without number those that were asked for last."""
        if part not in self._mapped:
            if len(self._mapped) == _MAPPED_PARTS:
                self._mapped.clear()
            self._mapped[part] = map_array(self._x[part], "x")
        return self._mapped[part]


def write_part(
    folder: Path,
    keys: Sequence[bytes],
    x: np.ndarray,
    status: np.ndarray | None = None,
    stamp: np.ndarray | None = None,
) -> None:
    """Add n contents to a kind's folder: x [m, D] of those with a vector; status and stamp [n] where some
    have none."""
    name = hashlib.sha256(b"".join(keys)).hexdigest()[:16]
    with atomic_dir(folder / "parts" / f"{name}-{uuid.uuid4().hex[:8]}") as made:
        write_array(made, "x", x.astype(np.float16))
        write_array(made, "key", np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), KEY_BYTES))
        write_array(made, "status", np.zeros(len(keys), np.int8) if status is None else status)
        write_array(made, "stamp", np.zeros(len(keys), np.int64) if stamp is None else stamp)


def folder_encoders(folder: Path | None) -> dict[str, str]:
    """Names of the encoders whose vectors a folder has, by kind; none without a folder."""
    if folder is None:
        return {}
    encoders = {kind: _read_encoder(folder, kind) for kind in KINDS}
    return {kind: encoder[0] for kind, encoder in encoders.items() if encoder is not None}


def choose_encoders(
    encoder: str | None, video_dim: int | None, folder: Path | None
) -> tuple[TextEncoder | None, VideoEncoder | None]:
    """The text and the video encoder of a store: those of a folder of features, where it has some; else
    the text encoder of a name, and no videos. None for a kind that the store has none of."""
    if folder is None:
        cached = {}
    elif not (cached := {kind: FeatureTable(folder, kind) for kind in folder_encoders(folder)}):
        raise StoreError(f"{folder}: found no features; make them: netgpt features RECORDS --out {folder}")
    text: TextEncoder | None = None
    video: VideoEncoder | None = None
    if encoder is not None:
        text = CachedText(cached["text"]) if "text" in cached else text_encoder(encoder)
    if video_dim is not None:
        video = CachedVideos(cached["video"]) if "video" in cached else NoVideos(video_dim)
    return text, video


class CachedText:
    """Vectors of texts from a folder of features: a `TextEncoder` that computes nothing."""

    def __init__(self, table: FeatureTable) -> None:
        self._table = table
        self.name, self.dim = table.name, table.dim

    def encode(self, texts: list[str]) -> np.ndarray:
        """[n] strings → [n, dim] float16. StoreError for a text that was never encoded."""
        keys = [content_key(text) for text in texts]
        for key, text in zip(keys, texts, strict=True):
            if self._table.status(key) is None:
                shown = text if len(text) <= 40 else text[:37] + "..."
                raise StoreError(
                    f"{self._table.root}: found no vector of the text {shown!r}, expected all texts of these "
                    f"records; run: netgpt features RECORDS --out {self._table.root.parent} --text MODEL"
                )
        return self._table.gather(keys)


class CachedVideos:
    """Vectors of videos from a folder of features, by address."""

    def __init__(self, table: FeatureTable) -> None:
        self._table = table
        self.name, self.dim = table.name, table.dim

    def has(self, url: str) -> bool:
        """Whether the video at an address has a vector; else it gets zeros. StoreError where nobody tried."""
        status = self._table.status(content_key(url))
        if status is None:
            raise StoreError(
                f"{self._table.root}: found nothing of the video {url}, expected all videos of these "
                f"records; run: netgpt features RECORDS --out {self._table.root.parent} --video MODEL "
                "--videos DIR"
            )
        return status == OK

    def encode(self, urls: list[str]) -> np.ndarray:
        """[n] addresses that have a vector → [n, dim] float16."""
        return self._table.gather([content_key(url) for url in urls])


@dataclass
class Contents:
    """What the rows of a source have to encode: each distinct text and each video once."""

    texts: dict[str, None] = field(default_factory=dict)
    """Distinct texts of all kinds, in the order of the blocks."""
    videos: dict[str, list[str]] = field(default_factory=dict)
    """Key of each video (see `inputs_of`) → ids of the nodes that have it; their numbers without ids."""
    num_texts: int = 0
    num_states: int = 0
    """Rows of the target type."""


def contents_of(source: Source, progress: Callable[[int], None] | None = None) -> Contents:
    """Texts and videos that the schema makes features of, in all rows of a source.

    progress: told how many rows were read since it was told last.
    """
    contents, schema = Contents(), source.schema
    for block in source.blocks():
        columns = block.columns
        for node in schema.node_types:
            if node.table != block.table:
                continue
            if node.encoding in ("text", "text_time"):
                of_values = node.origin == "values"
                cells = columns[node.column if of_values else node.inputs[0]]
                texts = [text for text in cells if text] if of_values else list(cells)
                contents.texts.update(dict.fromkeys(texts))
                contents.num_texts += len(texts)
            elif node.encoding == "video":
                table, first = schema.node_type(node.table), contents.num_states
                named = [c.name for c in table.columns if c.kind == "id"]
                ids = columns[named[0]] if named else map(str, range(first, first + len(block)))
                (keys,) = inputs_of(node, table, columns)
                for key, row in zip(keys, ids, strict=True):
                    contents.videos.setdefault(key, []).append(row)
        if block.table == schema.target:
            contents.num_states += len(block)
        if progress is not None:
            progress(len(block))
    return contents
