"""Reading a sealed store: memory-mapped, read-only, opened in milliseconds at any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphstore.arrays import Strings, map_array
from graphstore.errors import FormatError, UnknownNameError
from graphstore.features import Features
from graphstore.files import file_digest, inside, read_json
from graphstore.integrity.seal import check_sizes, read_seal
from graphstore.relations import Relation, from_indptr
from graphstore.schema import EdgeType, Schema, edge_name

if TYPE_CHECKING:
    from graphstore.pyg import StoreFeatures, StoreGraph

SPLITS = ("train", "test")
VIDEO_COLUMNS = {
    "label": np.int8,
    "time": np.int64,
    "ctime": np.int64,
    "platform": np.int32,
    "split": np.int8,
}
"""Columns of the video nodes of a store of records, one number a node."""


class Graph:
    """What samplers and models read of a graph: a store, or a store joined by new states in memory.

    Node numbers are per node type, from 0; edge types are (source, relation, destination).
    """

    schema: Schema
    num_nodes: dict[str, int]
    ids: Sequence[str]
    """Dataset ids of the video nodes, by node number."""
    texts: Sequence[str]
    """The record of each video node as JSON without its level."""

    @property
    def node_types(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.schema.node_types)

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return self.schema.edge_types

    def relation(self, edge_type: EdgeType) -> Relation:
        raise NotImplementedError

    def features(self, node_type: str) -> Features:
        raise NotImplementedError


class Store(Graph):
    """A sealed store on disk. Use `graphstore.open`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.seal = read_seal(self.path)
        check_sizes(self.path, self.seal)
        meta = inside(self.path, "zarr.json")
        if file_digest(meta) != self.seal.files.get("zarr.json"):
            raise FormatError(f"{meta}: damaged; build the store again")
        self.digest = self.seal.digest
        """SHA-256 over the digests of all files: equal digests mean equal bytes."""
        try:
            self.attributes: dict[str, Any] = read_json(meta)["attributes"]
            self.schema = Schema.from_dict(self.attributes["schema"])
            self.num_nodes = {name: int(self.attributes["num_nodes"][name]) for name in self.node_types}
            for name in (edge_name(e) for e in self.edge_types):
                if self.attributes["relations"][name]["layout"] not in ("csr", "prefix"):
                    raise ValueError(f"layout of {name}")
                int(self.attributes["relations"][name]["num_edges"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{meta}: found attributes of no graph ({error!r}); build it again") from error
        self._relations: dict[EdgeType, Relation] = {}
        self._features: dict[str, Features] = {}

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {sum(self.num_nodes.values()):,} nodes)"

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)  # maps are opened again where it is unpickled, not copied

    @cached_property
    def num_edges(self) -> dict[EdgeType, int]:
        relations = self.attributes["relations"]
        return {e: int(relations[edge_name(e)]["num_edges"]) for e in self.edge_types}

    def array(self, name: str) -> np.ndarray:
        """Map one array by its path in the store, such as `nodes/video/label`."""
        return map_array(self.path, name)

    def _array_of_length(self, name: str, length: int) -> np.ndarray:
        array = self.array(name)
        if len(array) != length:
            raise FormatError(f"{self.path}: {name}: found {len(array)} rows, expected {length}")
        return array

    def relation(self, edge_type: EdgeType) -> Relation:
        if edge_type not in self._relations:
            if edge_type not in self.edge_types:
                known = ", ".join(edge_name(e) for e in self.edge_types)
                raise UnknownNameError(f"edge type: found {edge_type!r}, expected one of {known}")
            folder = f"edges/{edge_name(edge_type)}"
            indices = self.array(f"{folder}/indices")
            num_tails = self.num_nodes[edge_type[2]]
            if self.attributes["relations"][edge_name(edge_type)]["layout"] == "csr":
                indptr = self._array_of_length(f"{folder}/indptr", num_tails + 1)
                relation = from_indptr(edge_type, indptr, indices)
            else:
                begin, end, rank = (
                    self._array_of_length(f"{folder}/{part}", num_tails) for part in ("begin", "end", "rank")
                )
                relation = Relation(edge_type, "prefix", indices, begin, end, rank)
            self._relations[edge_type] = relation
        return self._relations[edge_type]

    @property
    def has_records(self) -> bool:
        """Made from released records: with ids, texts, labels, times and splits. Not so from edge lists."""
        return "train_until" in self.attributes

    def features(self, node_type: str) -> Features:
        if node_type not in self._features:
            with_features = [n.name for n in self.schema.node_types if n.encoding != "none"]
            if node_type not in with_features:
                known = ", ".join(with_features)
                raise UnknownNameError(
                    f"node type with features: found {node_type!r}, expected one of {known or 'none'}"
                )
            folder, num = f"nodes/{node_type}", self.num_nodes[node_type]
            if f"{folder}/x_row/zarr.json" in self.seal.files:
                rows = self._array_of_length(f"{folder}/x_row", num)
                self._features[node_type] = Features(num, self.array(f"{folder}/x"), rows)
            else:
                self._features[node_type] = Features(num, self._array_of_length(f"{folder}/x", num), None)
        return self._features[node_type]

    def _strings(self, name: str) -> Strings:
        return Strings(self.array(name), self.array(f"{name}_offset"))

    def _video_column(self, name: str) -> np.ndarray:
        return self._array_of_length(f"nodes/video/{name}", self.num_nodes["video"])

    @cached_property
    def ids(self) -> Sequence[str]:  # type: ignore[override]
        return self._strings("nodes/video/id")  # type: ignore[return-value]

    @cached_property
    def texts(self) -> Sequence[str]:  # type: ignore[override]
        return self._strings("nodes/video/text")  # type: ignore[return-value]

    @cached_property
    def labels(self) -> np.ndarray:
        """Influence level of each video node: [N] int8, −1 unknown."""
        return self._video_column("label")

    @cached_property
    def post_time(self) -> np.ndarray:
        """[N] int64, seconds since 1970."""
        return self._video_column("time")

    @cached_property
    def sampling_time(self) -> np.ndarray:
        """[N] int64, seconds since 1970: midnight of the sampling date in China."""
        return self._video_column("ctime")

    def key(self, name: str) -> tuple[np.ndarray, Sequence[str]]:
        """A shared attribute (url, author, topic, platform): codes [N] int32, −1 empty, and the values."""
        folder = f"nodes/video/keys/{name}"
        return self._video_column(f"keys/{name}/code"), self._strings(f"{folder}/value")  # type: ignore[return-value]

    def split(self, name: str) -> np.ndarray:
        """Video node numbers of a split (train, test; by post date), ascending: [n] int64."""
        if name not in SPLITS:
            raise UnknownNameError(f"split: found {name!r}, expected one of {', '.join(SPLITS)}")
        return np.flatnonzero(self._video_column("split") == SPLITS.index(name))

    def as_pyg(self, *, max_bytes: int = 1 << 30) -> tuple[StoreFeatures, StoreGraph]:
        """PyG's remote-backend pair (FeatureStore, GraphStore) over this store.

        Prefix rows are materialised as csr within `max_bytes`; beyond it StoreError says the size and
        the command that builds a csr store.
        """
        from graphstore.pyg import StoreFeatures, StoreGraph  # torch is imported only here

        return StoreFeatures(self), StoreGraph(self, max_bytes=max_bytes)
