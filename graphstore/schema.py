"""What a graph is made of: node types with columns and features, relations, and documents.

A schema drives: the writer, the in-memory join, loaders and prompts ask it and switch on no name. It is data,
written into the store's attributes and read back from there, so that a store explains itself. Edge types are
(source, relation, destination) triples; edges point from the head (source) to the tail (destination).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from netgpt.graphstore.document_types import Document, Field
from netgpt.graphstore.relation_types import SCORE, EdgeType, Nearest, RelationType, edge_name

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
"""What node types, relations and columns may be called: their names are folders."""

MAX_NODES = 1 << 60
"""Of a type, and edges of a relation: fewer than this."""


def usable(name: str) -> str:
    """A name with an underscore for what no name may have: `Movie Title` is Movie_Title, `~id` is id.

    Empty where nothing is left of it.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")


Kind = Literal["id", "text", "number", "time", "category"]
Encoding = Literal["text", "time", "scalar", "numbers", "video", "text_time", "given", "none"]
Origin = Literal["rows", "values", "each"]

NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "float16", "float32", "float64")
_FORMER_ENCODINGS = {"comment": "text_time"}
"""Names in formats 1 and 2."""


@dataclass(frozen=True)
class Column:
    """One value for each node of a type, kept in the store."""

    name: str
    kind: Kind
    title: str = ""
    """How a person calls it; by default its name."""
    dtype: str = ""
    """Type of its numbers; times are int64, codes of categories int32, numbers by default float32."""
    unknown: float | None = None
    """The number that says: not known. Of floating point NaN says it too."""
    low: float | None = None
    """Least number that there may be."""
    high: float | None = None
    """Greatest number that there may be."""
    array: str = ""
    """Name of its array, where another column has the one of its own name (in old formats)."""

    @property
    def number_type(self) -> np.dtype[Any]:
        """Type of the stored numbers; of a category of its codes."""
        return np.dtype({"time": "int64", "category": "int32"}.get(self.kind, self.dtype or "float32"))

    @property
    def is_text(self) -> bool:
        """Kept as strings."""
        return self.kind in ("id", "text")

    def path(self, node_type: str) -> str:
        """Where its values are in a store; of a category the folder of `code` and `value`."""
        name = self.array or self.name
        return f"nodes/{node_type}/{f'keys/{name}' if self.kind == 'category' else name}"


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A type of nodes: where they come from, what is kept of them, and how they become vectors."""

    name: str
    encoding: Encoding = "none"
    """How `inputs` become the features: text: an encoder's vector; time: a sinusoidal code; scalar:
    log(1 + n); numbers: each as it is, its logarithm, and whether it is known; video: a vector by the video's
    key; text_time: text followed by time; given: vectors as they are; none: no features."""
    inputs: tuple[str, ...] = ()
    """Columns of the rows that the features are made of; of `values` the values themselves."""
    made_of: tuple[str, ...] = ()
    """Columns that the inputs were made of, where they are no columns themselves: several as one text."""
    columns: tuple[Column, ...] = ()
    """What is kept of the nodes besides; `rows` alone have some."""
    time: str = ""
    """The time column that says when a node came to be: the order of rows of groups."""
    origin: Origin = "rows"
    """rows: a node for each row of the table of its own name; values: one for each distinct value of the
    category `column` of the type `of`; each: one for each node of the type `of`, numbered as that is."""
    of: str = ""
    """The type whose rows or values these are; of `rows` the parent, if they are of a child table."""
    column: str = ""
    """The category that `values` are of; for rows of a child table the number of the parent's row."""
    steps: tuple[float, ...] = ()
    """Thresholds of the raw number that a model may be told a scalar to be above."""
    dim: int = 0
    """Width of features that no encoder sets: of videos where there are none."""

    @property
    def is_distinct(self) -> bool:
        """Features are stored once a distinct content, with a row number for each node."""
        return self.encoding in ("video", "time") or (self.encoding == "text" and self.origin != "values")

    @property
    def table(self) -> str:
        """The table that its inputs are columns of; of `values` the one that has the category."""
        return self.name if self.origin == "rows" else self.of

    def column_named(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)

    def title_of(self, name: str) -> str:
        """How a person calls a column; its name where it has no title, or there is none of that name."""
        column = self.column_named(name)
        return (column.title if column else "") or name


