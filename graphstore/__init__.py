"""The graph on disk: schema, sources, features, relations, builder, verification.

store = graphstore.open(path)
"""

from netgpt.graphstore.edgelist.build import build_edges
from netgpt.graphstore.errors import FormatError, RecordError, SourceError, StoreError, UnknownNameError
from netgpt.graphstore.integrity.pack import pack, unpack
from netgpt.graphstore.integrity.verify import verify
from netgpt.graphstore.relations import Relation
from netgpt.graphstore.schema import EdgeType, Schema, edge_name
from netgpt.graphstore.store import Graph, Store
from netgpt.graphstore.xsvideo.append import append
from netgpt.graphstore.xsvideo.build import BuildConfig, build
from netgpt.graphstore.xsvideo.records import ReadReport

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
