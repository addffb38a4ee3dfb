"""The node types, columns and relations of XS-Video, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets.xsvideo import records as R
from netgpt.graphstore.datasets.xsvideo.annotation import MAX_LEVEL, THRESHOLDS
from netgpt.graphstore.document_types import Document, Field, Items
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.features import DAY_S
from netgpt.graphstore.relation_types import Nearest, Part, nearest_relation
from netgpt.graphstore.schema import Column, NodeType, RelationType, Schema, Split

SCALARS = ("video_time", "likes", "collects", "views", "shares", "comments", "fans")
"""Node types whose feature is log(1 + n) of one number of the record, one node a state."""

KEYS = ("url", "author", "topic", "platform")
"""Attributes of a record that states can share; stored as codes, so that later states can join."""

TRAIN_UNTIL = "2024-12-20"
"""Last post date (China) of the paper's train split; later posts are test."""


@dataclass(frozen=True, kw_only=True)
class Config(BuildConfig):
    """How a store of released records is built."""

    dataset: ClassVar[str] = "xsvideo"
    later: ClassVar[tuple[str, ...]] = ("similar", "similar_by")
    ties: str = "include"
    """include: two states of one day are neighbours both ways; strict: heads of an earlier day only."""
    video_dim: int = 3584
    """Width of video features; states without a video have the zero vector."""
    bad_numbers: R.BadNumbers = "refuse"
    """Counts and durations that are absent, null or negative: refuse: a bad record; zero: 0, and counted."""

    similar: int = 0
    """Edges to a state from that many of other videos that are most alike, of earlier days and of train; 0:
    none."""
    similar_by: str = "title"
    """What is alike: title, description or video, or several with commas."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.similar < 0:
            raise StoreError(f"similar: found {self.similar}, expected how many, from 0")
        if not self.compared or not set(self.compared) <= {"title", "description", "video"}:
            raise StoreError(
                f"similar_by: found {self.similar_by!r}, expected title, description or video, with commas"
            )
        self.require("ties", ("include", "strict"))
        self.require("bad_numbers", ("refuse", "zero"))
        if self.video_dim < 1:
            raise StoreError(f"video_dim: found {self.video_dim}, expected a width from 1")

    @property
    def compared(self) -> tuple[str, ...]:
        """Types that say which states are alike."""
        return tuple(filter(None, self.similar_by.split(",")))


COLUMNS = (
    Column("id", "id", title="state"),
    Column("text", "text", title="record"),
    Column("label", "number", title="influence level", dtype="int8", unknown=-1, low=0, high=MAX_LEVEL),
    Column("time", "time", title="post time"),
    Column("ctime", "time", title="sampling date"),
    *(Column(name, "category") for name in KEYS),
    Column("age_days", "number", title="days from the post to the sampling date", dtype="int32"),
    Column(
        "age_zero",
        "number",
        title="sampled on the post's day with all counters zero",
        dtype="int8",
        low=0,
        high=1,
    ),
)

_FREE = (
    *(R.URL, R.SENTIMENT, R.DESCRIPTION, R.TITLE, R.AUTHOR, R.POST_TIME),
    *(R.SAMPLING_DATE, R.COMMENTS, R.HISTORY),
)
_CUT = {R.DESCRIPTION: 1, R.TITLE: 2}
DOCUMENT = Document(
    "video",
    "text",
    tuple(
        Field(
            key,
            free=key in _FREE,
            cut=_CUT.get(key, 0),
            items=Items(R.COMMENT_TIME, R.SAMPLING_DATE, R.TIME_FORM, R.DATE_FORM)
            if key == R.COMMENTS
            else None,
        )
        for key in R.TEXT_KEYS
    ),
)


def split_until(date: str = TRAIN_UNTIL) -> Split:
    """Train: posted on a date (China) or before. StoreError for what is no date."""
    try:
        day = datetime.strptime(date, "%Y-%m-%d").replace(tzinfo=R.CHINA)
    except ValueError:
        raise StoreError(f"train_until: found {date!r}, expected a date YYYY-MM-DD") from None
    return Split("time", int(day.timestamp()) + DAY_S, date)


def xs_video(
    *,
    strict_ties: bool = False,
    video_dim: int = 3584,
    similar: int = 0,
    similar_by: tuple[str, ...] = ("title",),
) -> Schema:
    """The 15 node types and 17 relations of XS-Video, and with `similar` one more.

    `strict_ties` drops heads of the tail's own day from the topic and author relations. `similar`: so many
    states of other videos, of train and of earlier days, that are most alike by the features `similar_by`.
    """

    def each(name: str, encoding: str) -> NodeType:
        steps = tuple(float(step) for step in THRESHOLDS.get(name, ()))
        return NodeType(
            name=name,
            encoding=encoding,  # type: ignore[arg-type]
            inputs=(name,),
            origin="each",
            of="video",
            steps=steps,
        )

    def value(name: str) -> NodeType:
        return NodeType(name=name, encoding="text", origin="values", of="video", column=name)

    nodes = [
        NodeType(
            name="video", encoding="video", inputs=("url",), columns=COLUMNS, time="ctime", dim=video_dim
        ),
        value("platform"),
        value("topic"),
        each("title", "text"),
        each("description", "text"),
        each("time", "time"),
        each("ctime", "time"),
        each("video_time", "scalar"),
        NodeType(name="comment", encoding="text_time", inputs=("text", "time"), of="video", column="video"),
        *(each(name, "scalar") for name in SCALARS[1:]),
    ]
    names = {"time": "is_post_time_of", "ctime": "is_current_time_of", "video_time": "is_duration_time_of"}
    relations = [
        RelationType(
            edge_type=(node.name, names.get(node.name, f"is_{node.name}_of"), "video"),
            column=node.column or node.inputs[0],
        )
        for node in nodes
        if node.name != "video"
    ]
    relations += [
        RelationType(
            edge_type=("video", "has_same_author_as", "video"), group_by="author", strict=strict_ties
        ),
        RelationType(edge_type=("video", "has_same_topic_as", "video"), group_by="topic", strict=strict_ties),
        RelationType(edge_type=("video", "is_history_of", "video"), group_by="url", strict=True),
    ]
    if similar:
        until = split_until().until
        found = Nearest(
            by=similar_by, k=similar, time="ctime", apart="url", bank=Part(column="time", until=until)
        )
        relations.append(nearest_relation(("video", "is_similar_to", "video"), found))
    return Schema(
        target="video",
        node_types=tuple(nodes),
        relations=tuple(relations),
        documents=(DOCUMENT,),
        split=split_until(),
    )


def schema_of(config: Config) -> Schema:
    """The schema of settings."""
    return xs_video(
        strict_ties=config.ties == "strict",
        video_dim=config.video_dim,
        similar=config.similar,
        similar_by=config.compared,
    )
