"""Builds a sealed store from released records, in one streamed pass.

Node arrays are written as records pass; relations are made at the end from the kept columns. All of it
happens in a folder beside the target and ends in one rename.

Legend: N states (video nodes), C comments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np

from netgpt.graphstore.arrays import StringWriter
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.feature_cache import choose_encoders, folder_encoders
from netgpt.graphstore.features import DAY_S
from netgpt.graphstore.files import atomic_dir, file_digest, refuse_existing
from netgpt.graphstore.integrity.seal import write_attributes, write_seal
from netgpt.graphstore.relations import Layout, Relation, csr_from_pairs, group_relation, write_relation
from netgpt.graphstore.schema import Schema, edge_name
from netgpt.graphstore.store import Store
from netgpt.graphstore.xsvideo.nodes import BATCH_RECORDS, NodeWriters, batched, require_encoders
from netgpt.graphstore.xsvideo.records import CHINA, BadNumbers, OnError, ReadReport, Record, read_records
from netgpt.graphstore.xsvideo.schema import xs_video


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
    bad_numbers: BadNumbers = "refuse"
    """Counts and durations that are absent, null or negative: refuse: a bad record; zero: 0, and counted."""
    on_error: OnError = "fail"
    """fail: the first bad record ends the build; skip: bad records are left out and counted."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("layout", self.layout, ("csr", "prefix")),
            ("ties", self.ties, ("include", "strict")),
            ("on_error", self.on_error, ("fail", "skip")),
            ("bad_numbers", self.bad_numbers, ("refuse", "zero")),
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
        return int(day.timestamp()) + DAY_S


def _relations(nodes: NodeWriters, schema: Schema) -> Iterator[Relation]:
    num = nodes.num_states
    for relation in schema.relations:
        src = relation.edge_type[0]
        if relation.group_by is not None:
            key, time = nodes.kept(relation.group_by), nodes.kept("ctime")
            yield group_relation(relation.edge_type, key, time, strict=relation.strict)
            continue
        if src in ("platform", "topic"):
            code = nodes.kept(src)
            heads, tails = code[code >= 0], np.flatnonzero(code >= 0)
        elif src == "comment":
            tails = np.repeat(np.arange(num), nodes.kept("num_comments"))
            heads = np.arange(len(tails))
        else:
            heads = tails = np.arange(num)
        indptr, indices = csr_from_pairs(heads, tails, num)
        yield Relation(relation.edge_type, "csr", indices, indptr[:-1], indptr[1:])


def write_store(
    root: Path,
    records: Iterable[Record],
    config: BuildConfig,
    *,
    report: ReadReport,
    source_digest: Callable[[], str],
    features: Path | None = None,
    after: Store | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a sealed store of `records`, behind those of `after`, into the folder `root`.

    features: folder of vectors that encoders made; what it lacks is encoded as `config` says.
    `report` of what was left out on the way, and `source_digest`, are read when all records have passed.
    """
    text, video = choose_encoders(config.encoder, config.video_dim, features)
    if after is not None:
        require_encoders(after, text.name, video.name)
    schema = xs_video(strict_ties=config.ties == "strict")
    nodes = NodeWriters(
        root,
        text=text,
        time_dim=config.time_dim,
        video=video,
        train_until_s=config.train_until_s(),
        after=after,
    )
    for batch in batched(records, BATCH_RECORDS):
        nodes.append(batch)
        if progress:
            progress(len(batch))
    num_nodes = nodes.close()
    relations = {}
    for relation in _relations(nodes, schema):
        relations[edge_name(relation.edge_type)] = {
            "layout": write_relation(root, relation, config.layout),
            "num_edges": relation.num_edges,
            "dst_range": [0, nodes.num_states],
        }
    # Ids that were left out stay taken, and stay valid in the history of states that come later
    strings = StringWriter(root, "nodes/video/skipped_id")
    strings.append(sorted(report.skipped_ids | (after.skipped_ids if after else set())))
    strings.close()
    write_attributes(
        root,
        {
            "schema": schema.to_dict(),
            "num_nodes": num_nodes,
            "relations": relations,
            "encoders": {
                "text": text.name,
                "time": f"sinusoidal-1d-4096d-{config.time_dim}",
                "scalar": "log1p",
                "video": video.name,
            },
            "time_dim": config.time_dim,
            "ties": config.ties,
            "train_until": config.train_until,
            "build": asdict(config),
            "features": folder_encoders(features),
            "source_digest": source_digest(),
            "num_without_video": nodes.num_without_video
            + (after.attributes.get("num_without_video", after.num_nodes["video"]) if after else 0),
            "num_imputed": sum(report.imputed.values())
            + (after.attributes.get("num_imputed", 0) if after else 0),
            "num_skipped": report.num_skipped + (after.attributes["num_skipped"] if after else 0),
            "parent_digest": after.digest if after else None,
        },
    )
    write_seal(root, (after.path, after.seal) if after else None)


def build(
    source: Path | str,
    out: Path | str,
    config: BuildConfig | None = None,
    *,
    features: Path | str | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReadReport:
    """Build a store at `out` from a file of released records.

    `features` is a folder that `netgpt features` made of the records; `progress` is called with the number
    of records of each batch. Nothing is left at `out` when this
    raises: RecordError and SourceError for bad input, StoreError where `out` is taken.
    """
    config = config or BuildConfig()
    source, out = Path(source), Path(out)
    refuse_existing(out)
    report = ReadReport()

    records = read_records(source, on_error=config.on_error, bad_numbers=config.bad_numbers, report=report)
    with atomic_dir(out) as root:
        digest = partial(file_digest, source)
        write_store(
            root,
            records,
            config,
            report=report,
            source_digest=digest,
            features=None if features is None else Path(features),
            progress=progress,
        )
    return report
