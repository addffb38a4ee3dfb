"""Columns and features of nodes, from blocks of a table's rows, as the schema says.

Both the writer and the in-memory join make them with `Encoders.vectors` and `Vocabulary`, so that both make
the same.

Legend: n rows of a block, N nodes, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from netgpt.graphstore.arrays import ArrayWriter, StringWriter, read_meta
from netgpt.graphstore.dataset import Block, Source
from netgpt.graphstore.errors import FormatError, RecordError, StoreError
from netgpt.graphstore.features import (
    KEY_BYTES,
    Encoders,
    TextEncoder,
    Values,
    VideoEncoder,
    content_key,
    inputs_of,
)
from netgpt.graphstore.schema import Column, NodeType, Schema
from netgpt.graphstore.store import Store

VALUES_AT_ONCE = 1024
T = TypeVar("T")


def batched(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """`itertools.batched`, which Python 3.11 does not have."""
    iterator = iter(items)
    while batch := tuple(islice(iterator, size)):
        yield batch


class Vocabulary:
    """Strings to codes in order of first use; the empty string is no value (−1)."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self.code_of = {value: code for code, value in enumerate(values)}
        self._num_given = len(self.code_of)

    @property
    def new(self) -> list[str]:
        """Values that were not given, in order of first use."""
        return list(islice(self.code_of, self._num_given, None))

    def codes(self, values: Iterable[str]) -> np.ndarray:
        """[n] int32; values that are new get the next codes."""
        code_of = self.code_of
        coded = [code_of.setdefault(value, len(code_of)) if value else -1 for value in values]
        return np.array(coded, np.int32)


def picked(cells: Values, rows: list[int]) -> Values:
    """Some rows of a column."""
    return cells[rows] if isinstance(cells, np.ndarray) else [cells[i] for i in rows]


def require_encoders(store: Store, text: TextEncoder | None, video: VideoEncoder | None) -> None:
    """StoreError where a store's vectors are of other encoders than these.

    None: where there are no new ones; zeros of videos go with any encoder.
    """
    for kind, encoder in (("text", text), ("video", video)):
        made_of = store.attributes["encoders"].get(kind)
        if encoder is not None and made_of != encoder.name:
            raise StoreError(
                f"{store.path}: found {kind} features of {made_of}, expected those of {encoder.name}: "
                "vectors of two encoders do not go together in one array"
            )


def require_same_schema(store: Store, source: Source) -> None:
    """FormatError where a store's types and relations are not those of the rows that are to join it; what is
    nearest the store says."""
    old, new = (
        (
            sorted((n.name, n.encoding) for n in s.node_types),
            sorted(r.edge_type for r in s.relations if r.nearest is None),
        )
        for s in (store.schema, source.schema)
    )
    if old != new:
        raise FormatError(
            f"{store.path}: found node types and relations of another version of {store.dataset.title}; "
            "build the store again from its records"
        )


def require_columns(schema: Schema, source: str, block: Block) -> None:
    """StoreError for a block that lacks a column, or whose columns are of different lengths."""
    node = next((n for n in schema.node_types if n.name == block.table and n.origin == "rows"), None)
    if node is None:
        raise StoreError(f"{source}: found rows of the table {block.table!r}, expected one of the schema")
    wanted = {c.name for c in node.columns} | ({node.column} if node.of else set())
    for other in schema.node_types:
        if other.table == node.name and other.origin != "values":
            wanted |= set(other.inputs)
    if missing := sorted(wanted - set(block.columns)):
        raise StoreError(f"{source}: table {block.table}: found no column {missing[0]!r}, expected it")
    lengths = {name: len(block.columns[name]) for name in wanted}
    if len(set(lengths.values())) > 1:
        raise StoreError(f"{source}: table {block.table}: found columns of different lengths {lengths}")


class _VectorWriter:
    """The features of a node type, one row a node."""

    def __init__(self, root: Path, node: NodeType, encoders: Encoders, after: Store | None) -> None:
        self.node, self.encoders = node, encoders
        self._root, self._path = root, after.path if after else None
        self.num_empty = 0
        """Nodes that were added with an empty content."""
        self._x: ArrayWriter | None = None
        if node.encoding != "given":
            self._x = self._writer(*encoders.shape(node))
        elif self._path is not None:
            meta = read_meta(self._path, f"nodes/{node.name}/x")
            self._x = self._writer(meta.dtype, meta.width)

    def _writer(self, dtype: Any, width: int | None) -> ArrayWriter:
        return ArrayWriter(self._root, f"nodes/{self.node.name}/x", dtype, width, after=self._path)

    def append(self, inputs: Sequence[Values]) -> None:
        x = self.encoders.vectors(self.node, inputs)
        if self._x is None:
            self._x = self._writer(x.dtype, x.shape[1])
        self._x.append(x)

    def close(self) -> None:
        if self._x is None:
            raise StoreError(f"{self.node.name}: found no rows with given features, expected some")
        self._x.close()


