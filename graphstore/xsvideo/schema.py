"""The node types and relations of XS-Video."""

from __future__ import annotations

from netgpt.graphstore.schema import NodeType, RelationType, Schema

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
