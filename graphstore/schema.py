"""The node types and relations of a graph, and those of XS-Video.

A schema is data: it is written into the store's attributes and read back from there, so that a
store explains itself. Edge types are (source, relation, destination) triples; edges point from the
head (source) to the tail (destination).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

EdgeType = tuple[str, str, str]


def edge_name(edge_type: EdgeType) -> str:
    """One string for a triple, used in messages, file paths and hashes: `src/rel/dst`."""
    return "/".join(edge_type)


@dataclass(frozen=True, kw_only=True)
class NodeType:
    name: str
    encoding: Literal["video", "text", "time", "scalar", "comment", "given", "none"]
    """How raw values become features: a given vector, encoded text, a sinusoidal time,
    log(1 + n), text followed by time; any given vectors; or no features at all."""


@dataclass(frozen=True, kw_only=True)
class RelationType:
    edge_type: EdgeType
    group_by: str | None = None
    """Key that head and tail share (`topic`, `author`, `url`), for relations that a rule makes."""
    strict: bool = False
    """True: the head's sampling date is before the tail's; False: not after it."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    target: str
    node_types: tuple[NodeType, ...]
    relations: tuple[RelationType, ...]

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return tuple(r.edge_type for r in self.relations)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Schema:
        return Schema(
            target=raw["target"],
            node_types=tuple(NodeType(**n) for n in raw["node_types"]),
            relations=tuple(
                RelationType(
                    edge_type=(r["edge_type"][0], r["edge_type"][1], r["edge_type"][2]),
                    group_by=r["group_by"],
                    strict=r["strict"],
                )
                for r in raw["relations"]
            ),
        )


SCALARS = ("video_time", "likes", "collects", "views", "shares", "comments", "fans")
"""Node types whose feature is log(1 + n) of one number of the record, one node a state."""

PER_STATE = ("title", "description", "time", "ctime", *SCALARS)
"""Node types with exactly one node a state, numbered as the state's video node is."""


def xs_video(*, strict_ties: bool = False) -> Schema:
    """The 15 node types and 17 relations of XS-Video.

    `strict_ties` drops heads of the tail's own day from the topic and author relations.
    """
    nodes = [
        NodeType(name="video", encoding="video"),
        NodeType(name="platform", encoding="text"),
        NodeType(name="topic", encoding="text"),
        NodeType(name="title", encoding="text"),
        NodeType(name="description", encoding="text"),
        NodeType(name="time", encoding="time"),
        NodeType(name="ctime", encoding="time"),
        NodeType(name="video_time", encoding="scalar"),
        NodeType(name="comment", encoding="comment"),
        *(NodeType(name=name, encoding="scalar") for name in SCALARS[1:]),
    ]
    names = {"time": "is_post_time_of", "ctime": "is_current_time_of", "video_time": "is_duration_time_of"}
    relations = [
        RelationType(edge_type=(node.name, names.get(node.name, f"is_{node.name}_of"), "video"))
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
    return Schema(target="video", node_types=tuple(nodes), relations=tuple(relations))
