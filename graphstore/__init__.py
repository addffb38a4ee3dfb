"""The graph on disk: schema, sources, features, relations, builder, verification.

store = graphstore.open(path)
"""

from graphstore.edgelist.build import build_edges
from graphstore.errors import FormatError, RecordError, SourceError, StoreError, UnknownNameError
from graphstore.integrity.pack import pack, unpack
from graphstore.integrity.verify import verify
from graphstore.relations import Relation
from graphstore.schema import EdgeType, Schema, edge_name
from graphstore.store import Graph, Store
from graphstore.xsvideo.append import append
from graphstore.xsvideo.build import BuildConfig, build
from graphstore.xsvideo.records import ReadReport

__all__ = [
    "BuildConfig",
    "EdgeType",
    "FormatError",
    "Graph",
    "ReadReport",
    "RecordError",
    "Relation",
    "Schema",
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


def open(path: str) -> Store:
    """Open a sealed store, read-only and memory-mapped. Raises FormatError with what to do."""
    return Store(path)
