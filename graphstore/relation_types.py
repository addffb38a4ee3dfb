"""Types of edges, and where their rows come from: a list, a column, a group, or what is nearest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

EdgeType = tuple[str, str, str]

SCORE = "score"
"""The number of edges that retrieval makes: how alike both ends are."""


def edge_name(edge_type: EdgeType) -> str:
    """One string for a triple, used in messages, file paths and hashes: `src/rel/dst`."""
    return "/".join(edge_type)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Some of a type's nodes: those with a value of a category, or with a number or time below a bound."""

    column: str
    value: str = ""
    until: int | None = None
    """First number that is not of the part; None: `value` says it."""


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """Heads that retrieval finds: of a bank of nodes the k whose vectors are most alike the tail's.

    Alike is the inner product of vectors of length 1; a node with several has each at the same weight, one
    that is zero at none. A node whose vectors are all zero is in no row and has none. A row has its best head
    first, of equals the latest, then the lower number.
    """

    by: tuple[str, ...]
    """Types whose features are compared: the tails' own, or one that has a node for each of them."""
    k: int
    time: str = ""
    """Time column of the tails: heads are before the tail. Empty: any head."""
    apart: str = ""
    """Category of the tails: no two nodes of a row, the tail among them, have one value."""
    bank: Part | None = None
    """Which nodes may be heads. None: all."""


@dataclass(frozen=True, kw_only=True)
class RelationType:
    """A type of edges, and where they come from: a group, a column, retrieval, or else a list."""

    edge_type: EdgeType
    group_by: str | None = None
    """The category that head and tail share, for edges that a rule makes: same key, head not later. Heads are
    nodes of the tails' type, or of one that has a node for each of them."""
    strict: bool = False
    """True: the head's time is before the tail's; False: not after it."""
    column: str = ""
    """The column that says it, where one end's nodes come from the other's: its category, its own value, or
    the number of its parent's row."""
    nearest: Nearest | None = None
    """How they are found, for edges from the nodes that are most alike; each has a number, its `score`."""
    time: str = ""
    """What the time of a listed edge is called, where each has its own: rows are in its order."""
    numbers: tuple[str, ...] = ()
    """Numbers of a listed edge, and the score of one that is found."""
    link: str = ""
    """The column of one end's rows that says the other, of listed edges that a foreign key makes."""
    held: tuple[str, ...] = ()
    """Parts of the listed pairs, such as val and test, that are kept beside the rows and are no edges."""

    def held_path(self, part: str) -> str:
        """Where the pairs of such a part are in a store: the folder of `heads` and `tails`."""
        return f"held/{edge_name(self.edge_type)}/{part}"

    @property
    def rule(self) -> Literal["listed", "column", "group", "nearest"]:
        """Where its rows come from."""
        if self.nearest is not None:
            return "nearest"
        return "group" if self.group_by is not None else "column" if self.column else "listed"

    def to_dict(self) -> dict[str, Any]:
        """As JSON, without what stores of before do not have."""
        raw = asdict(self)
        return {
            key: raw[key] for key in raw if raw[key] or key in ("edge_type", "group_by", "strict", "column")
        }

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> RelationType:
        """ValueError, KeyError, TypeError or AttributeError for what is none."""
        nearest = raw.get("nearest")
        if nearest is not None:
            bank = nearest["bank"]
            bank = None if bank is None else Part(**bank)
            nearest = Nearest(**{**nearest, "by": tuple(nearest["by"]), "bank": bank})
        return RelationType(
            edge_type=(raw["edge_type"][0], raw["edge_type"][1], raw["edge_type"][2]),
            group_by=raw["group_by"],
            strict=raw["strict"],
            column=raw.get("column", ""),
            nearest=nearest,
            time=raw.get("time", ""),
            numbers=tuple(raw.get("numbers", ())),
            link=raw.get("link", ""),
            held=tuple(raw.get("held", ())),
        )


def nearest_relation(edge_type: EdgeType, nearest: Nearest) -> RelationType:
    """The relation of what is nearest."""
    return RelationType(edge_type=edge_type, nearest=nearest, numbers=(SCORE,))
