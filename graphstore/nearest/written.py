"""The nodes of a store that is being written: all that retrieval reads of a graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from netgpt.graphstore.arrays import Strings, map_array
from netgpt.graphstore.features import Features
from netgpt.graphstore.schema import Schema
from netgpt.graphstore.store import Graph


class WrittenNodes(Graph):
    """Features, numbers, times and categories, whose arrays are whole in a folder that is no store yet."""

    def __init__(self, root: Path, schema: Schema, num_nodes: Mapping[str, int]) -> None:
        self._root, self.schema, self.num_nodes = root, schema, dict(num_nodes)

    def features(self, node_type: str) -> Features:
        folder = f"nodes/{node_type}"
        has_rows = (self._root / folder / "x_row").is_dir()
        rows = map_array(self._root, f"{folder}/x_row") if has_rows else None
        return Features(self.num_nodes[node_type], map_array(self._root, f"{folder}/x"), rows)

    def column(self, node_type: str, name: str) -> np.ndarray:
        path = self.known_column(node_type, name, "number", "time").path(node_type)
        return map_array(self._root, path)

    def category(self, node_type: str, name: str) -> tuple[np.ndarray, Sequence[str]]:
        folder = self.known_column(node_type, name, "category").path(node_type)
        values = Strings(*(map_array(self._root, f"{folder}/value{end}") for end in ("", "_offset")))
        return map_array(self._root, f"{folder}/code"), values
