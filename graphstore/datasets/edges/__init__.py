"""Any graph as lists of edges: a small YAML file that says where nodes and edges are."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, ReadReport, Source
from netgpt.graphstore.datasets.described import NpyRows, open_features
from netgpt.graphstore.datasets.edges.describe import (
    Description,
    EdgeDescription,
    is_description,
    read_description,
)
from netgpt.graphstore.datasets.edges.groups import group_columns, group_length
from netgpt.graphstore.datasets.edges.read import read_edges
from netgpt.graphstore.datasets.edges.retrieval import (
    column_files,
    columns_asked,
    kept_columns,
    retrieval,
    values_of,
)
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import file_digest, value_digest
from netgpt.graphstore.schema import MAX_NODES, Column, EdgeType, NodeType, RelationType, Schema
from netgpt.graphstore.sort import Piece, Policy

_FEATURE_BYTES = 1 << 24


class EdgeLists(Source):
    """The graph of a description. Features are read in pieces, edges when they are asked for."""

    def __init__(self, path: Path, report: ReadReport | None = None) -> None:
        self.path, self.file = path.absolute(), str(path)  # it is read later, perhaps from another folder
        self.report = report if report is not None else ReadReport()
        self.description = read_description(path)
        self._edges = {edge.edge_type: edge for edge in self.description.edges}
        self._features = {
            name: open_features(node.features)
            for name, node in self.description.nodes.items()
            if node.features is not None
        }
        self._counts = _node_counts(path, self.description, self._features)
        self._asked = columns_asked(path, self.description, self._counts)
        self.schema = Schema(
            target=self.description.target or self.description.edges[0].type[2],
            node_types=tuple(
                NodeType(name=name)
                if node.features is None
                else NodeType(name=name, encoding="given", inputs=("x",), columns=self._columns(name))
                for name, node in self.description.nodes.items()
            ),
            relations=tuple(_relation_type(edge) for edge in self.description.edges),
        )

    def _columns(self, name: str) -> tuple[Column, ...]:
        return tuple(
            column
            for edge in self.description.edges
            if edge.nearest is not None and edge.type[2] == name
            for column in kept_columns(edge.edge_type, edge.nearest)
        )

    def digest(self) -> str:
        files = [path for edge in self.description.edges for path in _files(edge)]
        files += [node.features for node in self.description.nodes.values() if node.features is not None]
        digests = [file_digest(Path(path)) for path in files]
        return value_digest({"description": file_digest(self.path), "files": digests})

    def num_nodes(self) -> dict[str, int]:
        return self._counts

    def blocks(self) -> Iterator[Block]:
        self.report.clear()
        for name, x in self._features.items():
            num, width = x.shape
            step = max(1, _FEATURE_BYTES // (x.dtype.itemsize * width))
            for first in range(0, max(1, num), step):
                rows = x.read(first, min(first + step, num))
                if not np.isfinite(rows).all():
                    row = first + int(np.argmin(np.isfinite(rows).all(axis=1)))
                    raise StoreError(
                        f"{x.file}: record {row}: found a value that is not finite, expected numbers"
                    )
                part = slice(first, first + len(rows))
                said: dict[str, Any] = {}
                for edge_type, columns in self._asked.items():
                    if edge_type[2] == name:
                        said |= values_of(edge_type, columns, part)
                yield Block(name, {"x": rows, **said})

    def edges(self, edge_type: EdgeType) -> Iterator[Piece]:
        return read_edges(self._edges[edge_type])

    def policy(self, edge_type: EdgeType) -> Policy:
        edge = self._edges[edge_type]
        return replace(super().policy(edge_type), duplicates=edge.duplicates, self_loops=edge.self_loops)

    def group(
        self, relation: RelationType, num_nodes: int, memory_bytes: int
    ) -> tuple[np.ndarray, np.ndarray]:
        return group_columns(self._edges[relation.edge_type], num_nodes, memory_bytes)


class Edges(Dataset):
    """Typed lists of edges, of anyone's own graph."""

    name = "edges"
    title = "edge lists"
    unit = "edges"
    can_skip = False
    can_join = False

    def reads(self, source: Path) -> bool:
        return is_description(source)

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
        if config is not None and config.on_error != "fail":
            raise StoreError(
                f"on_error: found {config.on_error!r}, expected fail: edge lists have nothing to leave out "
                "(duplicates and self_loops of the description say what becomes of edges)"
            )
        return EdgeLists(source, report)

    def upgrade(self, attributes: dict[str, Any]) -> dict[str, Any]:
        nodes = [
            {**node, "inputs": ["x"] if node["encoding"] == "given" else []}
            for node in attributes["schema"]["node_types"]
        ]
        new = {"build": {}, "num_skipped": 0, "time_dim": 0}
        return {**new, **attributes, "schema": {**attributes["schema"], "node_types": nodes}}


def _node_counts(source: Path, description: Description, features: dict[str, NpyRows]) -> dict[str, int]:
    """Nodes of each type: as given, as many as features or group columns have, or the greatest number + 1."""
    counts: dict[str, int] = {}
    for name, node in description.nodes.items():
        num_rows = features[name].shape[0] if name in features else None
        if node.count is not None and num_rows not in (None, node.count):
            raise StoreError(
                f"{node.features}: found {num_rows} rows, expected {node.count} (nodes.{name}.count)"
            )
        count = node.count or num_rows
        if count is not None:
            counts[name] = count
    for edge in description.edges:
        if edge.group is not None and edge.type[0] not in counts:
            counts[edge.type[0]] = group_length(edge.group)
    open_types = set(description.nodes) - set(counts)
    greatest = dict.fromkeys(open_types, -1)
    for edge in description.edges:
        src, _, dst = edge.edge_type
        if edge.rule is None and open_types & {src, dst}:
            for piece in read_edges(edge):
                ends = ((src, piece.heads, piece.file), (dst, piece.tails, piece.tail_file or piece.file))
                for name, values, file in ends:
                    if name in greatest:
                        greatest[name] = max(greatest[name], int(values.max()))
                        _require_number(name, values, greatest[name], f"{file}: record", piece.first)
    for name, value in greatest.items():
        if value < 0:
            raise StoreError(f"{source}: nodes.{name}: found no edge and no count, expected a count")
        counts[name] = value + 1
    return counts


def _require_number(name: str, values: np.ndarray, greatest: int, place: str, first: int) -> None:
    """StoreError for a node number that no store can have: it is something else, such as a hash."""
    if greatest >= MAX_NODES - 1:
        row = int(values.argmax())
        raise StoreError(
            f"{place} {first + row}: found node {values[row]} of {name}, expected the number of a row from "
            "0, below 2^60 - 1; number the nodes, or describe them as tables with keys"
        )


def _relation_type(edge: EdgeDescription) -> RelationType:
    if edge.nearest is not None:
        return retrieval(edge.edge_type, edge.nearest)
    if edge.group is None:
        return RelationType(edge_type=edge.edge_type)
    key = Path(edge.group.key).stem if edge.group.path is None else edge.group.key
    return RelationType(edge_type=edge.edge_type, group_by=key, strict=edge.group.ties == "strict")


def _files(edge: EdgeDescription) -> list[str]:
    if edge.nearest is not None:
        return column_files(edge.nearest)
    if edge.group is None:
        return list(edge.path)
    return [edge.group.path] if edge.group.path is not None else [edge.group.key, edge.group.time]
