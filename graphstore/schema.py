"""The node types and relations of a graph.

A schema is data: it is written into the store's attributes and read back from there, so that a
store explains itself. Edge types are (source, relation, destination) triples; edges point from the
head (source) to the tail (destination).
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

EdgeType = tuple[str, str, str]

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What node types and relations may be called: their names are folders."""

ENCODINGS = ("video", "text", "time", "scalar", "comment", "given", "none")


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

    @property
    def encoded_types(self) -> tuple[str, ...]:
        """Names of the node types that have features."""
        return tuple(n.name for n in self.node_types if n.encoding != "none")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Schema:
        """The schema of a store's attributes. ValueError, KeyError or TypeError where it is none."""
        found = Schema(
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
        names = {n.name for n in found.node_types}
        for name in (*names, *(e[1] for e in found.edge_types)):
            if not NAME.fullmatch(name):
                raise ValueError(f"name {name!r}")
        for node in found.node_types:
            if node.encoding not in ENCODINGS:
                raise ValueError(f"encoding {node.encoding!r}")
        for src, _, dst in found.edge_types:
            if not {src, dst} <= names:
                raise ValueError(f"edge type from {src!r} to {dst!r}")
        return found
