"""New rows join a store's graph in memory, for prediction.

The store's own rows stay as they are: no new head enters them, so what was computed for its nodes
stays true. Rows of new nodes run over the store's nodes and the new ones together, by the same
rule and in the same order as if all had been built at once.

Legend: N nodes of a type in the store, M new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from netgpt.graphstore.columns import (
    Vocabulary,
    require_columns,
    require_encoders,
    require_same_schema,
)
from netgpt.graphstore.dataset import Source
from netgpt.graphstore.errors import RecordError, StoreError
from netgpt.graphstore.features import (
    Encoders,
    Features,
    NoVideos,
    TextEncoder,
    Values,
    VideoEncoder,
    inputs_of,
    text_encoder,
)
from netgpt.graphstore.joined import JoinedFeatures, JoinedGraph, JoinedRelation, JoinedStrings
from netgpt.graphstore.nearest.relation import nearest_rows
from netgpt.graphstore.relations import Relation, csr_from_pairs, from_indptr, link_pairs
from netgpt.graphstore.schema import NodeType, RelationType, Schema, edge_name
from netgpt.graphstore.store import Store


class ExtendedGraph(JoinedGraph):
    """A store with the rows of a source as new nodes, numbered from N on in the order of its blocks.

    Raises RecordError for an id that the store already has. `text` and `video` make the new rows' vectors;
    StoreError where they are not the store's encoders. By default the text encoder that the store names, and
    no videos.
    """

    store: Store

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
        self._new_codes: dict[tuple[str, str], tuple[np.ndarray, list[str]]] = {}
        self._codes: dict[tuple[str, str], np.ndarray] = {}
        self._columns: dict[tuple[str, str], np.ndarray] = {}
        self.num_nodes = {n.name: self._num_nodes(n) for n in self.schema.node_types}
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
                    ids = columns[column.name]
                    is_taken = self.store.keys(table, column.name).texts_rows(list(ids)) >= 0
                    if is_taken.any():
                        one, found = ids[int(np.argmax(is_taken))], "an id that the store already has"
                        raise RecordError(source.file, one, column.name, found, "ids of new rows")
        return cells

    def _new_cells(self, table: str, name: str) -> Values:
        return self._cells[table][name] if table in self._cells else []

    def _num_rows(self, table: str) -> int:
        return len(next(iter(self._cells[table].values()))) if table in self._cells else 0

    def _num_nodes(self, node: NodeType) -> int:
        if node.origin == "values":
            old, new = self.store.category(node.of, node.column)[1], self._added(node.of, node.column)[1]
            return len(old) + len(new)
        return self.store.num_nodes[node.name] + self._num_rows(node.table)

    def _added(self, node_type: str, name: str) -> tuple[np.ndarray, list[str]]:
        """A category of the new rows: codes [M], −1 for none, and the values that the store has not, whose
        codes follow the store's."""
        if (node_type, name) not in self._new_codes:
            cells, keys = list(self._new_cells(node_type, name)), self.store.keys(node_type, name)
            rows, added = keys.texts_rows(cells), Vocabulary()
            is_old = rows >= 0
            codes = added.codes("" if old else text for text, old in zip(cells, is_old, strict=True))
            codes = np.where(is_old, rows, np.where(codes < 0, -1, len(keys) + codes)).astype(np.int32)
            self._new_codes[node_type, name] = codes, added.new
        return self._new_codes[node_type, name]

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
        (codes, values), (new_codes, new_values) = (
            self.store.category(node_type, name),
            self._added(node_type, name),
        )
        if (node_type, name) not in self._codes:
            self._codes[node_type, name] = np.concatenate([codes, new_codes])
        return self._codes[node_type, name], JoinedStrings(values, new_values)

    def strings(self, node_type: str, name: str) -> Sequence[str]:
        old = self.store.strings(node_type, name)
        return JoinedStrings(old, list(self._new_cells(node_type, name)))

    def _joined_features(self, name: str) -> Features:
        node, old = self.schema.node_type(name), self.store.features(name)
        if node.origin == "values":
            inputs: list[Values] = [self._added(node.of, node.column)[1]]
        elif node.table not in self._cells:
            return old
        else:
            inputs = inputs_of(node, self.schema.node_type(node.table), self._cells[node.table])
        if not len(inputs[0]):
            return old
        x = self.encoders.vectors(node, inputs).astype(old.dtype)
        return JoinedFeatures(old, Features(len(x), x, None))

    def _new_group(self, relation: RelationType) -> Relation:
        """Rows of new nodes, whose heads have the numbers of the joined graph; its tails are 0 to M − 1."""
        dst = self.schema.node_type(relation.edge_type[2])
        name = str(relation.group_by)
        if dst.column_named(name) is None:
            key, time = self._source.group(relation, self.num_nodes[dst.name], 0)
        else:
            key = self._added(dst.name, name)[0]
            time = np.asarray(self._new_cells(dst.name, dst.time), np.int64)
        rows = self.store.members(relation).joined(key, time, strict=relation.strict)
        return Relation(relation.edge_type, "prefix", rows.indices, rows.begin, rows.end, rows.rank)

    def _new_links(self, relation: RelationType) -> Relation:
        """The same of a relation that a column makes."""
        src, _, dst = relation.edge_type
        child = self.schema.linked(relation.edge_type)
        num_old = self.store.num_nodes
        values = None
        if child.origin == "values":
            values = self._added(child.of, child.column)[0]
        elif child.origin == "rows":
            values = num_old[child.of] + np.asarray(self._new_cells(child.name, child.column), np.int64)
        parents = np.arange(num_old[child.of], self.num_nodes[child.of])
        pairs = link_pairs(child.origin, parents, num_old[child.name], values)
        heads, tails = pairs if child.name == src else pairs[::-1]
        is_new = tails >= num_old[dst]
        num_new = self.num_nodes[dst] - num_old[dst]
        rows = csr_from_pairs(heads[is_new], tails[is_new] - num_old[dst], num_new)
        return from_indptr(relation.edge_type, *rows)

    def _new_edges(self, relation: RelationType) -> Relation:
        """The same of a relation that is listed."""
        dst = relation.edge_type[2]
        first = self.store.num_nodes[dst]
        pieces = list(self._source.edges(relation.edge_type))
        heads, tails = (
            np.concatenate([np.empty(0, np.int64), *parts])
            for parts in ([piece.heads for piece in pieces], [piece.tails - first for piece in pieces])
        )
        return from_indptr(relation.edge_type, *csr_from_pairs(heads, tails, self.num_nodes[dst] - first))

    def _joined_relation(self, relation: RelationType) -> Relation:
        old, dst = self.store.relation(relation.edge_type), relation.edge_type[2]
        if self.num_nodes[dst] == old.num_dst:
            return old
        if relation.rule == "group":
            new = self._new_group(relation)
        elif relation.rule == "listed":
            new = self._new_edges(relation)
        elif relation.rule == "nearest":
            new = nearest_rows(self, relation, np.arange(old.num_dst, self.num_nodes[dst]))
        else:
            new = self._new_links(relation)
        return JoinedRelation(old, new)


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
