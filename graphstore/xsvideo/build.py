"""Builds a sealed store from released records, in one streamed pass.

Columns, texts and features are appended to their arrays as records pass; relations are made at the
end from the columns. All of it happens in a folder beside the target and ends in one rename.

Legend: N states (video nodes), C comments.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from graphstore.arrays import ArrayWriter, StringWriter, write_array
from graphstore.errors import StoreError
from graphstore.features import TextEncoder, encode_scalar, encode_time, text_encoder
from graphstore.files import atomic_dir, file_digest
from graphstore.integrity.seal import write_attributes, write_seal
from graphstore.relations import Layout, Relation, csr_from_pairs, prefix_rows
from graphstore.schema import RelationType, edge_name
from graphstore.xsvideo.records import CHINA, OnError, ReadReport, Record, read_records
from graphstore.xsvideo.schema import PER_STATE, SCALARS, xs_video

KEYS = ("url", "author", "topic", "platform")
"""Attributes of a record that states can share; stored as codes, so that later states can join."""

BATCH_RECORDS = 1024

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class BuildConfig:
    layout: Layout = "prefix"
    ties: str = "include"
    """include: two states of one day are neighbours both ways; strict: heads of an earlier day only."""
    encoder: str = "hash:256"
    """Text encoder: hash:DIM."""
    time_dim: int = 32
    """Width of encoded times, even."""
    video_dim: int = 3584
    """Width of video features; states without a video have the zero vector."""
    train_until: str = "2024-12-20"
    """Last post date (China) of the train split; later posts are test."""
    on_error: OnError = "fail"
    """fail: the first bad record ends the build; skip: bad records are left out and counted."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("layout", self.layout, ("csr", "prefix")),
            ("ties", self.ties, ("include", "strict")),
            ("on_error", self.on_error, ("fail", "skip")),
        ):
            if value not in allowed:
                raise StoreError(f"{name}: found {value!r}, expected one of {', '.join(allowed)}")
        if self.video_dim < 1:
            raise StoreError(f"video_dim: found {self.video_dim}, expected a width from 1")
        self.train_until_s()

    def train_until_s(self) -> int:
        """First second after the train period, seconds since 1970."""
        try:
            day = datetime.strptime(self.train_until, "%Y-%m-%d").replace(tzinfo=CHINA)
        except ValueError:
            raise StoreError(f"train_until: found {self.train_until!r}, expected a date YYYY-MM-DD") from None
        return int(day.timestamp()) + 86_400


def _batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`itertools.batched`, which Python 3.11 does not have."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


