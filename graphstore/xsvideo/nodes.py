"""Node arrays of a store, written as records stream by; after another store's where one is given.

Legend: N states (video nodes), C comments, n records of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from netgpt.graphstore.arrays import ArrayWriter, StringWriter
from netgpt.graphstore.errors import FormatError, StoreError
from netgpt.graphstore.features import (
    KEY_BYTES,
    TextEncoder,
    VideoEncoder,
    content_key,
    encode_scalar,
    encode_time,
)
from netgpt.graphstore.store import RECORD_KEYS as KEYS
from netgpt.graphstore.store import VIDEO_COLUMNS, Store
from netgpt.graphstore.xsvideo.records import Record
from netgpt.graphstore.xsvideo.schema import PER_STATE, SCALARS

BATCH_RECORDS = 1024

T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`itertools.batched`, which Python 3.11 does not have."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


class Vocabulary:
    """Strings to codes in order of first use; the empty string is no group (−1)."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.codes = {value: code for code, value in enumerate(values)}
        self._num_given = len(self.codes)

    @property
    def new(self) -> list[str]:
        """Values that were not given, in order of first use."""
        return list(islice(self.codes, self._num_given, None))

    def code(self, value: str) -> int:
        return self.codes.setdefault(value, len(self.codes)) if value else -1


class RecordColumns:
    """Typed columns of a batch of records, shared by the builder and by `extend`."""

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records

    def scalar(self, name: str) -> np.ndarray:
        """Raw values [n] of a scalar node type."""
        if name == "video_time":
            return np.array([r.duration_s for r in self.records], np.float64)
        return np.array([r.counts[name] for r in self.records], np.float64)

    def int64(self, get: Callable[[Record], int]) -> np.ndarray:
        return np.array([get(r) for r in self.records], np.int64)


def comment_features(records: Iterable[Record], text: TextEncoder, time_dim: int) -> np.ndarray:
    """Text feature followed by time feature of all comments, in order: [C, text.dim + time_dim] float16."""
    comments = [c for r in records for c in r.comments]
    times = encode_time(np.array([c.time for c in comments], np.int64), time_dim)
    return np.concatenate([text.encode([c.text for c in comments]), times.astype(np.float16)], axis=1)


def video_features(urls: Sequence[str], video: VideoEncoder) -> np.ndarray:
    """Vectors of the videos at some addresses, zeros where there is none: [n, video.dim] float16."""
    x = np.zeros((len(urls), video.dim), np.float16)
    known = [i for i, url in enumerate(urls) if video.has(url)]
    x[known] = video.encode([urls[i] for i in known])
    return x


def require_encoders(store: Store, text: str, video: str | None) -> None:
    """StoreError where a store's vectors are of other encoders than those of these names.

    video: None where there are no new videos; zeros go with any encoder.
    """
    for kind, name in (("text", text), ("video", video)):
        found = store.attributes["encoders"][kind]
        if name is not None and found != name:
            raise StoreError(
                f"{store.path}: found {kind} features of {found}, expected those of {name}: vectors of two "
                "encoders do not go together in one array"
            )


class _DistinctRows:
    """Feature rows stored once per distinct content, the row of every node, and the contents' hashes.

    The hashes (`x_key`) let a store that is appended to find its rows again.
    """

    def __init__(self, root: Path, node_type: str, dtype: Any, width: int, after: Store | None) -> None:
        path = after.path if after else None
        self._x = ArrayWriter(root, f"nodes/{node_type}/x", dtype, width, after=path)
        self._x_row = ArrayWriter(root, f"nodes/{node_type}/x_row", np.int32, after=path)
        self._x_key = ArrayWriter(root, f"nodes/{node_type}/x_key", np.uint8, KEY_BYTES, after=path)
        self._row_of: dict[bytes, int] = {}
        if after is not None:
            keys = np.asarray(after.array(f"nodes/{node_type}/x_key"))
            self._row_of = {key.tobytes(): row for row, key in enumerate(keys)}

    def append(self, contents: list[bytes], encode: Callable[[list[int]], np.ndarray]) -> None:
        """Add nodes by content; `encode` makes rows for the given positions of `contents`."""
        rows, new, keys = [], [], []
        for i, content in enumerate(contents):
            key = content_key(content)
            row = self._row_of.get(key)
            if row is None:
                row = self._row_of[key] = len(self._row_of)
                new.append(i)
                keys.append(key)
            rows.append(row)
        if new:
            self._x.append(encode(new))
            self._x_key.append(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES))
        self._x_row.append(np.array(rows, np.int32))

    def close(self) -> None:
        for writer in (self._x, self._x_row, self._x_key):
            writer.close()


