"""Documents of nodes: the JSON objects that prompts show."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from netgpt.graphstore.document_types import Document, Field, Newest
from netgpt.graphstore.look import said_time

if TYPE_CHECKING:
    from netgpt.graphstore.store import Graph

_NOTHING: tuple[Any, ...] = (None, "", [])
"""Values of fields that are left out."""


def documents(graph: Graph, document: Document, nodes: Iterable[int]) -> Iterator[tuple[str, str]]:
    """(id, JSON text) of some nodes of the document's type, in their order.

    Of a document that no column holds, each field is the column of its name: texts, ids, categories and lists
    of them as they are, whole numbers without a point, times as dates; or what its newest neighbours have.
    What has no value is left out.
    """
    ids = graph.node_names(document.node_type)
    lists = [field for field in document.fields if field.newest is not None]
    if document.column:
        texts = graph.strings(document.node_type, document.column)
        if not lists:
            yield from ((ids[v], texts[v]) for v in nodes)
            return
        beside = _row(graph, document.node_type, lists)
        for v in nodes:
            yield ids[v], json.dumps({**beside(v), **json.loads(texts[v])}, ensure_ascii=False)
        return
    shown = _row(graph, document.node_type, document.fields)
    for v in nodes:
        yield ids[v], json.dumps(shown(v), ensure_ascii=False)


def _row(graph: Graph, node_type: str, fields: Iterable[Field]) -> Callable[[int], dict[str, Any]]:
    """What a node shows, by the node's number: fields without a value are left out."""
    cells = [(field.name, _cell(graph, node_type, field)) for field in fields]

    def shown(v: int) -> dict[str, Any]:
        values = ((name, cell(v)) for name, cell in cells)
        return {name: value for name, value in values if value not in _NOTHING}

    return shown


def _cell(graph: Graph, node_type: str, field: Field) -> Callable[[int], Any]:
    """What a node's field is, by the node's number; None, or empty, where it has no value."""
    if field.newest is not None:
        heads = _in_order(newest_heads(graph, field.newest), field.newest)
        shown = _head_row(graph, graph.schema.holder(field.newest.edge_type[0]), field.newest)
        if len(field.newest.fields) > 1:
            return lambda v: [one for head in heads(v) if (one := shown(head))]
        return lambda v: [value for head in heads(v) for value in shown(head).values()]
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


def _in_order(heads: Callable[[int], list[int]], newest: Newest) -> Callable[[int], list[int]]:
    return (lambda v: heads(v)[::-1]) if newest.oldest_first else heads


def _head_row(graph: Graph, node_type: str, newest: Newest) -> Callable[[int], dict[str, Any]]:
    """What a head shows: its columns, or keys of the text column that its own document is in."""
    kept = {column.name for column in graph.schema.node_type(node_type).columns}
    document = graph.schema.document(node_type)
    own = [field for field in newest.fields if field.name in kept]
    if len(own) == len(newest.fields) or document is None or not document.column:
        return _row(graph, node_type, newest.fields)
    texts, columns = graph.strings(node_type, document.column), _row(graph, node_type, own)

    def shown(v: int) -> dict[str, Any]:
        values = {**json.loads(texts[v]), **columns(v)}
        return {one.name: values[one.name] for one in newest.fields if values.get(one.name) not in _NOTHING}

    return shown


def newest_heads(graph: Graph, newest: Newest) -> Callable[[int], list[int]]:
    """The newest heads of a node that count, by its number: the newest first; of one moment the last in the
    row.

    The order is that of the edges' times, else of the heads'. Where the node has a time too, those count that
    are earlier, edge and head. Without times the last of the row are the newest.
    """
    relation, (src, _, dst) = graph.relation(newest.edge_type), newest.edge_type
    own_times, head_times = graph.times.get(dst), graph.times.get(src)
    is_group = graph.schema.relation_type(newest.edge_type).rule == "group"
    codes = graph.category(dst, newest.apart)[0] if newest.apart else None

    def counted(heads: Iterable[int], v: int) -> list[int]:
        """The first that count."""
        made: list[int] = []
        seen = set() if codes is None else {int(codes[v])}
        for head in heads:
            is_known = own_times is None or head_times is None or not newest.known_s
            if not is_known and head_times[head] + newest.known_s > own_times[v]:  # type: ignore[index]
                continue
            value = -1 if codes is None else int(codes[head])
            if value >= 0 and value in seen:
                continue
            seen.add(value)
            made.append(int(head))
            if len(made) == newest.num:
                break
        return made

    def in_order(v: int) -> list[int]:
        """Of a row that is in the order of its times: few more are read than are wanted."""
        part, row = relation.part_of(v)
        first, last = int(part.begin[row]), int(part.end[row])
        own = -1 if part.rank is None else first + int(part.rank[row])

        def time_at(place: int) -> int:
            if part.time is not None:
                return int(part.time[place])
            assert head_times is not None
            return int(head_times[part.indices[place]])

        def head_is_earlier(place: int) -> bool:
            if own_times is None or head_times is None:
                return True
            return bool(head_times[part.indices[place]] < own_times[v])

        if own_times is not None:
            last = bisect_left(range(last), int(own_times[v]), lo=first, key=time_at)
        places = (i for i in range(last - 1, first - 1, -1) if i != own and head_is_earlier(i))
        return counted((int(part.indices[i]) for i in places), v)

    def sorted_by_time(v: int) -> list[int]:
        heads = relation.neighbors(v)
        if head_times is not None:
            times = np.asarray(head_times[heads])
            if own_times is not None:
                earlier = times < own_times[v]
                heads, times = heads[earlier], times[earlier]
            heads = heads[np.argsort(times, kind="stable")]
        return counted(heads[::-1].tolist(), v)

    return in_order if is_group or relation.time is not None else sorted_by_time


def _number(value: np.generic, unknown: float | None) -> int | float | None:
    number = float(value)
    if np.isnan(number) or number == unknown:
        return None
    return int(number) if number.is_integer() else number
