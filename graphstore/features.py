"""Raw features of nodes: scalars, times, texts and videos as vectors, one row per distinct content.

Legend: N nodes, n rows of a table, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import NodeType

Values = Sequence[Any] | np.ndarray
"""A column's values, one a row."""
DAY_S = 86_400
KEY_BYTES = 16
TIME_EPOCH_S = 1_704_038_400.0
"""2024-01-01 00:00 in China, where time encodings start: small phases keep float64 exact enough."""


def content_key(content: str | bytes) -> bytes:
    """What a content's row is found by: BLAKE2b of its (UTF-8) bytes, KEY_BYTES long."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


def encode_scalar(values: np.ndarray) -> np.ndarray:
    """log(1 + n) of non-negative numbers: [N] → [N, 1] float32."""
    return np.log1p(values.astype(np.float64)).astype(np.float32)[:, None]


def within_float32(values: np.ndarray) -> np.ndarray:
    """Numbers, those that float32 has no place for as its greatest; NaN stays."""
    most = float(np.finfo(np.float32).max)
    return np.clip(values, -most, most)


def encode_numbers(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Numbers that are no counts, NaN where one is not known: k columns [N] → [N, 3k] float32.

    Of each the value, sign(v) log(1 + |v|), and 1; where it is not known three zeros. What float32 has no
    place for is its greatest number.
    """
    values = within_float32(np.stack([np.asarray(column, np.float64) for column in columns], axis=1))
    known = ~np.isnan(values)
    values = np.where(known, values, 0.0)
    logs = np.sign(values) * np.log1p(np.abs(values))
    return np.stack([values, logs, known], axis=2).reshape(len(values), -1).astype(np.float32)


