"""Reading a sealed store: memory-mapped, read-only, opened in milliseconds at any size."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from netgpt.graphstore.arrays import Strings, map_array
from netgpt.graphstore.errors import FormatError, StoreError, UnknownNameError
from netgpt.graphstore.features import Features
from netgpt.graphstore.files import MAX_JSON_BYTES, FileWatch, file_digest, inside, read_json, value_digest
from netgpt.graphstore.integrity.seal import check_sizes, read_seal
from netgpt.graphstore.relations import Relation, from_indptr
from netgpt.graphstore.schema import EdgeType, Schema, edge_name

if TYPE_CHECKING:
    from netgpt.graphstore.pyg import StoreFeatures, StoreGraph

SPLITS = ("train", "test")
MAX_LEVEL = 9
RECORD_KEYS = ("url", "author", "topic", "platform")
"""Attributes of a record that states can share; stored as codes, so that later states can join."""
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

    @property
    def times(self) -> dict[str, np.ndarray]:
        """By node type [n] int64 seconds: when a node came to be, of the types that have times.

        Rows of relations that a group makes are in this order.
        """
        return {}

    @property
    def fingerprint(self) -> str:
        """Of the nodes and edges, the same in both layouts; empty where nothing is known."""
        return ""

    def check_unchanged(self) -> None:
        """Raises StoreError where a mapped file is not what it was when it was mapped."""


class Store(Graph):
    """A sealed store on disk. Use `graphstore.open`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.seal = read_seal(self.path)
        check_sizes(self.path, self.seal)
        meta = inside(self.path, "zarr.json")
        if meta.stat().st_size > MAX_JSON_BYTES or file_digest(meta) != self.seal.files.get("zarr.json"):
            raise FormatError(f"{meta}: damaged; build the store again")
        self.digest = self.seal.digest
        """SHA-256 over the digests of all files: equal digests mean equal bytes."""
        try:
            self.attributes: dict[str, Any] = read_json(meta)["attributes"]
            self.schema = Schema.from_dict(self.attributes["schema"])
            self.num_nodes = {name: self.attributes["num_nodes"][name] for name in self.node_types}
            self._check_attributes()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{meta}: found attributes of no graph ({error!r}); build it again") from error
        self._relations: dict[EdgeType, Relation] = {}
        self._features: dict[str, Features] = {}
        self._watch = FileWatch()

    def _check_attributes(self) -> None:
        """ValueError, KeyError or TypeError for attributes that the rest of this class cannot rely on."""
        relations = {name: self.attributes["relations"][name] for name in map(edge_name, self.edge_types)}
        numbers = [*self.num_nodes.values(), *(relation["num_edges"] for relation in relations.values())]
        if any(type(number) is not int or not 0 <= number < 1 << 60 for number in numbers):
            raise ValueError("numbers of nodes or edges")
        for (src, _, dst), relation in zip(self.edge_types, relations.values(), strict=True):
            if relation["layout"] not in ("csr", "prefix") or (relation["layout"] == "prefix" and src != dst):
                raise ValueError(f"layout {relation['layout']!r} from {src} to {dst}")
        if not isinstance(self.attributes["source_digest"], str):
            raise ValueError("source_digest")
        dict(self.attributes["encoders"])
        if self.has_records:
            if self.schema.target != "video" or "video" not in self.num_nodes:
                raise ValueError("records without video nodes")
            dict(self.attributes["build"])
            if not all(isinstance(self.attributes[name], str) for name in ("ties", "train_until")):
                raise ValueError("ties or train_until")
            if not all(type(self.attributes[name]) is int for name in ("num_skipped", "time_dim")):
                raise ValueError("num_skipped or time_dim")

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
        array = map_array(self.path, name)
        if isinstance(array, np.memmap) and array.filename is not None:
            self._watch.add(Path(array.filename))
        return array

    @property
    def fingerprint(self) -> str:
        edges = {edge_name(e): num for e, num in self.num_edges.items()}
        return value_digest([self.attributes["source_digest"], self.num_nodes, edges])

    def check_unchanged(self) -> None:
        if (changed := self._watch.changed()) is not None:
            raise StoreError(f"{changed}: changed on disk while it was in use; open the store again")

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
            if node_type not in self.schema.encoded_types:
                known = ", ".join(self.schema.encoded_types)
                raise UnknownNameError(
                    f"node type with features: found {node_type!r}, expected one of {known or 'none'}"
                )
            folder, num = f"nodes/{node_type}", self.num_nodes[node_type]
            rows = None
            if f"{folder}/x_row" in self.seal.arrays:
                rows, x = self._array_of_length(f"{folder}/x_row", num), self.array(f"{folder}/x")
            else:
                x = self._array_of_length(f"{folder}/x", num)
            if x.ndim != 2 or x.dtype not in (np.float16, np.float32):
                raise FormatError(
                    f"{self.path}: {folder}/x: found {x.dtype} {list(x.shape)}, expected float16 or float32 "
                    "[rows, width]"
                )
            self._features[node_type] = Features(num, x, rows)
        return self._features[node_type]

    def _strings(self, name: str, length: int | None = None) -> Strings:
        offset = self.array(f"{name}_offset")
        if length is not None and len(offset) != length + 1:
            raise FormatError(f"{self.path}: {name}_offset: found {len(offset)} rows, expected {length + 1}")
        return Strings(self.array(name), offset)

    def _video_column(self, name: str) -> np.ndarray:
        found = self._array_of_length(f"nodes/video/{name}", self.num_nodes["video"])
        if found.ndim != 1 or found.dtype != (expected := VIDEO_COLUMNS[name]):
            raise FormatError(f"{self.path}: nodes/video/{name}: found {found.dtype}, expected {expected}")
        return found

    @cached_property
    def ids(self) -> Sequence[str]:  # type: ignore[override]
        return self._strings("nodes/video/id", self.num_nodes["video"])  # type: ignore[return-value]

    @cached_property
    def texts(self) -> Sequence[str]:  # type: ignore[override]
        return self._strings("nodes/video/text", self.num_nodes["video"])  # type: ignore[return-value]

    @property
    def skipped_ids(self) -> set[str]:
        """Ids of records that the builds of this store left out (`--on-error skip`)."""
        name = "nodes/video/skipped_id"
        if name not in self.seal.arrays:  # format 1 kept their number alone
            return set()
        ids = self._strings(name)
        return {ids[i] for i in range(len(ids))}

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

    @property
    def times(self) -> dict[str, np.ndarray]:
        return {"video": self.sampling_time} if self.has_records else {}

    def key(self, name: str) -> tuple[np.ndarray, Sequence[str]]:
        """A shared attribute (url, author, topic, platform): codes [N] int32, −1 empty, and the values."""
        folder = f"nodes/video/keys/{name}"
        codes = self._array_of_length(f"{folder}/code", self.num_nodes["video"])
        values = self._strings(f"{folder}/value")
        if codes.dtype != np.int32 or (len(codes) and not -1 <= codes.min() <= codes.max() < len(values)):
            raise FormatError(f"{self.path}: {folder}/code: values outside -1 to {len(values) - 1}")
        return codes, values  # type: ignore[return-value]

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
        from netgpt.graphstore.pyg import StoreFeatures, StoreGraph  # torch is imported only here

        return StoreFeatures(self), StoreGraph(self, max_bytes=max_bytes)