class NodeWriters:
    """All node arrays of a store. `after`: the store whose nodes come first, built with the same settings."""

    def __init__(
        self,
        root: Path,
        *,
        text: TextEncoder,
        time_dim: int,
        video: VideoEncoder,
        train_until_s: int,
        after: Store | None = None,
    ) -> None:
        if after is not None and after.seal.version < 2:
            raise FormatError(
                f"{after.path}: found format version {after.seal.version}, expected 2 or later to append; "
                "build the store again from its records"
            )
        self.root, self.text, self.video, self.after = root, text, video, after
        self.time_dim, self.train_until_s = time_dim, train_until_s
        path = after.path if after else None
        self._column = {
            name: ArrayWriter(root, f"nodes/video/{name}", dtype, after=path)
            for name, dtype in VIDEO_COLUMNS.items()
        }
        self._strings = {
            name: StringWriter(root, f"nodes/video/{name}", after=path) for name in ("id", "text")
        }
        self._codes = {
            name: ArrayWriter(root, f"nodes/video/keys/{name}/code", np.int32, after=path) for name in KEYS
        }
        self._distinct = {
            name: _DistinctRows(root, name, dtype, width, after)
            for name, dtype, width in (
                ("video", np.float16, video.dim),
                ("title", np.float16, text.dim),
                ("description", np.float16, text.dim),
                ("time", np.float32, time_dim),
                ("ctime", np.float32, time_dim),
            )
        }
        self._scalar = {
            name: ArrayWriter(root, f"nodes/{name}/x", np.float32, 1, after=path) for name in SCALARS
        }
        self._comment = ArrayWriter(root, "nodes/comment/x", np.float16, text.dim + time_dim, after=path)
        self.vocabulary = {name: Vocabulary() for name in KEYS}
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in (*KEYS, "ctime", "num_comments")}
        self.num_states = self.num_without_video = 0
        if after is not None:
            self.num_states = after.num_nodes["video"]
            for name in KEYS:
                codes, values = after.key(name)
                self.vocabulary[name] = Vocabulary(values)
                self._kept[name].append(np.asarray(codes))
            self._kept["ctime"].append(np.asarray(after.sampling_time))
            comments = after.relation(("comment", "is_comment_of", "video"))
            self._kept["num_comments"].append(comments.degree())

    def append(self, records: tuple[Record, ...]) -> None:
        columns = RecordColumns(records)
        post, sampled = columns.int64(lambda r: r.post_time), columns.int64(lambda r: r.sampling_time)
        codes = {
            key: np.array([self.vocabulary[key].code(getattr(r, key)) for r in records], np.int32)
            for key in KEYS
        }
        values = {
            "label": columns.int64(lambda r: r.level),
            "time": post,
            "ctime": sampled,
            "platform": codes["platform"],
            "split": (post >= self.train_until_s).astype(np.int8),
        }
        for name, value in values.items():
            self._column[name].append(value)
        self._strings["id"].append([r.id for r in records])
        self._strings["text"].append([r.text for r in records])
        for name in KEYS:
            self._codes[name].append(codes[name])
            self._kept[name].append(codes[name])
        self._kept["ctime"].append(sampled)
        self._kept["num_comments"].append(columns.int64(lambda r: len(r.comments)))

        self._append_videos([r.url for r in records])
        self._append_texts("title", [r.title for r in records])
        self._append_texts("description", [r.description for r in records])
        self._append_times("time", post)
        self._append_times("ctime", sampled)
        for name, writer in self._scalar.items():
            writer.append(encode_scalar(columns.scalar(name)))
        self._comment.append(comment_features(records, self.text, self.time_dim))
        self.num_states += len(records)

    def _append_videos(self, urls: list[str]) -> None:
        """States of one video share a row, and states without a video share one of zeros."""
        contents = [url.encode() if self.video.has(url) else b"" for url in urls]
        self.num_without_video += contents.count(b"")

        self._distinct["video"].append(
            contents, lambda new: video_features([urls[i] for i in new], self.video)
        )

    def _append_texts(self, name: str, texts: list[str]) -> None:
        contents = [text.encode() for text in texts]
        self._distinct[name].append(contents, lambda new: self.text.encode([texts[i] for i in new]))

    def _append_times(self, name: str, times: np.ndarray) -> None:
        contents = [time.tobytes() for time in times]
        self._distinct[name].append(contents, lambda new: encode_time(times[new], self.time_dim))

    def close(self) -> dict[str, int]:
        """Finish all node arrays; returns the number of nodes of each type."""
        writers = (self._column, self._strings, self._codes, self._distinct, self._scalar)
        for writer in (*(w for group in writers for w in group.values()), self._comment):  # type: ignore[attr-defined]
            writer.close()
        path = self.after.path if self.after else None
        for name in KEYS:
            new = self.vocabulary[name].new
            strings = StringWriter(self.root, f"nodes/video/keys/{name}/value", after=path)
            strings.append(new)
            strings.close()
            if name in ("platform", "topic"):
                with ArrayWriter(self.root, f"nodes/{name}/x", np.float16, self.text.dim, after=path) as x:
                    for batch in batched(new, BATCH_RECORDS):
                        x.append(self.text.encode(list(batch)))
        return {
            "video": self.num_states,
            **dict.fromkeys(PER_STATE, self.num_states),
            **{name: len(self.vocabulary[name].codes) for name in ("platform", "topic")},
            "comment": self._comment.num_rows,
        }

    def kept(self, name: str) -> np.ndarray:
        """A column of all N states: a key's codes, `ctime` or `num_comments`."""
        return np.concatenate(self._kept[name])
