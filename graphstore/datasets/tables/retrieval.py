"""Relations of tables that retrieval makes: what a description says of them, and the types that they
compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from netgpt.graphstore.datasets.described import check_keys, require
from netgpt.graphstore.relation_types import Nearest, Part, RelationType, nearest_relation
from netgpt.graphstore.schema import NAME, NodeType

if TYPE_CHECKING:
    from netgpt.graphstore.datasets.tables.describe import TableDescription

KEYS = ("name", "of", "nearest", "k", "time", "bank", "apart")
COMPARED = ("text", "category", "categories", "vector")
"""Kinds of columns that have vectors."""


@dataclass(frozen=True)
class NearestDescription:
    """Rows of a table that are most alike, by some of its columns."""

    name: str
    of: str
    by: tuple[str, ...]
    k: int = 10
    time: str | None = None
    """A time column of the table; None: the table's own, if it has one; empty: heads of any time."""
    bank: tuple[str, str] | None = None
    """A category of the table and its value: which rows may be heads."""
    apart: str = ""
    """A category of the table: rows of one value are not told of each other."""
    place: str = ""
    """Where the description says it."""


def nearest_description(
    path: Path, place: str, raw: Mapping[str, Any], nodes: Sequence[str]
) -> NearestDescription:
    """Read and check one. nodes: tables whose rows are nodes. StoreError for what it cannot mean."""
    check_keys(path, place, raw, KEYS)
    name, of, by = raw.get("name"), raw.get("of"), raw.get("nearest")
    ok = isinstance(name, str) and bool(NAME.fullmatch(name))
    require(path, ok, f"{place}.name", name, "letters, digits, _, - and .")
    require(path, of in nodes, f"{place}.of", of, f"one of {', '.join(nodes)}")
    columns: Any = [by] if isinstance(by, str) else by
    ok = isinstance(columns, list) and bool(columns) and all(isinstance(one, str) for one in columns)
    ok = ok and len(set(columns)) == len(columns)
    require(path, ok, f"{place}.nearest", by, "a column, or a list of columns")
    k, time, bank, apart = raw.get("k", 10), raw.get("time"), raw.get("bank"), raw.get("apart", "")
    require(path, type(k) is int and k >= 1, f"{place}.k", k, "how many heads, from 1")
    ok = time is None or time is False or isinstance(time, str)
    require(path, ok, f"{place}.time", time, "a time column, or false: heads of any time")
    ok = bank is None or (
        isinstance(bank, dict) and len(bank) == 1 and all(isinstance(v, str) for v in bank.values())
    )
    require(path, ok, f"{place}.bank", bank, "a category and its value, such as {part: train}")
    require(path, isinstance(apart, str), f"{place}.apart", apart, "a category")
    return NearestDescription(
        name=str(name),
        of=str(of),
        by=tuple(columns),
        k=k,
        time="" if time is False else time,
        bank=None if bank is None else next((str(c), v) for c, v in bank.items()),
        apart=apart,
        place=place,
    )


def compared_types(
    path: Path, nearest: Sequence[NearestDescription], tables: Mapping[str, TableDescription]
) -> tuple[NodeType, ...]:
    """A type for each column that is compared and is not all that its table's features are made of: it has a
    node for each row."""
    made: dict[str, NodeType] = {}
    for one in nearest:
        table = tables[one.of]
        kinds = {column.name: column.kind for column in table.columns or ()}
        for column in one.by:
            kind = kinds.get(column)
            known = ", ".join(name for name, of in kinds.items() if of in COMPARED) or "none"
            require(path, kind in COMPARED, f"{one.place}.nearest", column, f"one of {known}")
            if (name := _type_of(table, column)) != table.name:
                made[name] = NodeType(
                    name=name,
                    encoding="given" if kind == "vector" else "text",
                    inputs=(column,),
                    origin="each",
                    of=table.name,
                )
    return tuple(made.values())


def _type_of(table: TableDescription, column: str) -> str:
    """The type whose features are a column's."""
    kinds = {one.name: one.kind for one in table.columns or ()}
    own = [name for name in table.features or () if kinds[name] in COMPARED]
    is_own = own == [column] and kinds[column] in ("text", "vector")
    return table.name if is_own else f"{table.name}_{column}"


def nearest_relations(
    path: Path, nearest: Sequence[NearestDescription], tables: Mapping[str, TableDescription]
) -> tuple[RelationType, ...]:
    made = []
    for one in nearest:
        table = tables[one.of]
        kinds = {column.name: column.kind for column in table.columns or ()}
        time = table.time if one.time is None else one.time
        if time:
            known = ", ".join(name for name, kind in kinds.items() if kind == "time") or "none"
            require(path, kinds.get(time) == "time", f"{one.place}.time", time, f"one of {known}, or false")
        for key, column in (("apart", one.apart), ("bank", one.bank[0] if one.bank else "")):
            known = ", ".join(name for name, kind in kinds.items() if kind == "category") or "none"
            ok = not column or kinds.get(column) == "category"
            require(path, ok, f"{one.place}.{key}", column, f"a category of {one.of}: {known}")
        found = Nearest(
            by=tuple(_type_of(table, column) for column in one.by),
            k=one.k,
            time=time,
            apart=one.apart,
            bank=None if one.bank is None else Part(column=one.bank[0], value=one.bank[1]),
        )
        made.append(nearest_relation((one.of, one.name, one.of), found))
    return tuple(made)
