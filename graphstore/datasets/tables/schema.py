"""The schema of tables: what their columns, links and groups become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from netgpt.graphstore.datasets.described import require
from netgpt.graphstore.datasets.tables.describe import (
    ColumnDescription,
    Description,
    GroupDescription,
    TableDescription,
)
from netgpt.graphstore.datasets.tables.retrieval import compared_types, nearest_relations
from netgpt.graphstore.document_types import Document, Field, Newest
from netgpt.graphstore.schema import Column, EdgeType, Encoding, NodeType, RelationType, Schema, usable

VALUE = "value"
"""The column of a type of distinct values that has them."""
TEXT = "_text"
"""What the features of a table's texts are made of: several columns as one."""
_TEXTS = ("text", "category", "categories")
NUMBERS = ("number", "time")
"""Kinds of columns that are features as numbers."""


def days(column: str) -> str:
    """What a time is as a number: days since 1970."""
    return f"_days_{column}"


def with_columns(path: Path, table: TableDescription) -> TableDescription:
    """The description with the columns that `auto` stands for, the time among them, features and document."""
    columns = table.columns
    if columns is None:
        from netgpt.graphstore.datasets.tables.read import guessed_columns

        columns, renamed = guessed_columns(table)
        table = replace(table, renamed=renamed)
    if table.columns is None and replace(table, columns=columns).is_edges:
        auto = "columns by name, or rows: nodes, as these may be edges"
        require(path, False, f"tables.{table.name}.columns", "auto", auto)
    if table.is_edges:
        return table
    if table.time and table.time not in {column.name for column in columns}:
        columns = (*columns, ColumnDescription(table.time, "time"))
    kinds = {column.name: column.kind for column in columns}
    features, place = table.features, f"tables.{table.name}.features"
    if features is None:
        given = tuple(name for name, kind in kinds.items() if kind == "vector")
        expected = "which of them the features are, or none: []"
        require(path, len(given) < 2, place, f"the vectors {', '.join(given)}", expected)
        features = given or tuple(name for name, kind in kinds.items() if kind == "text")
    for name in features:
        ok = kinds.get(name) in (*_TEXTS, *NUMBERS, "vector")
        require(path, ok, place, name, "columns that are kept, or the vector")
    vectors = [name for name in features if kinds[name] == "vector"]
    texts = [name for name in features if kinds[name] in _TEXTS]
    ok = len(vectors) < 2 and not (vectors and texts)
    require(path, ok, place, list(features), "texts or one vector, beside numbers")
    document = table.document
    if document is None:
        document = tuple(name for name, kind in kinds.items() if kind in _TEXTS)
    for name in (one for one in document if one not in table.newest):
        shown = kinds.get(name) in (*_TEXTS, *NUMBERS)
        require(path, shown, f"tables.{table.name}.document", name, "columns that are kept, and no vector")
    return replace(table, columns=columns, features=features, document=document)


def schema_of(description: Description) -> Schema:
    nodes = [_node_type(table) for table in description.nodes]
    nodes += [_value_type(name, name in description.bare) for name in description.values]
    numbers = [node for table in description.nodes if (node := _numbers_beside(table)) is not None]
    nodes += numbers
    for i, group in enumerate(description.groups):
        own = {column.name: column.kind for column in description.tables[group.of].columns or ()}
        for column in group.tells:
            place, expected = f"relations[{i}].tells", f"numbers and times of {group.of}"
            require(description.path, own.get(column) in NUMBERS, place, column, expected)
        for other in description.groups[:i]:
            same = (group.of, group.tells) == (other.of, other.tells) or not (group.tells and other.tells)
            ok = same or _told_type(group) != _told_type(other)
            expected = f"others than {list(other.tells)}, which are told under the same name"
            require(description.path, ok, f"relations[{i}].tells", list(group.tells), expected)
    told = {
        _told_type(group): NodeType(
            name=_told_type(group),
            encoding="numbers",
            inputs=(inputs := _number_inputs(description.tables[group.of], group.tells)),
            made_of=_made_of(inputs, group.tells),
            origin="each",
            of=group.of,
        )
        for group in description.groups
        if group.tells
    }
    nodes += told.values()
    nodes += compared_types(description.path, description.nearest, description.tables)
    relations = [
        RelationType(
            edge_type=edge_type,
            time=table.time if table.is_edges else "",
            numbers=edge_numbers(table) if table.is_edges else (),
            link="" if table.is_edges else link.columns[0],
        )
        for table in description.tables.values()
        for edge_type, link in link_relations(table)
    ]
    relations += [
        RelationType(edge_type=(node.name, "numbers_of", node.of), column="numbers") for node in numbers
    ]
    relations += [
        RelationType(
            edge_type=(_told_type(group) if group.tells else group.of, group.name, group.of),
            group_by=group.group,
            strict=group.strict,
        )
        for group in description.groups
    ]
    relations += nearest_relations(description.path, description.nearest, description.tables)
    documents = tuple(
        _document(description, table, nodes, relations) for table in description.nodes if table.document
    )
    return Schema(
        target=description.target,
        node_types=tuple(nodes),
        relations=tuple(relations),
        documents=documents,
    )


