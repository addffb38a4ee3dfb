"""Relations that retrieval makes of features, and the columns of nodes that they ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from netgpt.graphstore.datasets.described import require
from netgpt.graphstore.datasets.edges.columns import NodeColumns, read_columns
from netgpt.graphstore.datasets.edges.describe import Description, NearestDescription
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.relation_types import EdgeType, Nearest, Part, RelationType, nearest_relation
from netgpt.graphstore.schema import NAME, Column

YES, NO = "yes", "no"
_FEATURES = "x"


@dataclass
class ComparedNodes:
    """What relations of a type ask of its nodes."""

    columns: list[tuple[NearestDescription, NodeColumns]] = field(default_factory=list)

    @property
    def kinds(self) -> tuple[Column, ...]:
        """The columns that a store keeps, each once."""
        return tuple({one.name: one for said, _ in self.columns for one in _kinds(said)}.values())

    def values(self, rows: slice) -> dict[str, list[str] | np.ndarray]:
        """Of some nodes, by column."""
        made: dict[str, list[str] | np.ndarray] = {}
        for said, columns in self.columns:
            if columns.time is not None:
                made[_name(said, said.time)] = columns.time[rows]
            if columns.apart is not None:
                made[_name(said, said.apart)] = columns.apart_texts(rows)
            if columns.bank is not None:
                made[_name(said, said.bank)] = [YES if one else NO for one in columns.bank[rows]]
        return made


def retrieval(edge_type: EdgeType, said: NearestDescription) -> RelationType:
    """The relation that a description means."""
    found = Nearest(
        by=(edge_type[2],),
        k=said.k,
        time=_name(said, said.time),
        apart=_name(said, said.apart),
        bank=Part(column=_name(said, said.bank), value=YES) if said.bank else None,
    )
    return nearest_relation(edge_type, found)


def column_files(said: NearestDescription) -> list[str]:
    """The files that its columns are in."""
    if said.path is not None:
        return [said.path]
    return [file for file in (said.time, said.apart, said.bank) if file]


def compared_nodes(
    path: Path, description: Description, counts: Mapping[str, int]
) -> dict[str, ComparedNodes]:
    """What is asked of the nodes of each type. StoreError for columns of another length, and where two
    columns would have one name."""
    made: dict[str, ComparedNodes] = {}
    for i, edge in enumerate(description.edges):
        said, dst = edge.nearest, edge.type[2]
        if said is None:
            continue
        place, known = f"edges[{i}].nearest", made.setdefault(dst, ComparedNodes())
        for column in _kinds(said):
            ok = bool(NAME.fullmatch(column.name)) and column.name != _FEATURES
            require(
                path, ok, place, column.name, "letters, digits, _, - and ., and not x, the features' name"
            )
            for other, _ in known.columns:
                same = [one for one in _kinds(other) if one.name == column.name]
                ok = not same or (same == [column] and _source(other, column) == _source(said, column))
                require(path, ok, place, column.name, "another name: it is that of another column")
        names = [one.name for one in _kinds(said)]
        require(path, len(set(names)) == len(names), place, ", ".join(names), "columns of different names")
        columns = read_columns(said)
        if names and len(columns) != counts[dst]:
            raise StoreError(
                f"{column_files(said)[0]}: found {len(columns)} rows, expected {counts[dst]}, one for each "
                f"node of {dst}"
            )
        known.columns.append((said, columns))
    return made


def _kinds(said: NearestDescription) -> tuple[Column, ...]:
    columns = ((said.time, "time"), (said.apart, "category"), (said.bank, "category"))
    return tuple(Column(_name(said, one), kind) for one, kind in columns if one)  # type: ignore[arg-type]


def _name(said: NearestDescription, column: str) -> str:
    """A column is called as in its table, or as its file."""
    return Path(column).stem if said.path is None else column


def _source(said: NearestDescription, column: Column) -> tuple[str | None, str, bool]:
    """Where a column is, and whether it says the bank."""
    asked = {_name(said, one): one for one in (said.time, said.apart, said.bank) if one}
    one = asked[column.name]
    return said.path, one, one == said.bank