def encode_time(seconds: np.ndarray, dim: int) -> np.ndarray:
    """Sinusoidal encoding of times: [N] int64 seconds since 1970 → [N, dim] float32.

    sin and cos of 2π t / P for dim / 2 periods P, in geometric steps from 1 to 4,096 days ("Attention
    Is All You Need", section 3.5, with periods in place of wavelengths): the hour of the day shows in
    the shortest, months and years in the longest.
    """
    if dim < 4 or dim % 2:
        raise StoreError(f"time dim: found {dim}, expected an even number from 4")
    periods = DAY_S * np.geomspace(1.0, 4096.0, dim // 2)
    phase = 2 * np.pi * (seconds.astype(np.float64) - TIME_EPOCH_S)[:, None] / periods
    return np.concatenate([np.sin(phase), np.cos(phase)], axis=1).astype(np.float32)


class TextEncoder(Protocol):
    """Turns strings into vectors. The same string gives the same vector whatever it is encoded with."""

    name: str  # recorded in the store; equal names mean equal vectors
    dim: int

    def encode(self, texts: list[str]) -> np.ndarray:
        """[n] strings → [n, dim] float16."""
        ...


class VideoEncoder(Protocol):
    """Turns videos into vectors, by their address."""

    name: str  # recorded in the store; equal names mean equal vectors
    dim: int

    def has(self, url: str) -> bool:
        """Whether there is a vector; a video without one has zeros."""
        ...

    def encode(self, urls: list[str]) -> np.ndarray:
        """[n] addresses of videos that have a vector → [n, dim] float16."""
        ...


def inputs_of(node: NodeType, table: NodeType, columns: Mapping[str, Values]) -> list[Values]:
    """What a type's features are made of: its columns of rows of a table.

    A video goes by its address. Rows without one have nothing in common: they go by their own ids.
    """
    inputs = [columns[name] for name in node.inputs]
    ids = next((columns[column.name] for column in table.columns if column.kind == "id"), None)
    if node.encoding == "video" and ids is not None:
        pairs = zip(inputs[0], ids, strict=True)
        return [[str(address) or f"(no address) {row}" for address, row in pairs]]
    return inputs


class NoVideos:
    """For records without videos: every state has the zero vector."""

    def __init__(self, dim: int) -> None:
        self.name, self.dim = f"none-{dim}", dim

    def has(self, url: str) -> bool:
        return False

    def encode(self, urls: list[str]) -> np.ndarray:
        return np.zeros((len(urls), self.dim), np.float16)


class HashEncoder:
    """Hashed character n-grams (1 to 3): deterministic, offline, for any language.

    Each n-gram adds ±1 to one of `dim` places (MurmurHash3, the sign from the hash), and the vector is
    scaled to length 1 (Weinberger et al., "Feature Hashing for Large Scale Multitask Learning").
    """

    def __init__(self, dim: int) -> None:
        # Imported here: it takes a second, and readers of a store do not need it
        from sklearn.feature_extraction.text import HashingVectorizer

        self.name, self.dim = f"hash-1-3-{dim}", dim
        self._vectorizer = HashingVectorizer(
            analyzer="char", ngram_range=(1, 3), n_features=dim, lowercase=False, norm="l2"
        )

    def encode(self, texts: list[str]) -> np.ndarray:
        if not texts:
            return np.zeros((0, self.dim), np.float16)
        return self._vectorizer.transform(texts).toarray().astype(np.float16)


def text_encoder(name: str) -> TextEncoder:
    """The encoder that a store's attributes or a command name: today `hash-1-3-DIM`, `hash:DIM` or `hash`."""
    kind, _, dim = name.replace("hash-1-3-", "hash:").partition(":")
    if kind == "hash" and (dim.isdigit() or not dim) and int(dim or 256) >= 8:
        return HashEncoder(int(dim or 256))
    raise StoreError(f"text encoder: found {name!r}, expected hash or hash:DIM with DIM from 8")


@dataclass(frozen=True)
class Encoders:
    """What makes vectors of contents."""

    text: TextEncoder | None
    video: VideoEncoder | None
    time_dim: int

    def shape(self, node: NodeType) -> tuple[Any, int]:
        """Type and width of a node type's features; of given ones the data alone say it."""
        match node.encoding:
            case "text":
                return np.float16, self._text.dim
            case "time":
                return np.float32, self.time_dim
            case "scalar":
                return np.float32, 1
            case "numbers":
                return np.float32, 3 * len(node.inputs)
            case "video":
                return np.float16, self._video.dim
            case "text_time":
                return np.float16, self._text.dim + self.time_dim
        raise ValueError(f"{node.name}: no width of {node.encoding}")

    @property
    def _text(self) -> TextEncoder:
        assert self.text is not None
        return self.text

    @property
    def _video(self) -> VideoEncoder:
        assert self.video is not None
        return self.video

    def contents(self, node: NodeType, inputs: Sequence[Values]) -> list[bytes]:
        """What rows of a type of distinct features are told apart by; all videos without a vector are one."""
        (cells,) = inputs
        if node.encoding == "time":
            return [time.tobytes() for time in np.asarray(cells, np.int64)]
        if node.encoding == "video":
            return [key.encode() if self._video.has(key) else b"" for key in cells]
        return [text.encode() for text in cells]

    def vectors(self, node: NodeType, inputs: Sequence[Values]) -> np.ndarray:
        """Features of rows: [n, D], of the type and width of `shape`."""
        cells = inputs[0]
        match node.encoding:
            case "text":
                return self._text.encode(list(cells))
            case "time":
                return encode_time(np.asarray(cells, np.int64), self.time_dim)
            case "scalar":
                return encode_scalar(np.asarray(cells, np.float64))
            case "numbers":
                return encode_numbers([np.asarray(column, np.float64) for column in inputs])
            case "video":
                return self._videos(cells)
            case "text_time":
                times = encode_time(np.asarray(inputs[1], np.int64), self.time_dim)
                return np.concatenate([self._text.encode(list(cells)), times.astype(np.float16)], axis=1)
        return np.asarray(cells)

    def _videos(self, keys: Sequence[str] | np.ndarray) -> np.ndarray:
        """Vectors of videos by their keys, zeros where there is none: [n, D] float16."""
        x = np.zeros((len(keys), self._video.dim), np.float16)
        with_vector = [i for i, key in enumerate(keys) if self._video.has(key)]
        x[with_vector] = self._video.encode([keys[i] for i in with_vector])
        return x


class Features:
    """The features of one node type over mapped arrays: `x` [rows, D], `x_row` [N] or identity."""

    def __init__(self, num_nodes: int, x: np.ndarray, x_row: np.ndarray | None) -> None:
        self.num_nodes, self.x, self.x_row = num_nodes, x, x_row

    @property
    def dim(self) -> int:
        return int(self.x.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.x.dtype

    @property
    def num_rows(self) -> int:
        return len(self.x)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Row of `x` of each node: [n] node numbers → [n] rows."""
        return ids if self.x_row is None else self.x_row[ids]

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Rows of `x` [n] → [n, D], a copy."""
        return self.x[rows]

    def gather(self, ids: np.ndarray) -> np.ndarray:
        """[n] node numbers → [n, D], a copy."""
        return self.take(self.rows(ids))