def _document(
    description: Description,
    table: TableDescription,
    nodes: Sequence[NodeType],
    relations: Sequence[RelationType],
) -> Document:
    """Of a table's columns as they are, and of its neighbours; of a long one the last texts are shortened
    first."""
    own = iter(_fields(table, [name for name in table.document or () if name not in table.newest]))
    fields = (
        _newest(description, table, name, nodes, relations) if name in table.newest else next(own)
        for name in table.document or ()
    )
    return Document(table.name, "", tuple(fields))


def _fields(table: TableDescription, names: Sequence[str]) -> list[Field]:
    kinds = {c.name: c.kind for c in table.columns or ()}
    texts = [name for name in reversed(names) if kinds.get(name) == "text"]
    return [
        Field(
            name,
            free=kinds.get(name, "text") in ("text", "time"),  # the key too
            cut=texts.index(name) + 1 if name in texts else 0,
            is_list=kinds.get(name) == "categories",
        )
        for name in names
    ]


def _newest(
    description: Description,
    table: TableDescription,
    name: str,
    nodes: Sequence[NodeType],
    relations: Sequence[RelationType],
) -> Field:
    """A field of a table's document that is of its newest neighbours."""
    wanted, place = table.newest[name], f"tables.{table.name}.document"
    ending = [r.edge_type for r in relations if r.edge_type[2] == table.name]
    found = [e for e in ending if wanted.of in (e[0], e[1], "/".join(e[:2]))]
    there = ", ".join("/".join(e[:2]) for e in ending) or "none"
    require(description.path, len(found) == 1, f"{place}.{name}.of", wanted.of, f"one of {there}")
    (edge_type,) = found
    heads = next(node for node in nodes if node.name == edge_type[0])
    holder = description.tables.get(heads.of if heads.origin == "each" else heads.name)
    known: tuple[str, ...] = (VALUE,)
    shown = known
    if holder is not None:
        kept = [c.name for c in holder.columns or () if c.kind != "vector"]
        known = tuple(filter(None, (holder.key, *kept)))
        own = [one for one in holder.document or () if one not in holder.newest]
        shown = (heads.made_of or heads.inputs) if heads.origin == "each" else tuple(own)
    asked = shown if wanted.show is None else wanted.show
    require(description.path, bool(asked), f"{place}.{name}.show", "none", f"some of {', '.join(known)}")
    for column in asked:
        fits = column in known
        require(description.path, fits, f"{place}.{name}.show", column, f"one of {', '.join(known)}")
    fields = _fields(holder, asked) if holder is not None else [Field(VALUE, free=True)]
    newest = Newest(edge_type, wanted.num, tuple(replace(one, cut=0) for one in fields))
    return Field(name, free=any(one.free for one in fields), newest=newest)


