"""Documents of nodes: the JSON objects that prompts show."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from netgpt.graphstore.look import said_time
from netgpt.graphstore.schema import Document, Field

if TYPE_CHECKING:
    from netgpt.graphstore.store import Graph


def documents(graph: Graph, document: Document, nodes: Iterable[int]) -> Iterator[tuple[str, str]]:
    """(id, JSON text) of some nodes of the document's type, in their order.

    Of a document that no column holds, each field is the column of its name: texts, ids, categories and lists
    of them as they are, whole numbers without a point, times as dates; what has no value is left out.
    """
    ids = graph.node_names(document.node_type)
    if document.column:
        texts = graph.strings(document.node_type, document.column)
        yield from ((ids[v], texts[v]) for v in nodes)
        return
    cells = [(field.name, _cell(graph, document.node_type, field)) for field in document.fields]
    for v in nodes:
        values = ((name, cell(v)) for name, cell in cells)
        shown = {name: value for name, value in values if value not in (None, "", [])}
        yield ids[v], json.dumps(shown, ensure_ascii=False)


def _cell(graph: Graph, node_type: str, field: Field) -> Callable[[int], Any]:
    """What a node's field is, by the node's number; None, or empty, where it has no value."""
    column = graph.schema.node_type(node_type).column_named(field.name)
    assert column is not None  # the schema's own check
    if column.kind == "category":
        codes, names = graph.category(node_type, field.name)
        return lambda v: names[codes[v]] if codes[v] >= 0 else None
    if column.kind in ("text", "id"):
        texts = graph.strings(node_type, field.name)
        return (lambda v: json.loads(texts[v])) if field.is_list else texts.__getitem__
    values = graph.column(node_type, field.name)
    if column.kind == "time":
        return lambda v: said_time(float(values[v])).removesuffix(" 00:00:00")
    return lambda v: _number(values[v], column.unknown)


def _number(value: np.generic, unknown: float | None) -> int | float | None:
    number = float(value)
    if np.isnan(number) or number == unknown:
        return None
    return int(number) if number.is_integer() else number