@dataclass(frozen=True)
class Split:
    """The split that a data set comes with: nodes of the target before some number are train, others test."""

    column: str
    until: int
    """First value of the test part."""
    shown: str = ""
    """The last of train as a person says it: a date."""


@dataclass(frozen=True, kw_only=True)
class Schema:
    target: str
    """The type that loaders take seeds of where they are told none."""
    node_types: tuple[NodeType, ...]
    relations: tuple[RelationType, ...]
    documents: tuple[Document, ...] = ()
    split: Split | None = None

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return tuple(r.edge_type for r in self.relations)

    @property
    def encoded_types(self) -> tuple[str, ...]:
        """Names of the node types that have features."""
        return tuple(n.name for n in self.node_types if n.encoding != "none")

    def node_type(self, name: str) -> NodeType:
        """The node type of a name. KeyError for others."""
        for node in self.node_types:
            if node.name == name:
                return node
        raise KeyError(name)

    def relation_type(self, edge_type: EdgeType) -> RelationType:
        """The relation type of an edge type. KeyError for others."""
        for relation in self.relations:
            if relation.edge_type == edge_type:
                return relation
        raise KeyError(edge_type)

    def document(self, node_type: str) -> Document | None:
        """What a prompt shows of a node, where the data set says it."""
        return next((d for d in self.documents if d.node_type == node_type), None)

    @property
    def given_relations(self) -> tuple[RelationType, ...]:
        """The relations that do not follow from the nodes' columns: lists, and groups by what is not kept."""
        return tuple(
            r
            for r in self.relations
            if r.rule == "listed"
            or (r.group_by is not None and self.node_type(r.edge_type[2]).column_named(r.group_by) is None)
        )

    def is_numbered_as(self, name: str, other: str) -> bool:
        """Whether a type is another, or has one node for each of its nodes, with the same number."""
        node = self.node_type(name)
        return name == other or (node.origin == "each" and node.of == other)

    def linked(self, edge_type: EdgeType) -> NodeType:
        """The end of a relation with a column rule whose nodes come from the other end's."""
        src, _, dst = edge_type
        for own, other in ((src, dst), (dst, src)):
            if self.node_type(own).of == other:
                return self.node_type(own)
        raise ValueError(f"{edge_name(edge_type)}: found a column rule, but neither end comes from the other")

    def to_dict(self) -> dict[str, Any]:
        raw = asdict(self)
        raw["documents"] = [document.to_dict() for document in self.documents]
        for node in raw["node_types"]:
            if not node["made_of"]:
                del node["made_of"]
        raw["relations"] = [relation.to_dict() for relation in self.relations]
        return raw

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Schema:
        """The schema of a store's attributes. ValueError, KeyError, TypeError or AttributeError where it is
        none."""
        split = raw.get("split")
        schema = Schema(
            target=raw["target"],
            node_types=tuple(_node_type(node) for node in raw["node_types"]),
            relations=tuple(RelationType.from_dict(r) for r in raw["relations"]),
            documents=tuple(Document.from_dict(d) for d in raw.get("documents", ())),
            split=None if split is None else Split(**split),
        )
        for problem in schema.problems():
            raise ValueError(problem)
        return schema

    def problems(self) -> Iterator[str]:
        """What does not fit together in it, one line each."""
        names = {n.name for n in self.node_types}
        if len(names) < len(self.node_types) or len(set(self.edge_types)) < len(self.relations):
            yield "a node type or relation twice"
        for name in (*names, *(part for e in self.edge_types for part in e)):
            if not NAME.fullmatch(name):
                yield f"name {name!r}"
        if self.target not in names:
            yield f"target {self.target!r}"
            return
        for node in self.node_types:
            yield from self._node_problems(node)
        for relation in self.relations:
            src, _, dst = relation.edge_type
            if not {src, dst} <= names:
                yield f"edge type from {src!r} to {dst!r}"
            elif relation.rule == "group" and not self.is_numbered_as(src, dst):
                yield f"{edge_name(relation.edge_type)}: a group of two types"
            elif relation.nearest is not None:
                yield from self._nearest_problems(relation, relation.nearest)
            elif relation.rule != "listed" and (relation.time or relation.numbers or relation.held):
                yield f"{edge_name(relation.edge_type)}: times, numbers or parts of edges that are not listed"
            elif relation.group_by is not None:
                node = self.node_type(dst)
                if node.column_named(relation.group_by) is not None and not node.time:
                    yield f"{edge_name(relation.edge_type)}: a group of nodes without a time"
            elif len({*relation.numbers}) < len(relation.numbers) or not all(
                NAME.fullmatch(name) for name in (*relation.numbers, *relation.held, relation.time or "time")
            ):
                yield f"{edge_name(relation.edge_type)}: {relation.time!r} and {relation.numbers} of edges"
            elif relation.rule == "column":
                try:
                    self.linked(relation.edge_type)
                except ValueError as error:
                    yield str(error)
        for document in self.documents:
            yield from document.phrase_problems()
            columns = self.node_type(document.node_type).columns if document.node_type in names else ()
            if not document.column:
                yield from self._field_problems(document.node_type, document.fields)
            elif not any(c.name == document.column and c.kind == "text" for c in columns):
                yield f"a document in {document.node_type}.{document.column}, expected a text column"
        if self.split is not None:
            column = self.node_type(self.target).column_named(self.split.column)
            if column is None or column.kind not in ("time", "number") or type(self.split.until) is not int:
                yield f"a split by {self.split.column!r}, expected a number or time of the target"

    def _nearest_problems(self, relation: RelationType, nearest: Nearest) -> Iterator[str]:
        name, (src, _, dst) = edge_name(relation.edge_type), relation.edge_type
        tail = self.node_type(dst)
        if src != dst or relation.numbers != (SCORE,) or relation.held or relation.time:
            yield f"{name}: what is nearest of another type, or with other numbers than its {SCORE}"
        if type(nearest.k) is not int or not 1 <= nearest.k < 1 << 20:
            yield f"{name}: the nearest {nearest.k!r}"
        if not nearest.by or len({*nearest.by}) < len(nearest.by):
            yield f"{name}: what is nearest by {nearest.by}"
        for by in nearest.by:
            if by not in self.encoded_types or not self.is_numbered_as(by, dst):
                yield f"{name}: what is nearest by {by!r}, expected a type of {dst} that has features"
        if nearest.time and ((time := tail.column_named(nearest.time)) is None or time.kind != "time"):
            yield f"{name}: found no time column {nearest.time!r} of {dst}"
        if nearest.apart and ((one := tail.column_named(nearest.apart)) is None or one.kind != "category"):
            yield f"{name}: found no category {nearest.apart!r} of {dst}"
        if (bank := nearest.bank) is not None:
            kinds = ("category",) if bank.until is None else ("number", "time")
            column = tail.column_named(bank.column)
            if column is None or column.kind not in kinds or type(bank.until or 0) is not int:
                yield f"{name}: found no {' or '.join(kinds)} column {bank.column!r} of {dst} for its bank"

    def _field_problems(self, node_type: str, fields: tuple[Field, ...]) -> Iterator[str]:
        columns = {
            column.name for node in self.node_types if node.name == node_type for column in node.columns
        }
        for field in fields:
            newest = field.newest
            if newest is None:
                if field.name not in columns:
                    yield f"a document of {node_type}.{field.name}, expected a column of that name"
            elif newest.edge_type not in self.edge_types or newest.edge_type[2] != node_type:
                yield f"{field.name} of the heads of {newest.edge_type}, expected a relation to {node_type}"
            elif newest.num < 1 or newest.known_s < 0 or any(one.newest for one in newest.fields):
                yield f"{field.name} of {newest.num} heads, or of heads of heads"
            elif newest.apart and (
                self.holder(newest.edge_type[0]) != node_type
                or (one := self.node_type(node_type).column_named(newest.apart)) is None
                or one.kind != "category"
            ):
                yield f"{field.name}: found no category {newest.apart!r} of both ends"
            else:
                yield from self._field_problems(self.holder(newest.edge_type[0]), newest.fields)

    def tells(self, relation: RelationType, column: str) -> bool:
        """Whether a relation that ends in the target follows from a column of the target's own rows: then it
        tells that column of the nodes themselves."""
        src, name, tail = relation.edge_type
        rows = src if name == relation.link else tail  # whose column the link is
        by_link = relation.link == column and rows == self.target
        by_group = relation.rule == "group" and column in (
            relation.group_by,
            self.node_type(self.target).time,
        )
        by_column = bool(column) and relation.column == column
        by_nearest = False
        if column and (nearest := relation.nearest) is not None:
            by_nearest = column in {*self.compared(nearest), nearest.apart, nearest.time}
        return tail == self.target and (by_link or by_group or by_column or by_nearest)

    def compared(self, nearest: Nearest) -> set[str]:
        """Columns whose contents say which nodes are alike."""
        types = map(self.node_type, nearest.by)
        return {name for node in types for name in (*node.inputs, *node.made_of)}

    def is_strict(self, relation: RelationType) -> bool:
        """Whether a rule lets no head in that is not earlier than its tail, by the time of the tails'
        type."""
        if relation.nearest is not None:
            return (
                bool(relation.nearest.time)
                and relation.nearest.time == self.node_type(relation.edge_type[2]).time
            )
        return relation.rule == "group" and relation.strict

    def holder(self, node_type: str) -> str:
        """The type that has the columns: the other one, where there is a node for each of its rows."""
        node = self.node_type(node_type)
        return node.of if node.origin == "each" else node_type

    def _node_problems(self, node: NodeType) -> Iterator[str]:
        if node.encoding not in get_args(Encoding):
            yield f"encoding {node.encoding!r}"
        if node.origin not in get_args(Origin) or type(node.dim) is not int or not 0 <= node.dim < 1 << 24:
            yield f"{node.name}: origin {node.origin!r} or width {node.dim!r}"
        if len({c.name for c in node.columns}) < len(node.columns) or (
            node.columns and node.origin != "rows"
        ):
            yield f"{node.name}: columns of nodes that are no rows, or one twice"
        for column in node.columns:
            if column.kind not in get_args(Kind) or not NAME.fullmatch(column.name):
                yield f"{node.name}: column {column.name!r} of kind {column.kind!r}"
            elif (column.array and not NAME.fullmatch(column.array)) or (
                column.dtype and column.dtype not in NUMBERS
            ):
                yield f"{node.name}: column {column.name!r} of {column.dtype!r} in {column.array!r}"
            bounds = (column.unknown, column.low, column.high)
            if not all(bound is None or isinstance(bound, int | float) for bound in bounds):
                yield f"{node.name}: column {column.name!r} with the bounds {bounds}"
        if not all(isinstance(step, int | float) for step in node.steps):
            yield f"{node.name}: steps {node.steps}"
        if node.time and ((time := node.column_named(node.time)) is None or time.kind != "time"):
            yield f"{node.name}: found no time column {node.time!r}"
        parent = next((n for n in self.node_types if n.name == node.of), None)
        if node.origin != "rows" or node.of:
            if parent is None or parent.origin != "rows" or parent is node:
                yield f"{node.name}: found no rows of {node.of!r} that it comes from"
            elif node.origin == "values":
                category = parent.column_named(node.column)
                if category is None or category.kind != "category":
                    yield f"{node.name}: found no category {node.of}.{node.column}"


def _node_type(raw: Mapping[str, Any]) -> NodeType:
    encoding = raw["encoding"]
    lists = {name: tuple(raw[name]) for name in ("inputs", "made_of", "steps") if name in raw}
    columns = tuple(Column(**column) for column in raw.get("columns", ()))
    known = {"encoding": _FORMER_ENCODINGS.get(encoding, encoding), "columns": columns, **lists}
    return NodeType(**{**raw, **known})