class _DistinctWriter(_VectorWriter):
    """Features stored once a distinct content, the row of every node, and the contents' hashes.

    The hashes (`x_key`) let a store that is appended to find its rows again.
    """

    def __init__(self, root: Path, node: NodeType, encoders: Encoders, after: Store | None) -> None:
        super().__init__(root, node, encoders, after)
        folder = f"nodes/{node.name}"
        self._x_row = ArrayWriter(root, f"{folder}/x_row", np.int32, after=self._path)
        self._x_key = ArrayWriter(root, f"{folder}/x_key", np.uint8, KEY_BYTES, after=self._path)
        self._row_of: dict[bytes, int] = {}
        if after is not None:
            keys = np.asarray(after.array(f"{folder}/x_key"))
            self._row_of = {key.tobytes(): row for row, key in enumerate(keys)}

    def append(self, inputs: Sequence[Values]) -> None:
        rows, new, keys = [], [], []
        contents = self.encoders.contents(self.node, inputs)
        self.num_empty += contents.count(b"")
        for i, content in enumerate(contents):
            key = content_key(content)
            row = self._row_of.get(key)
            if row is None:
                row = self._row_of[key] = len(self._row_of)
                new.append(i)
                keys.append(key)
            rows.append(row)
        if new:
            super().append([picked(cells, new) for cells in inputs])
            self._x_key.append(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES))
        self._x_row.append(np.array(rows, np.int32))

    def close(self) -> None:
        for writer in (self._x_row, self._x_key):
            writer.close()
        super().close()


class _TableWriter:
    """All arrays that come from the rows of one table."""

    def __init__(
        self,
        root: Path,
        node: NodeType,
        schema: Schema,
        encoders: Encoders,
        kept: frozenset[str],
        after: Store | None,
    ) -> None:
        self.root, self.node, self.after, self._kept_names = root, node, after, kept
        self.num_rows = 0 if after is None else after.num_nodes[node.name]
        made = [n for n in schema.node_types if n.table == node.name and n.origin != "values"]
        self.vectors = [
            (_DistinctWriter if n.is_distinct else _VectorWriter)(root, n, encoders, after)
            for n in made
            if n.encoding != "none"
        ]
        self._strings: dict[str, StringWriter] = {}
        self._numbers: dict[str, ArrayWriter] = {}
        self.vocabulary: dict[str, Vocabulary] = {}
        self._kept: dict[str, list[np.ndarray]] = {name: [] for name in kept}
        self._ids: set[str] = set()
        for column in node.columns:
            self._open(column)
        if node.of and node.column in kept and after is not None:
            self._keep(node.column, _parents(after, schema, node))

    def _open(self, column: Column) -> None:
        """Start a column's arrays, with what the store before has."""
        name, path, after = column.name, column.path(self.node.name), self.after
        if column.is_text:
            where = after.path if after else None
            self._strings[name] = StringWriter(self.root, path, after=where)
            if column.kind == "id" and after is not None:
                self._ids.update(after.strings(self.node.name, name))
                if self.node.name == after.schema.target:
                    self._ids.update(after.skipped_ids)
            return
        if column.kind == "category":
            path += "/code"
            self.vocabulary[name] = Vocabulary(after.category(self.node.name, name)[1] if after else ())
        is_stored = after is not None and path in after.seal.arrays
        writer = ArrayWriter(
            self.root, path, column.number_type, after=after.path if after is not None and is_stored else None
        )
        self._numbers[name] = writer
        if after is not None:
            values = np.asarray(after.column(self.node.name, name))
            if not is_stored:  # the store is of a format without it
                writer.append(values)
            self._keep(name, values)

    def _keep(self, name: str, values: np.ndarray) -> None:
        if name in self._kept_names:
            self._kept[name].append(values)

    def append(self, source: str, block: Block) -> None:
        node, cells = self.node, block.columns
        for column in node.columns:
            values = cells[column.name]
            if column.kind == "id":
                self._check_ids(source, column.name, values)
            if column.is_text:
                self._strings[column.name].append(values)  # type: ignore[arg-type]
                continue
            if column.kind == "category":
                numbers = self.vocabulary[column.name].codes(values)
            else:
                numbers = np.asarray(values, column.number_type)
            self._numbers[column.name].append(numbers)
            self._keep(column.name, numbers)
        if node.of:
            self._keep(node.column, np.asarray(cells[node.column], np.int64))
        for one in self.vectors:
            one.append(inputs_of(one.node, node, cells))
        self.num_rows += len(block)

    def _check_ids(self, source: str, name: str, ids: Values) -> None:
        """RecordError for an id that was there before."""
        for one in ids:
            if one in self._ids:
                raise RecordError(
                    source, one, name, "an id that is there already", "ids of new rows, each once"
                )
            self._ids.add(one)

    def kept(self, name: str) -> np.ndarray:
        """A column of all rows: numbers, codes of a category, or numbers of the parents' rows."""
        kept = self._kept[name]
        return np.concatenate(kept) if kept else np.empty(0, np.int64)

    def close(self) -> None:
        for name, vocabulary in self.vocabulary.items():
            path = next(c for c in self.node.columns if c.name == name).path(self.node.name)
            strings = StringWriter(self.root, f"{path}/value", after=self.after.path if self.after else None)
            strings.append(vocabulary.new)
            strings.close()
        writers: list[ArrayWriter | StringWriter | _VectorWriter] = [*self._numbers.values(), *self.vectors]
        for writer in (*writers, *self._strings.values()):
            writer.close()
        self._ids.clear()  # of many millions they would lie beside the relations


