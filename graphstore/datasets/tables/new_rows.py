"""New rows of a store's target, for prediction: one file with the columns that the store was built from.

What the store was built from is in its attributes, as `kept` says it. New rows link to what the store has; a
value that it has not is no edge, and is counted. Columns that no model reads, the label among them, may be
absent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from netgpt.graphstore.dataset import Block, BuildConfig, ReadReport
from netgpt.graphstore.datasets.tables import TableSource, stamp
from netgpt.graphstore.datasets.tables.describe import (
    SUFFIXES,
    ColumnDescription,
    Description,
    TableDescription,
)
from netgpt.graphstore.datasets.tables.schema import link_relations
from netgpt.graphstore.errors import FormatError, SourceError, StoreError
from netgpt.graphstore.files import Json, file_digest
from netgpt.graphstore.keys import AddedKeys
from netgpt.graphstore.schema import EdgeType, RelationType
from netgpt.graphstore.sort import Piece
from netgpt.graphstore.store import Store


def kept(table: TableDescription) -> Json:
    """A table's description as a store keeps it: without its files and the neighbours of its document."""
    shown = table.document and tuple(name for name in table.document if name not in table.newest)
    made = asdict(replace(table, document=shown))
    return {name: value for name, value in made.items() if name not in ("paths", "joins", "newest")}


def _table(made: Json, data: Path) -> TableDescription:
    """The same of another file, which has what was joined before, and vectors in a column of lists."""
    own = {"file": "", "constant": "", "joined": False}
    columns = tuple(ColumnDescription(**{**column, **own}) for column in made["columns"])
    values: Json = {**made, "columns": columns, "header": tuple(made["header"]), "relations": ()}
    for name in ("features", "document"):
        values[name] = None if made[name] is None else tuple(made[name])
    return TableDescription(**values, paths=(data,))


class NewRows(TableSource):
    """Rows whose nodes are numbered from the store's number of nodes on; edges are those that end in them."""

    joins_store = True

    def __init__(
        self, store: Store, data: Path, config: BuildConfig, report: ReadReport | None = None
    ) -> None:
        from netgpt.graphstore.datasets.tables.read import column_names

        made = store.attributes.get("target_table")
        if made is None:
            raise FormatError(
                f"{store.path}: found a store that does not say what it was built from, expected one of this "
                "version; build it again"
            )
        if data.suffix not in SUFFIXES or not data.is_file():
            raise StoreError(
                f"{data}: found no such file, expected one whose name ends in {', '.join(SUFFIXES)}"
            )
        self.store, self.path, self.file, self.schema = store, data, str(data), store.schema
        self.report = report if report is not None else ReadReport()
        self._skips, self._skips_links = config.on_error == "skip", True
        table = _table(made, data)
        there = column_names(table, data)
        asked = {*(table.features or ()), *(table.document or ()), *table.links, table.key, table.time}
        for relation in store.schema.relations:
            if relation.nearest is not None and relation.edge_type[2] == store.schema.target:
                asked |= {*store.schema.compared(relation.nearest), relation.nearest.time}
        columns = []
        for column in table.columns or ():
            absent = table.renamed.get(column.name, column.name) not in there
            if absent and column.name in asked:
                raise SourceError(str(data), None, column.name, "no such column", "all that models read")
            columns.append(replace(column, absent=absent))
        table = replace(table, columns=tuple(columns))
        self.tables = {table.name: table}
        self.description = Description(data, table.name, self.tables, ())
        self._stamps = {data: stamp(data)}
        self._prepare(new_values=False)
        self._num_old = store.num_nodes[table.name]

    def digest(self) -> str:
        return file_digest(self.path)

    def blocks(self) -> Iterator[Block]:
        self.report.clear()
        self._counted.clear()
        self._is_read = False
        (table,) = self.tables.values()
        types = {*table.links.values(), *([table.name] if table.key else [])}
        self._keys = {}
        for name in types:
            self._keys[name] = AddedKeys(self.store.keys(name))
        yield from self._rows(table)
        self._is_read = True

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        """Edges of new nodes, in the numbers of the store and the new rows together."""
        self._read()
        (table,) = self.tables.values()
        link = dict(link_relations(table)).get(edge_type)
        if link is None or edge_type[2] != table.name:
            return
        for piece, _ in self._linked(table, link.columns):
            rows, linked = piece.heads + self._num_old, piece.tails
            heads, tails = (linked, rows) if link.is_reverse else (rows, linked)
            new = tails >= self._num_old
            yield Piece(heads[new], tails[new], piece.file, piece.first)

    def group(
        self, relation: RelationType, num_nodes: int, memory_bytes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """By a link, of the new rows alone."""
        self._read()
        (table,) = self.tables.values()
        key = np.full(num_nodes - self._num_old, -1, np.int64)
        for piece, _ in self._linked(table, [str(relation.group_by)]):
            key[piece.heads] = piece.tails
        return key, self._times(table)
