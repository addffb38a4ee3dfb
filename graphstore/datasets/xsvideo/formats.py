"""Stores of formats 1 and 2: what their attributes mean today, and columns that they do not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.xsvideo.annotation import INDICATORS
from netgpt.graphstore.datasets.xsvideo.schema import split_until, xs_video
from netgpt.graphstore.datasets.xsvideo.source import age_days, age_zero
from netgpt.graphstore.schema import Column
from netgpt.graphstore.store import Graph


def upgrade(attributes: dict[str, Any]) -> dict[str, Any]:
    """Attributes as format 3 has them. ValueError, KeyError or TypeError where they are of no such store."""
    build, raw = dict(attributes["build"]), attributes["schema"]
    if not all(isinstance(attributes[name], str) for name in ("ties", "train_until")):
        raise ValueError("ties or train_until")
    video_dim = build.get("video_dim", 3584)
    schema = xs_video(strict_ties=attributes["ties"] == "strict", video_dim=video_dim)
    edge_types = [tuple(relation["edge_type"]) for relation in raw["relations"]]
    node_types = [node["name"] for node in raw["node_types"]]
    if raw["target"] != schema.target or edge_types != list(schema.edge_types):
        raise ValueError("records of no video, or other relations")
    if node_types != [node.name for node in schema.node_types]:
        raise ValueError(f"node types {node_types}")
    num_platforms = attributes["num_nodes"]["platform"]
    former = (
        Column("split", "number", dtype="int8", low=0, high=1),
        Column("platform_code", "number", dtype="int32", low=-1, high=num_platforms - 1, array="platform"),
    )
    video, *others = schema.node_types
    video = replace(video, columns=(*video.columns, *former))
    split = split_until(attributes["train_until"])
    build.pop("train_until", None)
    schema = replace(schema, node_types=(video, *others), split=split)
    return {**attributes, "schema": schema.to_dict(), "build": build}


def derived(graph: Graph, name: str) -> np.ndarray:
    """A column of the states from the others: [N]. KeyError for others than the two of format 3."""
    post, sampled = graph.column("video", "time"), graph.column("video", "ctime")
    if name == "age_days":
        return age_days(post, sampled)
    if name == "age_zero":
        everything = np.arange(graph.num_nodes["video"])
        counts = [graph.features(indicator).gather(everything) for indicator in INDICATORS]
        return age_zero(post, sampled, np.concatenate(counts, axis=1))
    raise KeyError(name)