def _parents(store: Store, schema: Schema, node: NodeType) -> np.ndarray:
    """The number of the parent's row of a store's child rows, by the relation between them: [N] int64."""
    for relation in schema.relations:
        src, _, dst = relation.edge_type
        if relation.rule == "column" and {src, dst} == {node.name, node.of}:
            rows = store.relation(relation.edge_type)
            one = np.repeat(np.arange(rows.num_dst), rows.degree())
            other = np.concatenate([np.empty(0, np.int64), *rows.row_blocks()])
            children, parents = (other, one) if src == node.name else (one, other)
            parent_of = np.empty(store.num_nodes[node.name], np.int64)
            parent_of[children] = parents
            return parent_of
    raise FormatError(f"{store.path}: found no relation between {node.name} and {node.of}, expected one")


class NodeWriters:
    """All node arrays of a store. `after`: the store whose nodes come first, built with the same settings."""

    def __init__(self, root: Path, schema: Schema, encoders: Encoders, after: Store | None = None) -> None:
        if after is not None and after.seal.version < 2:
            raise FormatError(
                f"{after.path}: found format version {after.seal.version}, expected 2 or later to append; "
                "build the store again from its records"
            )
        self.root, self.schema, self.encoders, self.after = root, schema, encoders, after
        self._num_old = dict(after.num_nodes) if after else {}
        self._rows = {
            n.name: _TableWriter(root, n, schema, encoders, _needed(schema, n), after)
            for n in schema.node_types
            if n.origin == "rows" and (n.columns or _has_inputs(schema, n))
        }
        """Tables that blocks bring rows of."""

    def append(self, source: str, block: Block) -> None:
        """Write a block's rows. `source` names it in messages."""
        require_columns(self.schema, source, block)
        node = self.schema.node_type(block.table)
        if node.of:
            first = self._num_old.get(node.of, 0)
            parents = np.asarray(block.columns[node.column], np.int64) + first
            if len(parents) and not first <= parents.min() <= parents.max() < self._rows[node.of].num_rows:
                raise StoreError(
                    f"{source}: table {node.name}: found rows of no {node.of}, expected its number"
                )
            block = Block(block.table, {**block.columns, node.column: parents})
        self._rows[block.table].append(source, block)

    @property
    def num_without_video(self) -> int:
        """New rows of videos that have no vector."""
        vectors = [one for rows in self._rows.values() for one in rows.vectors]
        return sum(one.num_empty for one in vectors if one.node.encoding == "video")

    def close(self, given: Mapping[str, int]) -> dict[str, int]:
        """Finish all node arrays; returns the number of nodes of each type. given: of those without rows."""
        for rows in self._rows.values():
            rows.close()
        num_nodes = {}
        for node in self.schema.node_types:
            if node.origin == "rows":
                num_nodes[node.name] = self._num_rows(node, given)
            elif node.origin == "each":
                num_nodes[node.name] = self._rows[node.of].num_rows
            else:
                vocabulary = self._rows[node.of].vocabulary[node.column]
                num_nodes[node.name] = len(vocabulary.code_of)
                if node.encoding != "none":
                    vectors = _VectorWriter(self.root, node, self.encoders, self.after)
                    for values in batched(vocabulary.new, VALUES_AT_ONCE):
                        vectors.append([values])
                    vectors.close()
        return num_nodes

    def _num_rows(self, node: NodeType, given: Mapping[str, int]) -> int:
        if node.name not in self._rows:
            return given[node.name]
        num = self._rows[node.name].num_rows
        if given.get(node.name, num) != num:
            raise StoreError(f"{node.name}: found {num} rows, expected {given[node.name]}")
        return num

    def kept(self, node_type: str, name: str) -> np.ndarray:
        """A column of all nodes of a type that relations need: see `_TableWriter.kept`."""
        return self._rows[node_type].kept(name)


def _has_inputs(schema: Schema, node: NodeType) -> bool:
    return any(
        n.encoding != "none" and n.table == node.name and n.origin != "values" for n in schema.node_types
    )


def _needed(schema: Schema, node: NodeType) -> frozenset[str]:
    """The columns of a type that relations are made of: kept in memory until the end."""
    names: set[str] = set()
    for relation in schema.relations:
        if relation.rule == "group" and relation.edge_type[2] == node.name:
            names |= {str(relation.group_by), node.time}
        elif relation.rule == "column":
            child = schema.linked(relation.edge_type)
            if child.origin != "each" and child.table == node.name:
                names.add(child.column)
    return frozenset(names)
