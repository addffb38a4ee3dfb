"""Reading a sealed store: memory-mapped, read-only, opened in milliseconds at any size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from netgpt.graphstore.arrays import Strings, map_array
from netgpt.graphstore.errors import FormatError, StoreError, UnknownNameError
from netgpt.graphstore.features import Features
from netgpt.graphstore.files import MAX_JSON_BYTES, FileWatch, file_digest, inside, read_json, value_digest
from netgpt.graphstore.keys import Keys, KnownTexts
from netgpt.graphstore.members import Members, members_of
from netgpt.graphstore.relations import Relation, from_indptr
from netgpt.graphstore.schema import MAX_NODES, Column, EdgeType, RelationType, Schema, edge_name
from netgpt.graphstore.seal import VERSION, check_sizes, read_seal

if TYPE_CHECKING:
    from netgpt.graphstore.dataset import Dataset
    from netgpt.graphstore.pyg import StoreFeatures, StoreGraph

SPLITS = ("train", "test")


class Graph:
    """What samplers and models read of a graph: a store, or a store joined by new rows in memory.

    Node numbers are per node type, from 0; edge types are (source, relation, destination). What a graph does
    not have raises UnknownNameError with what it has.
    """

    schema: Schema
    num_nodes: dict[str, int]

    @property
    def node_types(self) -> tuple[str, ...]:
        return tuple(n.name for n in self.schema.node_types)

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return self.schema.edge_types

    @property
    def dataset(self) -> Dataset:
        """The data set that the graph is of; its code is loaded when it is first asked for."""
        raise NotImplementedError

    def relation(self, edge_type: EdgeType) -> Relation:
        raise NotImplementedError

    def features(self, node_type: str) -> Features:
        raise NotImplementedError

    def has_column(self, node_type: str, name: str) -> bool:
        """Whether there is a column of a name."""
        return any(n.name == node_type and n.column_named(name) is not None for n in self.schema.node_types)

    def column(self, node_type: str, name: str) -> np.ndarray:
        """Numbers or times of all nodes, codes of a category: [N] of the column's type."""
        raise NotImplementedError

    def category(self, node_type: str, name: str) -> tuple[np.ndarray, Sequence[str]]:
        """A category of all nodes: codes [N] int32, −1 for none, and the values."""
        raise NotImplementedError

    def strings(self, node_type: str, name: str) -> Sequence[str]:
        """An id or text column: N strings."""
        raise NotImplementedError

    @property
    def feature_dims(self) -> dict[str, int]:
        """Width of the features of each node type that has some."""
        return {name: self.features(name).dim for name in self.schema.encoded_types}

    def known_column(self, node_type: str, name: str, *kinds: str) -> Column:
        """A column of one of some kinds. UnknownNameError says which ones there are."""
        if node_type not in self.node_types:
            raise UnknownNameError(
                f"node type: found {node_type!r}, expected one of {', '.join(self.node_types)}"
            )
        columns = self.schema.node_type(node_type).columns
        for column in columns:
            if column.name == name and column.kind in kinds:
                return column
        there = ", ".join(c.name for c in columns if c.kind in kinds)
        expected = f"one of {there}" if there else "one; build the graph from a source with such columns"
        raise UnknownNameError(
            f"{' or '.join(kinds)} column of {node_type}: found no {name!r}, expected {expected}"
        )

    def node_ids(self, node_type: str) -> Sequence[str]:
        """The data set's own ids of a type's nodes: N strings; of a category's values those themselves."""
        node = next((n for n in self.schema.node_types if n.name == node_type), None)
        if node is not None and node.origin == "values":
            return self.category(node.of, node.column)[1]
        named = [] if node is None else [c.name for c in node.columns if c.kind == "id"]
        return self.strings(node_type, self.known_column(node_type, named[0] if named else "id", "id").name)

    def node_names(self, node_type: str) -> Sequence[str]:
        """What a type's nodes are called: their ids, of a type with one for each node of another that one's,
        and of a type without ids `RowNumbers`: N strings."""
        node = next((n for n in self.schema.node_types if n.name == node_type), None)
        if node is not None and node.origin == "each":
            return self.node_names(node.of)
        if node is None or node.origin == "values" or any(c.kind == "id" for c in node.columns):
            return self.node_ids(node_type)
        return RowNumbers(self.num_nodes[node_type])

    def id_column(self, node_type: str, nodes: np.ndarray) -> np.ndarray | list[str]:
        """What a table of some nodes [n] names them by: their ids; of a type without ids their numbers."""
        names = self.node_names(node_type)
        return nodes if isinstance(names, RowNumbers) else [names[v] for v in nodes.tolist()]

    @property
    def ids(self) -> Sequence[str]:
        """Ids of the target type's nodes."""
        return self.node_ids(self.schema.target)

    @property
    def texts(self) -> Sequence[str]:
        """The target type's documents, as JSON."""
        document = self.schema.document(self.schema.target)
        if document is not None and not document.column:
            from netgpt.graphstore.documents import documents

            return [text for _, text in documents(self, document, range(self.num_nodes[self.schema.target]))]
        return self.strings(self.schema.target, "text" if document is None else document.column)

    @property
    def times(self) -> dict[str, np.ndarray]:
        """By node type [n] int64 seconds: when a node came to be, of the types that have times, and of heads
        of groups, which came to be with the nodes that they are of.

        Rows of relations that a group makes are in this order.
        """
        times = {n.name: self.column(n.name, n.time) for n in self.schema.node_types if n.time}
        groups = (r.edge_type for r in self.schema.relations if r.rule == "group")
        return times | {src: times[dst] for src, _, dst in groups if dst in times and src not in times}

    @property
    def fingerprint(self) -> str:
        """A digest of the nodes and edges, the same in both layouts; empty where nothing is known."""
        return ""

    def check_unchanged(self) -> None:
        """Raises StoreError where a mapped file is not what it was when it was mapped."""


