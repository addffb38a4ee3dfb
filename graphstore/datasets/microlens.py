"""MicroLens-100k (Ni et al., 2023) as MMRA uses it: videos, their titles, and how often each was commented
on.

A folder with `video_label.csv` (`video_id,comment_count`), `MicroLens-100k_title_en.csv` (`id, title`, no
header) and, where it is there, `MicroLens-50k_titles.csv` (`item,title`: the whole titles of most videos),
and `frames.npy` [videos, frames, width] in the order of the videos' numbers; with `visual: videos` frames
are those that an encoder made of files, by the videos' numbers. The data may not be given away changed, so
none of it is in this repository.

Parts are those of MMRA's authors: sklearn's `train_test_split` of the videos by number, a fifth held out with
the state `split_seed` (9 is theirs), and that cut in two halves with twice the state, first test and then
validation. They are drawn of all videos at once, so that none can be appended; with `split: hash` each video
has its part by itself.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, ReadReport, Source
from netgpt.graphstore.datasets.described import map_npy
from netgpt.graphstore.document_types import Document, Field
from netgpt.graphstore.errors import RecordError, SourceError, StoreError
from netgpt.graphstore.files import atomic_dir, file_digest, value_digest
from netgpt.graphstore.mixing import seed_of
from netgpt.graphstore.relation_types import Nearest, Part, RelationType, nearest_relation
from netgpt.graphstore.schema import Column, NodeType, Schema
from netgpt.graphstore.store import Store

LABELS, TITLES = "video_label.csv", "MicroLens-100k_title_en.csv"
WHOLE_TITLES, FRAMES = "MicroLens-50k_titles.csv", "frames.npy"
VIDEO = "video"
SIMILAR = (VIDEO, "is_similar_to", VIDEO)
BANK = "bank"
UNKNOWN = 0
"""Comments of a video that is to be predicted."""
NO_FRAMES = 10
"""Width of the zeros of frames that nobody encoded."""
_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class MicroLensConfig(BuildConfig):
    """How videos are cut into parts, and what is retrieved for each."""

    dataset: ClassVar[str] = "microlens"
    later: ClassVar[tuple[str, ...]] = ("visual",)

    split: str = "authors"
    """authors: as sklearn draws them of all videos; hash: by each video's own number. 8:1:1 in both."""
    split_seed: int = 9
    """State of the split; 9 is that of MMRA's authors."""
    similar: int = 10
    """Videos with the most similar title that are retrieved for each; 0: none."""
    bank: str = "train"
    """Whose videos are retrieved: train; train+val, as MMRA's authors have it; all, which leaks, for
    tests."""
    visual: str = "file"
    """Where frames come from: file: `frames.npy`, where there is one; videos: files NUMBER.mp4, by an encoder
    of pictures (`netgpt features --video MODEL --videos DIR --frames 10`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("split", ("authors", "hash"))
        self.require("bank", ("train", "train+val", "all"))
        self.require("visual", ("file", "videos"))
        for name in ("split_seed", "similar"):
            if not 0 <= getattr(self, name) < 1 << 30:
                raise StoreError(
                    f"{name}: found {getattr(self, name)}, expected a number from 0, below 2**30"
                )


@dataclass(frozen=True)
class Videos:
    """All videos, by rising number."""

    ids: tuple[str, ...]
    titles: tuple[str, ...]
    comments: np.ndarray
    """[N] int64."""


def schema_of(config: MicroLensConfig, *, frames: bool) -> Schema:
    columns = (
        Column("id", "id", title="video"),
        Column("title", "text"),
        Column("comments", "number", dtype="int32", low=1, high=np.iinfo(np.int32).max, unknown=UNKNOWN),
        Column("part", "category"),
        Column(BANK, "category", title="may be retrieved"),
    )
    nodes = [NodeType(name=VIDEO, encoding="text", inputs=("title",), columns=columns)]
    if config.visual == "videos":
        seen = NodeType(
            name="frames", encoding="video", inputs=("id",), origin="each", of=VIDEO, dim=NO_FRAMES
        )
        nodes.append(seen)
    elif frames:
        nodes.append(NodeType(name="frames", encoding="given", inputs=("frames",), origin="each", of=VIDEO))
    relations: tuple[RelationType, ...] = ()
    if config.similar:
        found = Nearest(by=(VIDEO,), k=config.similar, bank=Part(column=BANK, value="yes"))
        relations = (nearest_relation(SIMILAR, found),)
    return Schema(
        target=VIDEO,
        node_types=tuple(nodes),
        relations=relations,
        documents=(Document(VIDEO, "", (Field("title", free=True, cut=1),)),),
    )


def hashed_part(video: str, seed: int) -> str:
    """The part of a video, whatever others there are."""
    share = seed_of("microlens", seed, video) / 2**63
    return "train" if share < 0.8 else "test" if share < 0.9 else "val"


def authors_parts(num: int, seed: int) -> list[str]:
    """The part of each of so many videos."""
    from sklearn.model_selection import train_test_split  # a second to import

    train, held = train_test_split(np.arange(num), test_size=0.2, random_state=seed)
    test, val = train_test_split(held, test_size=0.5, random_state=2 * seed)
    parts = np.empty(num, object)
    parts[train], parts[val], parts[test] = "train", "val", "test"
    return list(parts)


class VideoSource(Source):
    """The videos of a folder, or made ones; all texts are held."""

    def __init__(
        self,
        folder: Path | None,
        config: MicroLensConfig,
        report: ReadReport | None = None,
        *,
        made: Videos | None = None,
        said: str = "",
        is_new: bool = False,
        require_labels: bool = True,
    ) -> None:
        """made: videos that come from no file; said: what their digest is of. is_new: videos that join
        others; parts that are drawn of all videos have none of them."""
        self._is_new, self._require_labels = is_new, require_labels
        self.folder, self.config, self._said = folder, config, said
        self.file = str(folder) if folder else said
        self.report = report if report is not None else ReadReport()
        self._made = made
        frames = folder / FRAMES if folder is not None and config.visual == "file" else None
        self._frames = frames if frames is not None and frames.is_file() else None
        self.schema = schema_of(config, frames=self._frames is not None)

    def digest(self) -> str:
        if self.folder is None:
            return value_digest(self._said)
        names = (LABELS, TITLES, WHOLE_TITLES, FRAMES)
        return value_digest([file_digest(self.folder / n) for n in names if (self.folder / n).is_file()])

    def _videos(self) -> Videos:
        if self.folder is None:
            assert self._made is not None
            return self._made
        skips = self.config.on_error == "skip"
        return read_videos(self.folder, self.report, skips=skips, require_labels=self._require_labels)

    def blocks(self) -> Iterator[Block]:
        self.report.clear()
        videos = self._videos()
        num, parts = len(videos.ids), self._parts(videos.ids)
        banked = {"train": ("train",), "train+val": ("train", "val"), "all": ("train", "val", "test")}
        in_bank = banked[self.config.bank]
        frames = self._open_frames(num)
        for first in range(0, num, _ROWS):
            part = slice(first, min(first + _ROWS, num))
            columns: dict[str, Any] = {
                "id": list(videos.ids[part]),
                "title": list(videos.titles[part]),
                "comments": videos.comments[part],
                "part": parts[part],
                BANK: ["yes" if one in in_bank else "no" for one in parts[part]],
            }
            if frames is not None:
                columns["frames"] = np.asarray(frames[part]).reshape(part.stop - first, -1)
            if self.folder is None:
                self.report.num_read += part.stop - first
            yield Block(VIDEO, columns)

    def _parts(self, ids: Sequence[str]) -> list[str]:
        if self.config.split == "hash":
            return [hashed_part(one, self.config.split_seed) for one in ids]
        if self._is_new:
            return [""] * len(ids)
        if len(ids) < 10:
            raise SourceError(self.file, None, None, f"{len(ids)} videos", "at least 10, for three parts")
        return authors_parts(len(ids), self.config.split_seed)

    def _open_frames(self, num: int) -> np.ndarray | None:
        if self._frames is None:
            return None
        x: np.ndarray = map_npy(str(self._frames))
        if x.ndim != 3 or len(x) != num or x.dtype not in (np.float16, np.float32) or 0 in x.shape:
            found, expected = f"{x.dtype} {list(x.shape)}", f"float16 or float32 [{num}, frames, width]"
            raise SourceError(str(self._frames), None, None, found, expected)
        return x


def read_videos(folder: Path, report: ReadReport, *, skips: bool, require_labels: bool = True) -> Videos:
    """Videos with a label, in the order of their numbers; a title is the whole one where there is one.

    RecordError for a video twice, a count that is none or below 1 (log2 has no place for 0), and a title of
    no known video; with `skips` such rows are left out and counted. Without `require_labels` there may be no
    file of counts, or no count: then a video is one that has a title or a row, and its count is UNKNOWN.
    """
    labels: dict[int, int] = {}
    file = folder / LABELS
    has_labels = require_labels or file.is_file()
    for row in _rows(file, ("video_id", "comment_count")) if has_labels else ():
        try:
            video = _number(file, row, 0, "video_id")
            is_empty = not require_labels and not "".join(row[1:]).strip()
            count = UNKNOWN if is_empty else _number(file, row, 1, "comment_count")
            if video in labels:
                raise RecordError(str(file), str(video), "video_id", "a video twice", "each once")
            if not (is_empty or 1 <= count < 1 << 31):
                raise RecordError(str(file), str(video), "comment_count", str(count), "a count from 1")
        except RecordError as error:
            if not skips:
                raise
            report.skip(error)
            continue
        labels[video] = count
        report.keep()
    titles: dict[int, str] = {}
    for name, header in ((TITLES, ()), (WHOLE_TITLES, ("item", "title"))):
        if not (folder / name).is_file():
            continue
        for row in _rows(folder / name, header):
            try:
                video = _number(folder / name, row, 0, "item")
                if not has_labels and name == TITLES and video not in labels:
                    labels[video] = UNKNOWN
                    report.keep()
                if video not in labels and not skips:
                    raise RecordError(
                        str(folder / name), str(video), "item", "no such video", f"one of {LABELS}"
                    )
            except RecordError as error:
                if not skips:
                    raise
                report.count(error)
                continue
            text = ",".join(row[1:]).strip()  # titles of the short file are not quoted
            if text:
                titles[video] = text
    order = sorted(labels)
    return Videos(
        tuple(map(str, order)),
        tuple(titles.get(v, "") for v in order),
        np.array([labels[v] for v in order], np.int64),
    )


def _rows(path: Path, header: tuple[str, ...]) -> Iterator[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            # A title without quotes around it may have some within
            lines = csv.reader(file) if header else (line.rstrip("\r\n").split(",", 1) for line in file)
            if header:
                found = next(lines, [])
                if [one.strip() for one in found] != list(header):
                    raise SourceError(str(path), "0", None, ",".join(found)[:60], ",".join(header))
            yield from (row for row in lines if any(cell.strip() for cell in row))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SourceError(str(path), None, None, f"what cannot be read ({error})", "CSV in UTF-8") from None


def _number(path: Path, row: list[str], place: int, name: str) -> int:
    text = row[place].strip() if len(row) > place else ""
    if not text.isdecimal() or len(text) > 18:
        record = row[0].strip()[:40] or None
        raise RecordError(str(path), record, name, repr(text[:40]), "a whole number")
    return int(text)


def made_videos(scale: float, seed: int) -> Videos:
    """Videos whose titles tell their counts, with noise: at 1.0 as many as there are."""
    rng = np.random.default_rng(seed)
    num = max(40, round(19_738 * scale))
    words = np.array([f"w{i}" for i in range(200)])
    worth = rng.normal(0, 1.0, len(words))
    chosen = rng.integers(0, len(words), (num, 6))
    counts = np.exp2(np.clip(4.3 + worth[chosen].sum(1) / 2 + rng.normal(0, 1, num), 0, 20)).astype(np.int64)
    titles = tuple(" ".join(row) for row in words[chosen])
    return Videos(tuple(str(i + 1) for i in range(num)), titles, np.maximum(counts, 1))


class MicroLens(Dataset):
    """Titles and numbers of comments of MicroLens' videos."""

    name = "microlens"
    title = "MicroLens"
    unit = "videos"
    Config = MicroLensConfig

    def reads(self, source: Path) -> bool:
        return (source / LABELS).is_file() and (source / TITLES).is_file()

    def open(
        self,
        source: Path,
        config: BuildConfig | None = None,
        *,
        report: ReadReport | None = None,
        require_labels: bool = True,
        known_ids: Collection[str] = frozenset(),
        check_history: bool = True,
    ) -> Source:
        if not (source / TITLES).is_file() or (require_labels and not self.reads(source)):
            files = f"{LABELS} and {TITLES}" if require_labels else TITLES
            raise StoreError(f"{source}: found no {files}, expected a folder that has them")
        settings = self.configured(config)
        if known_ids and require_labels and settings.split == "authors":
            raise StoreError(
                f"{source}: found videos to append to parts that were drawn of all at once, expected a store "
                "that was built with split=hash"
            )
        is_new = bool(known_ids)
        return VideoSource(source, settings, report, is_new=is_new, require_labels=require_labels)

    def is_synthetic(self, store: Store) -> bool:
        node = store.schema.target
        titles = store.strings(node, "title") if store.num_nodes[node] else ()
        return len(titles) > 0 and re.fullmatch(r"w\d+( w\d+){5}", titles[0]) is not None

    def synthetic(self, scale: float, seed: int, config: BuildConfig | None = None) -> Source:
        said = f"microlens, scale {scale:g}, seed {seed}"
        return VideoSource(None, self.configured(config), made=made_videos(scale, seed), said=said)

    def write_synthetic(self, path: Path, scale: float, seed: int) -> int:
        videos = made_videos(scale, seed)
        rows = list(zip(videos.ids, videos.titles, videos.comments.tolist(), strict=True))
        lines = "".join(f"{video},{count}\n" for video, _, count in rows)
        with atomic_dir(path) as folder:
            (folder / LABELS).write_text(f"video_id,comment_count\n{lines}", encoding="utf-8")
            (folder / TITLES).write_text("".join(f"{v}, {title}\n" for v, title, _ in rows), encoding="utf-8")
        return len(rows)
