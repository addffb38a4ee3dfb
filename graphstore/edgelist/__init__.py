"""Stores from any typed edge lists, out of core: a description, its files, a counting sort by tail."""

from graphstore.edgelist.build import build_edges
from graphstore.edgelist.describe import Description, read_description

__all__ = ["Description", "build_edges", "read_description"]
