"""Relations that retrieval makes of features, and the columns of nodes that they ask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from netgpt.graphstore.datasets.edges.columns import NodeColumns, read_columns
from netgpt.graphstore.datasets.edges.describe import Description, NearestDescription
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.relation_types import EdgeType, Nearest, Part, RelationType, nearest_relation
from netgpt.graphstore.schema import Column

YES, NO = "yes", "no"


def retrieval(edge_type: EdgeType, said: NearestDescription) -> RelationType:
    """The relation that a description means."""
    found = Nearest(
        by=(edge_type[2],),
        k=said.k,
        time=_name(edge_type, "time") if said.time else "",
        apart=_name(edge_type, "apart") if said.apart else "",
        bank=Part(column=_name(edge_type, "bank"), value=YES) if said.bank else None,
    )
    return nearest_relation(edge_type, found)


def column_files(said: NearestDescription) -> list[str]:
    """The files that its columns are in."""
    if said.path is not None:
        return [said.path]
    return [file for file in (said.time, said.apart, said.bank) if file]


def kept_columns(edge_type: EdgeType, said: NearestDescription) -> tuple[Column, ...]:
    """The columns that a store keeps of it: they have the relation's name, whatever the files call them."""
    made = [Column(_name(edge_type, "time"), "time")] if said.time else []
    return (*made, *(Column(_name(edge_type, r), "category") for r in ("apart", "bank") if getattr(said, r)))


def _name(edge_type: EdgeType, role: str) -> str:
    return f"{edge_type[1]}_{role}"


def values_of(
    edge_type: EdgeType, columns: NodeColumns, rows: slice
) -> dict[str, Sequence[str] | np.ndarray]:
    """Of some nodes, by column."""
    made: dict[str, Sequence[str] | np.ndarray] = {}
    if columns.time is not None:
        made[_name(edge_type, "time")] = columns.time[rows]
    if columns.apart is not None:
        made[_name(edge_type, "apart")] = columns.apart_texts(rows)
    if columns.bank is not None:
        made[_name(edge_type, "bank")] = [YES if one else NO for one in columns.bank[rows]]
    return made


def columns_asked(
    path: Path, description: Description, counts: Mapping[str, int]
) -> dict[EdgeType, NodeColumns]:
    """What relations ask of their nodes. StoreError for columns of another length than these are, and where a
    group is by what would be called the same."""
    made = {}
    for i, edge in enumerate(description.edges):
        if edge.nearest is None:
            continue
        columns, dst = read_columns(edge.nearest), edge.type[2]
        if (files := column_files(edge.nearest)) and len(columns) != counts[dst]:
            raise StoreError(
                f"{files[0]}: found {len(columns)} rows, expected {counts[dst]}, one for each node of {dst}"
            )
        for column in kept_columns(edge.edge_type, edge.nearest):
            keys = [Path(e.group.key).stem for e in description.edges if e.group and e.type[2] == dst]
            if column.name in keys:
                raise StoreError(
                    f"{path}: edges[{i}].type: found {edge.type[1]!r}, expected another name: a group is by "
                    f"{column.name}, which is what its column would be called"
                )
        made[edge.edge_type] = columns
    return made
