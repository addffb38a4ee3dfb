"""Any graph as tables with keys: the convention of relational databases, from Parquet, CSV and JSON lines."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netgpt.graphstore.columns import picked
from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, ReadReport, Source
from netgpt.graphstore.datasets.described import has_tables, open_features
from netgpt.graphstore.datasets.tables.describe import (
    ColumnDescription,
    TableDescription,
)
from netgpt.graphstore.datasets.tables.join import Joined
from netgpt.graphstore.datasets.tables.parse import as_tables, read_description
from netgpt.graphstore.datasets.tables.python import write_hetero_data, write_networkx, write_tables
from netgpt.graphstore.datasets.tables.relbench import is_database
from netgpt.graphstore.datasets.tables.schema import (
    NUMBERS,
    TEXT,
    VALUE,
    Link,
    days,
    link_relations,
    relation_names,
    schema_of,
    with_columns,
)
from netgpt.graphstore.errors import RecordError, SourceError, StoreError
from netgpt.graphstore.features import DAY_S, Values, within_float32
from netgpt.graphstore.files import Json, file_digest, value_digest
from netgpt.graphstore.keys import Keys
from netgpt.graphstore.schema import EdgeType, RelationType
from netgpt.graphstore.sort import CHUNK_EDGES, Piece
from netgpt.graphstore.spill import EdgeFile, may_stay_open

__all__ = ["TableSource", "Tables", "write_hetero_data", "write_networkx", "write_tables"]

if TYPE_CHECKING:  # they import pyarrow, which to name a data set needs not
    from netgpt.graphstore.datasets.tables.batch import TableBatch
    from netgpt.graphstore.store import Store


class TableSource(Source):
    """The graph of a description. Rows are read in batches, links when their edges are asked for."""

    def __init__(self, path: Path, config: BuildConfig, report: ReadReport | None = None) -> None:
        self.path, self.file = path.absolute(), str(path)  # it is read later, perhaps from another folder
        self.report = report if report is not None else ReadReport()
        self._skips = config.on_error == "skip"
        described = read_description(path)
        self._stamps = {file: stamp(file) for table in described.tables.values() for file in _files(table)}
        self._relations: dict[str, Keys] = {}
        self.tables = {
            name: self._with_relations(with_columns(path, table)) for name, table in described.tables.items()
        }
        self.description = replace(described, tables=self.tables)
        self.schema = schema_of(self.description)
        for problem in self.schema.problems():
            raise StoreError(f"{path}: {problem}")
        self._skips_links = self._skips
        self._prepare(new_values=True)

    def _prepare(self, *, new_values: bool) -> None:
        """Nothing is known of rows yet. new_values: those of links that no table has are numbered as they
        come."""
        self._new_values = frozenset(self.description.values if new_values else ())
        self._keys: dict[str, Keys] = {}
        self._num_rows: dict[str, int] = {}
        self._left_out: dict[str, np.ndarray] = {}
        self._is_read = False
        self._numbers: dict[tuple[Path | str, ...], list[EdgeFile]] = {}
        """By scratch folder, table and columns: a file for each relation."""
        self._counted: set[tuple[str, str]] = set()
        """Tables and their links whose dangling values are counted."""

    def _with_relations(self, table: TableDescription) -> TableDescription:
        """The description with the relations that values of a column stand for."""
        if not table.relation:
            return table
        found, known = Keys(), Keys()
        for batch in self._batches(table, [table.relation]):
            found.add(batch.keys(table.relation))
        names = relation_names(self.path, table, sorted(text for some in found.batches() for text in some))
        if not names:
            raise SourceError(str(table.paths[0]), None, table.relation, "no value", "at least one relation")
        known.add_texts(list(names))
        self._relations[table.name] = known
        return replace(table, relations=tuple(names.items()))

    def digest(self) -> str:
        for file in self._stamps:
            self._check_unchanged(file)
        files = [f for table in self.tables.values() for f in (*_files(table), *_vector_files(table))]
        digests = [file_digest(file) for file in files]
        said = value_digest(as_tables(self.path)) if self.path.is_dir() else file_digest(self.path)
        return value_digest({"description": said, "files": digests})

    def num_nodes(self) -> dict[str, int]:
        self._read()
        return {
            table.name: self._num_rows[table.name]
            for table in self.description.nodes
            if not self.schema.node_type(table.name).columns
        }

    def blocks(self) -> Iterator[Block]:
        self.report.clear()
        self._counted.clear()
        self._is_read = False
        values = {name: Keys() for name in self.description.values}
        self._keys = {table.name: Keys() for table in self.description.nodes if table.key} | values
        for table in self.description.nodes:
            yield from self._rows(table)
        for table in self.tables.values():
            if table.is_edges and (own := [c for c, to in table.links.items() if to in values]):
                for batch in self._batches(table, own):
                    for column in own:
                        values[table.links[column]].add(batch.keys(column))
        for name, keys in values.items():
            if not len(keys):
                raise SourceError(self.file, None, None, f"no value of {name}", "at least one")
            for texts in keys.batches():
                yield Block(name, {VALUE: texts})
        self._is_read = True

    def _rows(self, table: TableDescription) -> Iterator[Block]:
        """The rows of a table as blocks; notes their keys, and the values that they link to."""
        columns = table.columns or ()
        node, left_out = self.schema.node_type(table.name), [np.empty(0, np.int64)]
        made = [n for n in self.schema.node_types if n.table == table.name and n.origin != "values"]
        inputs = {name for n in made for name in n.inputs}
        own = [c for c in columns if not c.joined]
        names = [c.name for c in own if c.is_read]
        joins = [Joined(one, self._batches(one, _join_columns(one), counts=True)) for one in table.joins]
        asked = list(dict.fromkeys([*([table.key] if table.key else []), *names, *table.links]))
        num = num_read = 0
        for batch in self._batches(table, asked, counts=True):
            num_read += len(batch)
            cells: dict[str, Any] = {c.name: batch.cells(c) for c in own}
            links = {column: batch.links(column, table.several(column)) for column in table.links}
            for joined in joins:
                joined.fill(cells, batch.keys(table.key))
            if table.key:
                cells[table.key] = batch.distinct(table.key, self._keys[table.name])
            rows = np.flatnonzero(batch.kept).tolist()
            left_out.append(batch.first + np.flatnonzero(~batch.kept))
            if len(rows) < len(batch):
                cells = {name: picked(values, rows) for name, values in cells.items()}
            for column, (linking, keys) in links.items():
                if table.links[column] in self._new_values:
                    self._keys[table.links[column]].add(keys.filter(batch.kept[linking]))
            num += len(rows)
            self.report.num_read += len(rows)
            if node.columns or inputs:
                yield Block(table.name, _with_inputs(table, inputs, cells))
        if not num:
            raise SourceError(str(table.paths[0]), None, None, "no rows", f"at least one of {table.name}")
        for file in _vector_files(table):
            if (num_vectors := open_features(str(file)).shape[0]) != num_read:
                raise SourceError(
                    str(file), None, None, f"{num_vectors} rows", f"{num_read}, as {table.name} has"
                )
        self._num_rows[table.name] = num
        self._left_out[table.name] = np.concatenate(left_out)

    def _batches(
        self, table: TableDescription, columns: Sequence[str], *, counts: bool = False
    ) -> Iterator[TableBatch]:
        """SourceError where a file is not what it was when the source was opened. counts: note in the report
        what is left out."""
        from netgpt.graphstore.datasets.tables.batch import TableBatch, table_batches

        report = self.report if counts else None
        for place, first, batch in table_batches(table, columns, self._check_unchanged):
            yield TableBatch(place, first, batch, skips=self._skips, report=report)

    def _check_unchanged(self, file: Path) -> None:
        if stamp(file) != self._stamps[file]:
            raise SourceError(
                str(file), None, None, "a file that changed while it was read", "one that stays"
            )

    def _read(self) -> None:
        """Have all keys: the blocks read to their end."""
        if not self._is_read:
            for _ in self.blocks():
                pass

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        self._read()
        link = self._links[edge_type]
        for piece in self._numbered(link):
            yield replace(piece, heads=piece.tails, tails=piece.heads) if link.is_reverse else piece

    @cached_property
    def _links(self) -> dict[EdgeType, Link]:
        return {
            edge_type: link for table in self.tables.values() for edge_type, link in link_relations(table)
        }

    @property
    def held_bytes(self) -> int:
        return sum(keys.nbytes for keys in self._keys.values())

    def _numbered(self, link: Link) -> Iterator[Piece]:
        """Edges of a link. While a store is built they are kept on disk as numbers, so that keys are looked
        up once for both directions and for all passes over them, and for all relations of a table."""
        table = link.table
        if self.scratch is None:
            for piece, parts in self._linked(table, link.columns):
                if parts is None:
                    yield piece
                elif (own := parts == link.part).any():
                    values = tuple(array[own] for array in piece.values)
                    yield Piece(piece.heads[own], piece.tails[own], piece.file, piece.first, values=values)
            return
        place: tuple[Path | str, ...] = (self.scratch, table.name, *link.columns)
        if place not in self._numbers:
            self._numbers[place] = self._kept(self.scratch / str(len(self._numbers)), table, link.columns)
        for heads, tails, *own_values in self._numbers[place][link.part].read(CHUNK_EDGES):
            ends = (heads.astype(np.int64), tails.astype(np.int64))
            yield Piece(*ends, str(table.paths[0]), 0, values=tuple(own_values))

    def _kept(self, path: Path, table: TableDescription, columns: Sequence[str]) -> list[EdgeFile]:
        """All edges of a link in files, one for each relation."""
        kinds = [np.dtype(np.int64 if c.kind == "time" else np.float32) for c in _own_columns(table)]
        most = max((*self._num_rows.values(), *map(len, self._keys.values())))
        node = np.dtype(np.int32 if most < 2**31 else np.int64)
        num = len(table.relations) or 1
        path.mkdir()
        dtypes = [node, node, *kinds]
        open_ = may_stay_open(num * len(dtypes))
        files = [EdgeFile(path / str(k), dtypes, stays_open=open_) for k in range(num)]
        for piece, parts in self._linked(table, columns):
            arrays = (piece.heads, piece.tails, *piece.values)
            if parts is None:
                files[0].append(*arrays)
                continue
            order = np.argsort(parts, kind="stable")
            there, begin = np.unique(parts[order], return_index=True)
            for k, some in zip(there.tolist(), np.split(order, begin[1:]), strict=True):
                files[k].append(*(array[some] for array in arrays))
        for file in files:
            file.close()
        return files

    def _linked(
        self, table: TableDescription, columns: Sequence[str]
    ) -> Iterator[tuple[Piece, np.ndarray | None]]:
        """Edges of a link, from rows to what they link to, or of a table of edges from the first to the
        second link; and of which relation each is, [n], where the table has several."""
        own = _own_columns(table)
        counts = bool(own) and (table.name, "") not in self._counted
        self._counted.add((table.name, ""))
        dangling: dict[str, tuple[RecordError, int]] = {}
        left_out = self._left_out.get(table.name, np.empty(0, np.int64))
        num = 0
        names = [*columns, *(column.name for column in own), *([table.relation] if table.relation else [])]
        for batch in self._batches(table, names, counts=counts):
            num += len(batch)
            cells = [batch.cells(c) if c.kind == "time" else within_float32(batch.cells(c)) for c in own]
            parts = None
            if table.relation:
                parts = batch.codes(table.relation, self._relations[table.name])
            linked = [batch.links(column, table.several(column)) for column in columns]
            from_row = linked[0][0]  # of a table of edges each row has one
            position = batch.first + from_row
            ends, kept = [], batch.kept[from_row]
            if len(left_out):
                kept &= ~np.isin(position, left_out)
            good = kept.copy()
            for column, (_, keys) in zip(columns, linked, strict=True):
                rows = self._keys[table.links[column]].rows(keys)
                unknown = (rows < 0) & np.asarray(keys.is_valid()) & kept
                if unknown.any():
                    i = int(np.argmax(unknown))
                    row = str(batch.row_in_file(int(from_row[i])))
                    expected = f"a {table.links[column]} that there is"
                    error = RecordError(str(batch.file), row, column, repr(keys[i].as_py()), expected)
                    if not self._skips_links:
                        raise error
                    first_error, number = dangling.get(column, (error, 0))
                    dangling[column] = (first_error, number + int(unknown.sum()))
                ends.append(rows)
                good &= rows >= 0
            if len(columns) == 1:
                ends.insert(0, position - np.searchsorted(left_out, position))
            if good.any():
                values = tuple(np.asarray(column)[from_row][good] for column in cells)
                piece = Piece(
                    ends[0][good], ends[1][good], str(batch.file), batch.row_in_file(0), values=values
                )
                yield piece, None if parts is None else parts[from_row][good]
        if table.is_edges and not num:
            raise SourceError(str(table.paths[0]), None, None, "no rows", f"at least one of {table.name}")
        for column, (error, number) in dangling.items():
            if (table.name, column) not in self._counted:  # both directions read the same links
                self._counted.add((table.name, column))
                self.report.dangles(error, number)

    def group(
        self, relation: RelationType, num_nodes: int, memory_bytes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """By a link: the number of what each node links to."""
        self._read()
        table = self.tables[relation.edge_type[2]]
        assert relation.group_by is not None
        key = np.full(num_nodes, -1, np.int64)
        for piece in self._numbered(Link(table, [relation.group_by])):
            key[piece.heads] = piece.tails
        return key, self._times(table)

    def _times(self, table: TableDescription) -> np.ndarray:
        """Of the rows that are kept: [n] int64."""
        column = next(c for c in table.columns or () if c.name == table.time)
        left_out, times = self._left_out[table.name], [np.empty(0, np.int64)]
        for batch in self._batches(table, [column.name]):
            kept = ~np.isin(batch.first + np.arange(len(batch)), left_out)
            times.append(batch.cells(column)[kept])
        return np.concatenate(times)

    def attributes(self) -> Json:
        from netgpt.graphstore.datasets.tables.new_rows import kept

        return {"target_table": kept(self.tables[self.schema.target])}


class Tables(Dataset):
    """Tables with primary and foreign keys, of anyone's own graph."""

    name = "tables"
    title = "tables"

    def reads(self, source: Path) -> bool:
        return is_database(source) if source.is_dir() else has_tables(source)

    def open(
        self,
        source: Path,
        config: BuildConfig | None = None,
        *,
        report: ReadReport | None = None,
        require_labels: bool = True,
        known_ids: Collection[str] = frozenset(),
        check_history: bool = True,
    ) -> Source:
        return TableSource(source, self.configured(config), report)

    def open_new(
        self, store: Store, source: Path, config: BuildConfig, report: ReadReport | None = None
    ) -> Source:
        from netgpt.graphstore.datasets.tables.new_rows import NewRows

        return NewRows(store, source, config, report)

    def record_file(self, record: Mapping[str, Any], name: str) -> tuple[str, bytes]:
        """As Parquet, whose types are the record's own: JSON lines take texts like times for times."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table, made = pa.Table.from_pylist([dict(record)]), io.BytesIO()
            pq.write_table(table, made)
        except (pa.ArrowException, OverflowError, TypeError) as error:
            said = " ".join(str(error).split())
            raise RecordError(
                name, None, None, f"a row that no table can have ({said})", "plain values"
            ) from None
        return ".parquet", made.getvalue()

    def commands(self) -> dict[str, Callable[..., None]]:
        from netgpt.graphstore.datasets.tables.commands import describe

        return {"describe": describe}


def stamp(file: Path) -> tuple[int, int, int]:
    """What changes where a file does."""
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _files(table: TableDescription) -> list[Path]:
    return [file for one in (table, *table.joins) for file in one.paths]


def _own_columns(table: TableDescription) -> tuple[ColumnDescription, ...]:
    """What edges of a table have of their own: their time, then numbers."""
    if not table.is_edges:
        return ()
    time = [c for c in table.columns or () if c.kind == "time"] or [ColumnDescription(table.time, "time")]
    return (*(time if table.time else ()), *(c for c in table.columns or () if c.kind == "number"))


def _join_columns(table: TableDescription) -> list[str]:
    return [table.key, *(column.name for column in table.columns or () if column.is_read)]


def _vector_files(table: TableDescription) -> list[Path]:
    return [Path(column.file) for column in table.columns or () if column.file]


def _with_inputs(table: TableDescription, inputs: set[str], cells: dict[str, Any]) -> dict[str, Values]:
    """Cells as the store keeps them, and what features are made of besides."""
    kinds = {column.name: column.kind for column in table.columns or ()}
    if TEXT in inputs:
        parts = [cells[name] for name in table.features or () if kinds[name] not in NUMBERS]
        cells[TEXT] = [". ".join(filter(None, map(_as_text, row))) for row in zip(*parts, strict=True)]
    for name, kind in kinds.items():
        if kind == "time" and days(name) in inputs:
            cells[days(name)] = np.asarray(cells[name], np.float64) / DAY_S
    for column in table.columns or ():
        if column.kind == "categories":
            cells[column.name] = [json.dumps(row, ensure_ascii=False) for row in cells[column.name]]
    return cells


def _as_text(cell: str | list[str]) -> str:
    return cell if isinstance(cell, str) else ", ".join(cell)