class RowNumbers(Sequence[str]):
    """The numbers of N rows that have no ids, as strings."""

    def __init__(self, num: int) -> None:
        self._numbers = range(num)

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, i: int) -> str: ...

    @overload
    def __getitem__(self, i: slice) -> list[str]: ...

    def __getitem__(self, i: int | slice) -> str | list[str]:
        return [str(v) for v in self._numbers[i]] if isinstance(i, slice) else str(self._numbers[i])


class Store(Graph):
    """A sealed store on disk. Use `graphstore.open`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.seal = read_seal(self.path)
        self.path = self.path.absolute()  # arrays are opened later, perhaps from another folder
        check_sizes(self.path, self.seal)
        meta = inside(self.path, "zarr.json")
        if meta.stat().st_size > MAX_JSON_BYTES or file_digest(meta) != self.seal.files.get("zarr.json"):
            raise FormatError(f"{meta}: damaged; build the store again")
        self.digest = self.seal.digest
        """SHA-256 over the digests of all files: equal digests mean equal bytes."""
        try:
            self.attributes: dict[str, Any] = read_json(meta)["attributes"]
            if self.seal.version < VERSION:
                from netgpt.graphstore.datasets.names import upgraded  # by name, and of old stores alone

                self.attributes = upgraded(self.attributes)
            self.schema = Schema.from_dict(self.attributes["schema"])
            self.num_nodes = {name: self.attributes["num_nodes"][name] for name in self.node_types}
            self._check_attributes()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{meta}: found attributes of no graph ({error!r}); build it again") from error
        self._relations: dict[EdgeType, Relation] = {}
        self._features: dict[str, Features] = {}
        self._columns: dict[tuple[str, str], np.ndarray] = {}
        self._strings_of: dict[tuple[str, str], Strings] = {}
        self._categories: dict[tuple[str, str], tuple[np.ndarray, Strings]] = {}
        self._keys: dict[tuple[str, str], Keys] = {}
        self._members: dict[EdgeType, Members] = {}
        self._watch = FileWatch()

    def _check_attributes(self) -> None:
        """ValueError, KeyError or TypeError for attributes that the rest of this class cannot rely on."""
        relations = {name: self.attributes["relations"][name] for name in map(edge_name, self.edge_types)}
        numbers = [*self.num_nodes.values(), *(relation["num_edges"] for relation in relations.values())]
        if any(type(number) is not int or not 0 <= number < MAX_NODES for number in numbers):
            raise ValueError("numbers of nodes or edges")
        for rule in self.schema.relations:
            held = relations[edge_name(rule.edge_type)].get("held", {})
            if set(held) != set(rule.held) or any(type(num) is not int or num < 0 for num in held.values()):
                raise ValueError(f"held pairs {held!r} of {edge_name(rule.edge_type)}")
        for (src, _, dst), relation in zip(self.edge_types, relations.values(), strict=True):
            fits = relation["layout"] == "csr" or self.schema.is_numbered_as(src, dst)
            if relation["layout"] not in ("csr", "prefix") or not fits:
                raise ValueError(f"layout {relation['layout']!r} from {src} to {dst}")
        if not all(isinstance(self.attributes[name], str) for name in ("source_digest", "dataset")):
            raise ValueError("source_digest or dataset")
        for name in ("encoders", "build"):
            dict(self.attributes[name])
        if not all(type(self.attributes[name]) is int for name in ("num_skipped", "time_dim")):
            raise ValueError("num_skipped or time_dim")

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {sum(self.num_nodes.values()):,} nodes)"

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return Store, (self.path,)  # maps are opened again where it is unpickled, not copied

    @cached_property
    def dataset(self) -> Dataset:  # type: ignore[override]  # the base has a plain property
        """The data set that its attributes name. UnknownNameError where that is not installed."""
        from netgpt.graphstore.datasets.names import load  # above this room, and loaded by its name alone

        return load(self.attributes["dataset"])

    def keys(self, node_type: str, name: str = "") -> Keys:
        """Texts of an id column, by default a type's own ids, or values of a category, to find their numbers
        by; made once."""
        key = (node_type, name)
        if key not in self._keys:
            made = self._keys[key] = Keys()
            column = self.schema.node_type(node_type).column_named(name)
            if column is not None and column.kind == "category":
                made.add_texts(self.category(node_type, name)[1])
            else:
                made.add_texts(self.strings(node_type, name) if name else self.node_ids(node_type))
        return self._keys[key]

    def id_set(self, node_type: str) -> KnownTexts:
        """The ids of a type's nodes, to look up in."""
        return KnownTexts(self.keys(node_type))

    def members(self, relation: RelationType) -> Members:
        """The members of the groups of a relation; made once."""
        if relation.edge_type not in self._members:
            self._members[relation.edge_type] = members_of(self, relation)
        return self._members[relation.edge_type]

    @cached_property
    def num_edges(self) -> dict[EdgeType, int]:
        relations = self.attributes["relations"]
        return {e: int(relations[edge_name(e)]["num_edges"]) for e in self.edge_types}

    def array(self, name: str) -> np.ndarray:
        """Map one array by its path in the store, such as `nodes/TYPE/COLUMN`."""
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
                raise unknown_relation(self, edge_type)
            folder = f"edges/{edge_name(edge_type)}"
            indices = self.array(f"{folder}/indices")
            num_tails = self.num_nodes[edge_type[2]]
            if self.attributes["relations"][edge_name(edge_type)]["layout"] == "csr":
                indptr = self._array_of_length(f"{folder}/indptr", num_tails + 1)
                relation = from_indptr(edge_type, indptr, indices)
                relation = self._with_values(relation, folder)
            else:
                begin, end, rank = (
                    self._array_of_length(f"{folder}/{part}", num_tails) for part in ("begin", "end", "rank")
                )
                relation = Relation(edge_type, "prefix", indices, begin, end, rank)
            self._relations[edge_type] = relation
        return self._relations[edge_type]

    def _with_values(self, relation: Relation, folder: str) -> Relation:
        """A relation with what its edges have of their own."""
        rule = self.schema.relation_type(relation.edge_type)
        num = len(relation.indices)
        time = self._array_of_length(f"{folder}/time", num) if rule.time else None
        numbers = {name: self._array_of_length(f"{folder}/numbers/{name}", num) for name in rule.numbers}
        return replace(relation, time=time, numbers=numbers)

    def held(self, edge_type: EdgeType, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Heads and tails of the pairs of a relation that are kept beside it and are no edges, such as those
        of `test`: [n] int64 each, in the order (head, tail). UnknownNameError for parts that it has not."""
        rule = next((r for r in self.schema.relations if r.edge_type == edge_type), None)
        if rule is None or part not in rule.held:
            there = ", ".join(rule.held if rule else ()) or "none"
            raise UnknownNameError(
                f"held pairs of {edge_name(edge_type)}: found {part!r}, expected one of {there}"
            )
        num = self.attributes["relations"][edge_name(edge_type)]["held"][part]
        folder = rule.held_path(part)
        heads, tails = (self._array_of_length(f"{folder}/{name}", num) for name in ("heads", "tails"))
        return heads, tails

    def features(self, node_type: str) -> Features:
        if node_type not in self._features:
            if node_type not in self.schema.encoded_types:
                there = ", ".join(self.schema.encoded_types)
                raise UnknownNameError(
                    f"node type with features: found {node_type!r}, expected one of {there or 'none'}"
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

    def strings(self, node_type: str, name: str) -> Sequence[str]:
        column = self.known_column(node_type, name, "id", "text")
        if (node_type, name) not in self._strings_of:
            strings = self._strings(column.path(node_type), self.num_nodes[node_type])
            self._strings_of[node_type, name] = strings
        return self._strings_of[node_type, name]

    def column(self, node_type: str, name: str) -> np.ndarray:
        column = self.known_column(node_type, name, "number", "time", "category")
        if column.kind == "category":
            return self.category(node_type, name)[0]
        if (node_type, name) not in self._columns:
            num, path = self.num_nodes[node_type], column.path(node_type)
            if path in self.seal.arrays or self.seal.version == VERSION:
                values = self._array_of_length(path, num)
                if values.ndim != 1 or values.dtype != column.number_type:
                    raise FormatError(
                        f"{self.path}: {path}: found {values.dtype}, expected {column.number_type}"
                    )
            else:  # the store is of a format before the column
                values = np.asarray(self.dataset.derive(self, node_type, name), column.number_type)
                values.setflags(write=False)
            self._columns[node_type, name] = values
        return self._columns[node_type, name]

    def category(self, node_type: str, name: str) -> tuple[np.ndarray, Sequence[str]]:
        folder = self.known_column(node_type, name, "category").path(node_type)
        if (node_type, name) in self._categories:
            return self._categories[node_type, name]
        codes = self._array_of_length(f"{folder}/code", self.num_nodes[node_type])
        values = self._strings(f"{folder}/value")
        if codes.dtype != np.int32 or (len(codes) and not -1 <= codes.min() <= codes.max() < len(values)):
            raise FormatError(f"{self.path}: {folder}/code: values outside -1 to {len(values) - 1}")
        self._categories[node_type, name] = codes, values
        return codes, values

    @property
    def skipped_ids(self) -> set[str]:
        """Ids of rows of the target type that the builds of this store left out (`--on-error skip`)."""
        name = f"nodes/{self.schema.target}/skipped_id"
        if name not in self.seal.arrays:  # format 1 kept their number alone
            return set()
        return set(self._strings(name))

    def taken_ids(self) -> frozenset[str]:
        """Ids that no row which joins this store may have: those of its target type, left out or not."""
        has_ids = any(c.kind == "id" for c in self.schema.node_type(self.schema.target).columns)
        return frozenset(self.ids) | self.skipped_ids if has_ids else frozenset()

    # What was there before stores had columns of any name

    @property
    def labels(self) -> np.ndarray:
        """The column `label` of the target type: [N]."""
        return self.column(self.schema.target, "label")

    @property
    def post_time(self) -> np.ndarray:
        """The column `time` of the target type: [N] int64, seconds since 1970."""
        return self.column(self.schema.target, "time")

    @property
    def sampling_time(self) -> np.ndarray:
        """The column `ctime` of the target type: [N] int64, seconds since 1970."""
        return self.column(self.schema.target, "ctime")

    def key(self, name: str) -> tuple[np.ndarray, Sequence[str]]:
        """A category of the target type: codes [N] int32, −1 empty, and the values."""
        return self.category(self.schema.target, name)

    def split(self, name: str) -> np.ndarray:
        """Node numbers of the target type of a part of the data set's own split (train, test), ascending:
        [n] int64. UnknownNameError where the data set has none."""
        if name not in SPLITS:
            raise UnknownNameError(f"split: found {name!r}, expected one of {', '.join(SPLITS)}")
        split = self.schema.split
        if split is None:
            raise UnknownNameError(
                f"{self.path}: split {name!r}: found none in a store of {self.dataset.title}, expected a "
                "data set with a split; choose nodes by a column"
            )
        is_test = self.column(self.schema.target, split.column) >= split.until
        return np.flatnonzero(is_test == (name == "test"))

    def as_pyg(self, *, max_bytes: int = 1 << 30) -> tuple[StoreFeatures, StoreGraph]:
        """PyG's remote-backend pair (FeatureStore, GraphStore) over this store.

        Prefix rows are materialised as csr within `max_bytes`; beyond it StoreError says the size and
        the command that builds a csr store.
        """
        from netgpt.graphstore.pyg import StoreFeatures, StoreGraph  # torch is imported only here

        return StoreFeatures(self), StoreGraph(self, max_bytes=max_bytes)


def unknown_relation(graph: Graph, edge_type: EdgeType) -> UnknownNameError:
    """The error for an edge type that a graph does not have."""
    there = ", ".join(edge_name(e) for e in graph.edge_types)
    return UnknownNameError(f"edge type: found {edge_type!r}, expected one of {there}")
