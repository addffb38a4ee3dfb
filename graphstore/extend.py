"""New rows join a store's graph in memory, for prediction.

The store's own rows stay as they are: no new head enters them, so what was computed for its nodes
stays true. Rows of new nodes run over the store's nodes and the new ones together, by the same
rule and in the same order as if all had been built at once.

Legend: N nodes of a type in the store, M new ones.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from netgpt.graphstore.columns import (
    Vocabulary,
    require_columns,
    require_encoders,
    require_same_schema,
)
from netgpt.graphstore.dataset import Dataset, Source
from netgpt.graphstore.errors import RecordError, StoreError
from netgpt.graphstore.features import (
    Encoders,
    Features,
    NoVideos,
    TextEncoder,
    Values,
    VideoEncoder,
    text_encoder,
)
from netgpt.graphstore.nearest.relation import nearest_rows
from netgpt.graphstore.relations import Relation, csr_from_pairs, link_pairs, prefix_rows
from netgpt.graphstore.schema import EdgeType, NodeType, RelationType, Schema, edge_name
from netgpt.graphstore.store import Graph, Store, unknown_relation


class _Chained(Sequence[str]):
    def __init__(self, first: Sequence[str], second: Sequence[str]) -> None:
        self._first, self._second = first, second

    def __len__(self) -> int:
        return len(self._first) + len(self._second)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        n = len(self._first)
        return self._first[index] if index < n else self._second[index - n]

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))


class ExtendedGraph(Graph):
    """A store with the rows of a source as new nodes, numbered from N on in the order of its blocks.

    Raises RecordError for an id that the store already has. `text` and `video` make the new rows' vectors;
    StoreError where they are not the store's encoders. By default the text encoder that the store names, and
    no videos.
    """

    def __init__(
        self,
        store: Store,
        source: Source,
        *,
        text: TextEncoder | None = None,
        video: VideoEncoder | None = None,
    ) -> None:
        require_same_schema(store, source)
        self.store, self.schema = store, _without_former_columns(store.schema, source.schema)
        if (given := self.schema.given_relations) and not source.joins_store:
            raise StoreError(
                f"{store.path}: found the listed relation {edge_name(given[0].edge_type)}, expected ones "
                "that follow from rows, so that new rows can join"
            )
        if not store.dataset.can_join:
            raise StoreError(f"{store.path}: found a store of {store.dataset.title}, which no rows can join")
        self._source = source
        self.encoders = self._encoders(text, video)
        self._cells = self._read(source)
        """By table and column the values of all new rows."""
        self._codes: dict[tuple[str, str], tuple[np.ndarray, list[str]]] = {}
        self._columns: dict[tuple[str, str], np.ndarray] = {}
        self.num_nodes = {n.name: self._num_nodes(n) for n in self.schema.node_types}
        target = self.schema.target
        self.num_old = store.num_nodes[target]
        self.num_new = self.num_nodes[target] - self.num_old
        self.new = np.arange(self.num_old, self.num_old + self.num_new)
        """Node numbers of the new nodes of the target type: [M]."""
        self._features = {name: self._joined_features(name) for name in self.schema.encoded_types}
        self._relations = {r.edge_type: self._joined_relation(r) for r in self.schema.relations}

    def _encoders(self, text: TextEncoder | None, video: VideoEncoder | None) -> Encoders:
        encoded = {n.encoding: n for n in self.schema.node_types}
        if text is None and encoded.keys() & {"text", "text_time"}:
            text = text_encoder(self.store.attributes["encoders"]["text"])
        require_encoders(self.store, text, video)
        if video is None and "video" in encoded:
            video = NoVideos(self.store.features(encoded["video"].name).dim)
        return Encoders(text, video, self.store.attributes["time_dim"])

    def _read(self, source: Source) -> dict[str, dict[str, Values]]:
        parts: dict[str, list[dict[str, Values]]] = {}
        for block in source.blocks():
            require_columns(self.schema, source.file, block)
            parts.setdefault(block.table, []).append(dict(block.columns))
        cells = {table: _joined(blocks) for table, blocks in parts.items()}
        for table, columns in cells.items():
            for column in self.schema.node_type(table).columns:
                if column.kind == "id":
                    taken = self.store.id_set(table, column.name)
                    for one in columns[column.name]:
                        if one in taken:
                            found = "an id that the store already has"
                            raise RecordError(source.file, one, column.name, found, "ids of new rows")
        return cells

    def _new_cells(self, table: str, name: str) -> Values:
        return self._cells[table][name] if table in self._cells else []

    def _num_rows(self, table: str) -> int:
        return len(next(iter(self._cells[table].values()))) if table in self._cells else 0

    def _num_nodes(self, node: NodeType) -> int:
        if node.origin == "values":
            return len(self.category(node.of, node.column)[1])
        return self.store.num_nodes[node.name] + self._num_rows(node.table)

    def relation(self, edge_type: EdgeType) -> Relation:
        if edge_type not in self._relations:
            raise unknown_relation(self, edge_type)
        return self._relations[edge_type]

    def features(self, node_type: str) -> Features:
        return self._features[node_type] if node_type in self._features else self.store.features(node_type)

    @property
    def dataset(self) -> Dataset:
        return self.store.dataset

    def column(self, node_type: str, name: str) -> np.ndarray:
        column = self.known_column(node_type, name, "number", "time", "category")
        if column.kind == "category":
            return self.category(node_type, name)[0]
        if (node_type, name) not in self._columns:
            new = np.asarray(self._new_cells(node_type, name), column.number_type)
            self._columns[node_type, name] = np.concatenate([self.store.column(node_type, name), new])
        return self._columns[node_type, name]

    def category(self, node_type: str, name: str) -> tuple[np.ndarray, Sequence[str]]:
        """Codes of all nodes [N + M] and the values; new ones follow the store's."""
        self.known_column(node_type, name, "category")
        if (node_type, name) not in self._codes:
            codes, values = self.store.category(node_type, name)
            vocabulary = Vocabulary(values)
            new = vocabulary.codes(self._new_cells(node_type, name))
            self._codes[node_type, name] = np.concatenate([codes, new]), list(vocabulary.code_of)
        return self._codes[node_type, name]

    def strings(self, node_type: str, name: str) -> Sequence[str]:
        old = self.store.strings(node_type, name)
        return _Chained(old, list(self._new_cells(node_type, name)))

    def check_unchanged(self) -> None:
        self.store.check_unchanged()

    def without_heads(self, edge_type: EdgeType, heads: Collection[int] | None = None) -> ExtendedGraph:
        """The same, but new nodes do not hear some heads of a relation: by default none of them."""
        old, first = self.relation(edge_type), self.store.num_nodes[edge_type[2]]
        gone = None if heads is None else np.fromiter(heads, np.int64)
        kept, counts = [np.empty(0, np.int64)], []
        for v in range(first, old.num_dst):
            places = np.arange(old.begin[v], old.end[v])
            if old.rank is not None:
                places = places[places != old.begin[v] + int(old.rank[v])]
            places = places[:0] if gone is None else places[~np.isin(old.indices[places], gone)]
            kept.append(places)
            counts.append(len(places))
        chosen, offset = np.concatenate(kept), len(old.indices)
        ends = offset + np.cumsum(np.array(counts, np.int64))
        rank = None
        if old.rank is not None:  # behind every row's end: there is no own node in it
            rank = np.concatenate([old.rank[:first], np.full(len(counts), np.iinfo(np.int32).max, np.int32)])
        made = copy.copy(self)
        made._relations = {
            **self._relations,
            edge_type: replace(
                old,
                indices=np.concatenate([old.indices, old.indices[chosen]]),
                begin=np.concatenate([old.begin[:first], ends - counts]),
                end=np.concatenate([old.end[:first], ends]),
                rank=rank,
                time=None if old.time is None else np.concatenate([old.time, old.time[chosen]]),
                numbers={name: np.concatenate([x, x[chosen]]) for name, x in old.numbers.items()},
            ),
        }
        return made

    def without_features(self) -> ExtendedGraph:
        """The same, but new nodes of the target have the zero vector."""
        target, old = self.schema.target, self.features(self.schema.target)
        first, num = self.num_old, self.num_nodes[target]
        row = np.arange(num) if old.x_row is None else np.array(old.x_row)
        row[first:] = old.num_rows
        x = np.concatenate([old.x, np.zeros((1, old.dim), old.dtype)])
        made = copy.copy(self)
        made._features = {**self._features, target: Features(num, x, row)}
        return made

    def _joined_features(self, name: str) -> Features:
        node, old = self.schema.node_type(name), self.store.features(name)
        if node.origin == "values":
            new = self.category(node.of, node.column)[1][self.store.num_nodes[name] :]
            inputs: list[Values] = [new]
        else:
            inputs = [self._new_cells(node.table, column) for column in node.inputs]
        if len(inputs[0]):
            x = self.encoders.vectors(node, inputs).astype(old.dtype)
        else:
            x = np.empty((0, old.dim), old.dtype)
        # The store's distinct rows are copied: prediction is the one place that pays for it
        rows = None if old.x_row is None else np.concatenate([old.x_row, old.num_rows + np.arange(len(x))])
        return Features(self.num_nodes[name], np.concatenate([old.x, x]), rows)

    def _new_group(self, relation: RelationType) -> tuple[np.ndarray, ...]:
        """Heads, and for each new tail the begin and end of its row in them, and its rank."""
        dst = self.schema.node_type(relation.edge_type[2])
        first = self.store.num_nodes[dst.name]
        times = self.column(dst.name, dst.time)
        if dst.column_named(str(relation.group_by)) is None:
            code, _ = self._source.group(relation, self.num_nodes[dst.name], 0)
        else:
            code = self.category(dst.name, str(relation.group_by))[0]
        touched = np.isin(code, np.unique(code[first:]))
        rows = prefix_rows(np.where(touched, code, -1), times, strict=relation.strict)
        return rows.indices, rows.begin[first:], rows.end[first:], rows.rank[first:]

    def _new_links(self, relation: RelationType) -> tuple[np.ndarray, ...]:
        """The same of a relation that a column makes, which has no ranks."""
        src, _, dst = relation.edge_type
        child = self.schema.linked(relation.edge_type)
        num_old = self.store.num_nodes
        values = None
        if child.origin == "values":
            values = self.category(child.of, child.column)[0][num_old[child.of] :]
        elif child.origin == "rows":
            values = num_old[child.of] + np.asarray(self._new_cells(child.name, child.column), np.int64)
        parents = np.arange(num_old[child.of], self.num_nodes[child.of])
        pairs = link_pairs(child.origin, parents, num_old[child.name], values)
        heads, tails = pairs if child.name == src else pairs[::-1]
        is_new = tails >= num_old[dst]
        indptr, indices = csr_from_pairs(
            heads[is_new], tails[is_new] - num_old[dst], self.num_nodes[dst] - num_old[dst]
        )
        return indices, indptr[:-1], indptr[1:]

    def _new_edges(self, relation: RelationType) -> tuple[np.ndarray, ...]:
        """The same of a relation that is listed."""
        dst = relation.edge_type[2]
        first = self.store.num_nodes[dst]
        pieces = list(self._source.edges(relation.edge_type))
        heads, tails = (
            np.concatenate([np.empty(0, np.int64), *parts])
            for parts in ([piece.heads for piece in pieces], [piece.tails - first for piece in pieces])
        )
        indptr, indices = csr_from_pairs(heads, tails, self.num_nodes[dst] - first)
        return indices, indptr[:-1], indptr[1:]

    def _new_nearest(
        self, relation: RelationType
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Mapping[str, np.ndarray]]:
        """The same of a relation that retrieval makes, and the numbers of its edges."""
        dst = relation.edge_type[2]
        new = np.arange(self.store.num_nodes[dst], self.num_nodes[dst])
        rows = nearest_rows(self, relation, new)
        return rows.indices, rows.begin, rows.end, rows.numbers

    def _joined_relation(self, relation: RelationType) -> Relation:
        """The store's rows over its own `indices`, then the new rows over a second part of it."""
        old = self.store.relation(relation.edge_type)
        if self.num_nodes[relation.edge_type[2]] == old.num_dst:
            return old
        rank = None
        numbers: Mapping[str, np.ndarray] = {}
        if relation.rule == "group":
            indices, begin, end, rank = self._new_group(relation)
        elif relation.rule == "listed":
            indices, begin, end = self._new_edges(relation)
        elif relation.rule == "nearest":
            indices, begin, end, numbers = self._new_nearest(relation)
        else:
            indices, begin, end = self._new_links(relation)
        offset = len(old.indices)
        if rank is None:
            joined_rank = old.rank
        else:  # a csr row holds no own node: a rank behind every row's end says so
            none = np.full(old.num_dst, np.iinfo(np.int32).max, np.int32)
            joined_rank = np.concatenate([none if old.rank is None else old.rank, rank])
        return Relation(
            relation.edge_type,
            old.layout if joined_rank is None else "prefix",
            np.concatenate([old.indices, indices.astype(old.indices.dtype)]),
            np.concatenate([old.begin, begin + offset]),
            np.concatenate([old.end, end + offset]),
            joined_rank,
            # Of listed edges with times or numbers, which are rows of a table of their own, none is new
            old.time,
            {name: np.concatenate([old.numbers[name], new]) for name, new in numbers.items()} or old.numbers,
        )


def _without_former_columns(schema: Schema, source: Schema) -> Schema:
    """A store's schema without columns of an old format that new rows do not have."""
    nodes = []
    for node in schema.node_types:
        new = source.node_type(node.name)
        columns = tuple(c for c in node.columns if new.column_named(c.name) is not None)
        nodes.append(replace(node, columns=columns))
    return replace(schema, node_types=tuple(nodes))


def _joined(blocks: Sequence[dict[str, Values]]) -> dict[str, Values]:
    """Columns of several blocks, one behind the other."""
    joined: dict[str, Values] = {}
    for name, first in blocks[0].items():
        parts = [block[name] for block in blocks]
        if isinstance(first, np.ndarray):
            joined[name] = np.concatenate([np.asarray(part) for part in parts])
        else:
            joined[name] = [cell for part in parts for cell in part]
    return joined