class Vocabulary:
    """Strings to codes in order of first use; the empty string is no group (−1)."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.codes = {value: code for code, value in enumerate(values)}

    def code(self, value: str) -> int:
        return self.codes.setdefault(value, len(self.codes)) if value else -1


@dataclass
class RecordColumns:
    """Typed columns of a batch of records, shared by the builder and by `extend`."""

    records: tuple[Record, ...]

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


class _DistinctRows:
    """Feature rows stored once per distinct content, with the row of every node."""

    def __init__(self, root: Path, node_type: str, dtype: Any, width: int) -> None:
        self._x = ArrayWriter(root, f"nodes/{node_type}/x", dtype, width)
        self._x_row = ArrayWriter(root, f"nodes/{node_type}/x_row", np.int32)
        self._row_of: dict[bytes, int] = {}

    def append(self, contents: list[bytes], encode: Callable[[list[int]], np.ndarray]) -> None:
        """Add nodes by content; `encode` makes rows for the given positions of `contents`."""
        rows, new = [], []
        for i, content in enumerate(contents):
            key = hashlib.blake2b(content, digest_size=16).digest()
            if key not in self._row_of:
                self._row_of[key] = len(self._row_of)
                new.append(i)
            rows.append(self._row_of[key])
        if new:
            self._x.append(encode(new))
        self._x_row.append(np.array(rows, np.int32))

    def close(self) -> None:
        self._x.close()
        self._x_row.close()


class _NodeWriters:
    """All node arrays of a store while records stream by."""

    def __init__(self, root: Path, config: BuildConfig, text: TextEncoder) -> None:
        self.root, self.config, self.text = root, config, text
        self.boundary_s = config.train_until_s()
        self.column = {
            name: ArrayWriter(root, f"nodes/video/{name}", dtype)
            for name, dtype in (
                ("label", np.int8),
                ("time", np.int64),
                ("ctime", np.int64),
                ("platform", np.int32),
                ("split", np.int8),
            )
        }
        self.strings = {name: StringWriter(root, f"nodes/video/{name}") for name in ("id", "text")}
        self.codes = {name: ArrayWriter(root, f"nodes/video/keys/{name}/code", np.int32) for name in KEYS}
        self.vocabulary = {name: Vocabulary() for name in KEYS}
        self.distinct = {
            "video": _DistinctRows(root, "video", np.float16, config.video_dim),
            "title": _DistinctRows(root, "title", np.float16, text.dim),
            "description": _DistinctRows(root, "description", np.float16, text.dim),
            "time": _DistinctRows(root, "time", np.float32, config.time_dim),
            "ctime": _DistinctRows(root, "ctime", np.float32, config.time_dim),
        }
        self.scalar = {name: ArrayWriter(root, f"nodes/{name}/x", np.float32, 1) for name in SCALARS}
        self.comment = ArrayWriter(root, "nodes/comment/x", np.float16, text.dim + config.time_dim)
        self.comment_tail: list[np.ndarray] = []
        self.kept: dict[str, list[np.ndarray]] = {name: [] for name in (*KEYS, "ctime")}
        self.num_states = 0

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
            "split": (post >= self.boundary_s).astype(np.int8),
        }
        for name, value in values.items():
            self.column[name].append(value)
        for record in records:
            self.strings["id"].append(record.id)
            self.strings["text"].append(record.text)
        for name in KEYS:
            self.codes[name].append(codes[name])
            self.kept[name].append(codes[name])
        self.kept["ctime"].append(sampled)

        self.distinct["video"].append(
            [b""] * len(records), lambda new: np.zeros((len(new), self.config.video_dim), np.float16)
        )
        self._append_texts("title", [r.title for r in records])
        self._append_texts("description", [r.description for r in records])
        self._append_times("time", post)
        self._append_times("ctime", sampled)
        for name, writer in self.scalar.items():
            writer.append(encode_scalar(columns.scalar(name)))
        self.comment.append(comment_features(records, self.text, self.config.time_dim))
        tails = np.arange(self.num_states, self.num_states + len(records))
        self.comment_tail.append(np.repeat(tails, [len(r.comments) for r in records]))
        self.num_states += len(records)

    def _append_texts(self, name: str, texts: list[str]) -> None:
        contents = [text.encode() for text in texts]
        self.distinct[name].append(contents, lambda new: self.text.encode([texts[i] for i in new]))

    def _append_times(self, name: str, times: np.ndarray) -> None:
        contents = [time.tobytes() for time in times]
        self.distinct[name].append(contents, lambda new: encode_time(times[new], self.config.time_dim))

    def close(self) -> dict[str, int]:
        """Finish all node arrays; returns the number of nodes of each type."""
        for writer in (
            *self.column.values(),
            *self.strings.values(),
            *self.codes.values(),
            *self.distinct.values(),
            *self.scalar.values(),
            self.comment,
        ):
            writer.close()  # type: ignore[attr-defined]
        for name in KEYS:
            strings = StringWriter(self.root, f"nodes/video/keys/{name}/value")
            for value in self.vocabulary[name].codes:
                strings.append(value)
            strings.close()
        for name in ("platform", "topic"):
            with ArrayWriter(self.root, f"nodes/{name}/x", np.float16, self.text.dim) as x:
                for values in _batched(self.vocabulary[name].codes, BATCH_RECORDS):
                    x.append(self.text.encode(list(values)))
        return {
            "video": self.num_states,
            **dict.fromkeys(PER_STATE, self.num_states),
            **{name: len(self.vocabulary[name].codes) for name in ("platform", "topic")},
            "comment": self.comment.num_rows,
        }

    def kept_column(self, name: str) -> np.ndarray:
        return np.concatenate(self.kept[name])


def write_relation(root: Path, relation: Relation, layout: Layout) -> None:
    """Write a relation in the wanted layout; rows are materialised one by one where that is needed."""
    folder = f"edges/{edge_name(relation.edge_type)}"
    if layout == "prefix" and relation.layout == "prefix":
        assert relation.rank is not None
        for name, values in (
            ("indices", relation.indices),
            ("begin", relation.begin),
            ("end", relation.end),
            ("rank", relation.rank),
        ):
            write_array(root, f"{folder}/{name}", values)
        return
    indptr = np.zeros(relation.num_dst + 1, np.int64)
    np.cumsum(relation.degree(), out=indptr[1:])
    write_array(root, f"{folder}/indptr", indptr)
    with ArrayWriter(root, f"{folder}/indices", np.int32) as indices:
        for v in range(relation.num_dst):
            indices.append(relation.neighbors(v))


def group_relation(relation: RelationType, key: np.ndarray, time: np.ndarray) -> Relation:
    """A relation that a rule makes, from the key and sampling date of every node."""
    rows = prefix_rows(key, time, strict=relation.strict)
    return Relation(relation.edge_type, "prefix", rows.indices, rows.begin, rows.end, rows.rank)


def _relations(nodes: _NodeWriters, relations: tuple[RelationType, ...]) -> Iterator[Relation]:
    num = nodes.num_states
    for relation in relations:
        src = relation.edge_type[0]
        if relation.group_by is not None:
            yield group_relation(relation, nodes.kept_column(relation.group_by), nodes.kept_column("ctime"))
            continue
        if src in ("platform", "topic"):
            code = nodes.kept_column(src)
            heads, tails = code[code >= 0], np.flatnonzero(code >= 0)
        elif src == "comment":
            tails = np.concatenate(nodes.comment_tail)
            heads = np.arange(len(tails))
        else:
            heads = tails = np.arange(num)
        indptr, indices = csr_from_pairs(heads, tails, num)
        yield Relation(relation.edge_type, "csr", indices, indptr[:-1], indptr[1:])


def build(
    source: Path | str,
    out: Path | str,
    config: BuildConfig | None = None,
    *,
    progress: Callable[[int], None] | None = None,
) -> ReadReport:
    """Build a store at `out` from a file of released records.

    `progress` is called with the number of records of each batch. Nothing is left at `out` when this
    raises: RecordError and SourceError for bad input, StoreError where `out` is taken.
    """
    config = config or BuildConfig()
    source, out = Path(source), Path(out)
    if out.exists():
        raise StoreError(f"{out}: already there; remove it or choose another --out")
    text = text_encoder(config.encoder)
    schema = xs_video(strict_ties=config.ties == "strict")
    report = ReadReport()
    with atomic_dir(out) as root:
        nodes = _NodeWriters(root, config, text)
        for batch in _batched(read_records(source, on_error=config.on_error, report=report), BATCH_RECORDS):
            nodes.append(batch)
            if progress:
                progress(len(batch))
        num_nodes = nodes.close()
        num_edges: dict[str, int] = {}
        layouts: dict[str, Layout] = {}
        for relation in _relations(nodes, schema.relations):
            name = edge_name(relation.edge_type)
            layouts[name] = config.layout if relation.layout == "prefix" else "csr"
            write_relation(root, relation, layouts[name])
            num_edges[name] = relation.num_edges
        write_attributes(
            root,
            {
                "schema": schema.to_dict(),
                "num_nodes": num_nodes,
                "relations": {
                    name: {
                        "layout": layouts[name],
                        "num_edges": num_edges[name],
                        "dst_range": [0, nodes.num_states],
                    }
                    for name in num_edges
                },
                "encoders": {
                    "text": text.name,
                    "time": f"sinusoidal-1d-4096d-{config.time_dim}",
                    "scalar": "log1p",
                    "video": f"none-{config.video_dim}",
                },
                "time_dim": config.time_dim,
                "ties": config.ties,
                "train_until": config.train_until,
                "build": asdict(config),
                "source_digest": file_digest(source),
                "num_skipped": report.num_skipped,
                "parent_digest": None,
            },
        )
        write_seal(root)
    return report