def _node_type(table: TableDescription) -> NodeType:
    columns = [Column(table.key, "id")] if table.key else []
    for column in table.columns or ():
        match column.kind:
            case "vector":
                continue
            case "categories":
                columns.append(Column(column.name, "text"))  # as a JSON list
            case "number":
                columns.append(Column(column.name, "number", dtype="float64"))
            case "text" | "time" | "category":
                columns.append(Column(column.name, column.kind))
    kinds = {c.name: c.kind for c in table.columns or ()}
    features = tuple(name for name in table.features or () if kinds[name] not in NUMBERS)
    encoding: Encoding = "text" if features else "none"
    inputs: tuple[str, ...] = (TEXT,) if features else ()
    if len(features) == 1 and kinds[features[0]] in ("vector", "text"):
        encoding, inputs = "given" if kinds[features[0]] == "vector" else "text", features
    elif not features and table.features:
        encoding, inputs = "numbers", _number_inputs(table, table.features)
    return NodeType(
        name=table.name,
        encoding=encoding,
        inputs=inputs,
        made_of=_made_of(inputs, features or table.features or ()),
        columns=tuple(columns),
        time=table.time,
    )


def _value_type(name: str, is_bare: bool) -> NodeType:
    """Of the distinct values of links; is_bare: known by themselves alone."""
    encoding: Encoding = "none" if is_bare else "text"
    inputs = () if is_bare else (VALUE,)
    return NodeType(name=name, encoding=encoding, inputs=inputs, columns=(Column(VALUE, "id"),))


def _numbers_beside(table: TableDescription) -> NodeType | None:
    """Nodes that have the numbers among a table's features, where it has others too: one for each row."""
    kinds = {c.name: c.kind for c in table.columns or ()}
    numbers = tuple(name for name in table.features or () if kinds[name] in NUMBERS)
    if not numbers or len(numbers) == len(table.features or ()):
        return None
    inputs = _number_inputs(table, numbers)
    return NodeType(
        name=f"{table.name}_numbers",
        encoding="numbers",
        inputs=inputs,
        made_of=_made_of(inputs, numbers),
        origin="each",
        of=table.name,
    )


def edge_numbers(table: TableDescription) -> tuple[str, ...]:
    """Columns that are numbers of edges."""
    return tuple(column.name for column in table.columns or () if column.kind == "number")


def _number_inputs(table: TableDescription, names: Sequence[str]) -> tuple[str, ...]:
    kinds = {c.name: c.kind for c in table.columns or ()}
    return tuple(days(name) if kinds[name] == "time" else name for name in names)


def _made_of(inputs: tuple[str, ...], columns: tuple[str, ...]) -> tuple[str, ...]:
    """The columns, where the inputs are others."""
    return () if inputs == columns else columns


def relation_names(path: Path, table: TableDescription, values: Sequence[str]) -> dict[str, str]:
    """What the relations of a column's values are called: `/film/director` is film_director."""
    names: dict[str, str] = {}
    place = f"tables.{table.name}.relation"
    for value in values:
        name = usable(value)
        require(path, bool(name), place, value, "values with letters or digits")
        other = names.setdefault(name, value)
        require(path, other == value, place, f"{value!r} and {other!r}", f"one of them to be called {name}")
    return {value: name for name, value in names.items()}


def _told_type(group: GroupDescription) -> str:
    return "_".join((group.of, *group.tells))


@dataclass(frozen=True)
class Link:
    """Where the edges of a relation are."""

    table: TableDescription
    columns: Sequence[str]
    """One, or of a table of edges both."""
    is_reverse: bool = False
    part: int = 0
    """Of a table whose relations are values of a column: the number of the value."""


def link_relations(table: TableDescription) -> Iterator[tuple[EdgeType, Link]]:
    """The relations of a table's links."""
    if table.is_edges:
        (first, src), (second, dst) = table.links.items()
        names = [name for _, name in table.relations] or [table.relation_name or table.name]
        ends = [(name, src, dst, [first, second], part) for part, name in enumerate(names)]
    else:
        ends = [(column, table.name, to, [column], 0) for column, to in table.links.items()]
    for name, src, dst, columns, part in ends:
        if table.reverse != "only":
            yield (src, name, dst), Link(table, columns, False, part)
        if table.reverse:
            yield (dst, f"rev_{name}", src), Link(table, columns, True, part)
