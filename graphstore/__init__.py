"""The graph on disk: schema, data sets, features, relations, writer, verification.

store = graphstore.open(path)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from netgpt.graphstore.dataset import Block, BuildConfig, Dataset, ReadReport, Source
from netgpt.graphstore.document_types import Document
from netgpt.graphstore.errors import FormatError, RecordError, SourceError, StoreError, UnknownNameError
from netgpt.graphstore.extend import ExtendedGraph
from netgpt.graphstore.joined import JoinedGraph, NodeCopies
from netgpt.graphstore.pack import pack, unpack
from netgpt.graphstore.relations import Layout, Relation
from netgpt.graphstore.schema import EdgeType, Schema, edge_name
from netgpt.graphstore.sort import RowStats
from netgpt.graphstore.store import Graph, Store
from netgpt.graphstore.verify import verify
from netgpt.graphstore.writer import DEFAULT_MEMORY_BYTES, append, build

__all__ = [
    "Block",
    "BuildConfig",
    "Dataset",
    "Document",
    "EdgeType",
    "ExtendedGraph",
    "FormatError",
    "Graph",
    "JoinedGraph",
    "NodeCopies",
    "ReadReport",
    "RecordError",
    "Relation",
    "Schema",
    "Source",
    "SourceError",
    "Store",
    "StoreError",
    "UnknownNameError",
    "append",
    "build",
    "build_edges",
    "edge_name",
    "open",
    "pack",
    "unpack",
    "verify",
]


def open(path: str | Path) -> Store:
    """Open a sealed store, read-only and memory-mapped. Raises FormatError with what to do."""
    return Store(path)


def build_edges(
    source: Path | str,
    out: Path | str,
    *,
    layout: Layout = "prefix",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, RowStats]:
    """Build a store at `out` from a description of edge lists; what became of each relation's edges."""
    config = BuildConfig(layout=layout)
    report = build(source, out, config, dataset="edges", memory_bytes=memory_bytes, progress=progress)
    return report.edges
