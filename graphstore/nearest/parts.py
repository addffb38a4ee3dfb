"""A search in parts that are files, each renamed when it is whole: what was found before a crash stays.

    PARTS/search.json      of which store and relation the parts are
    PARTS/NUMBER.npz       heads [n, k], scores [n, k], num [n] of the tails of some tasks, in their order
    PARTS/index.faiss      the index, of an approximate search

Parts may be made by any process that sees the folder and the store.
"""

from __future__ import annotations

import os
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from netgpt.graphstore.errors import FormatError, StoreError
from netgpt.graphstore.files import atomic_dir, atomic_file, read_json, value_digest, write_json
from netgpt.graphstore.nearest.approximate import (
    Approximate,
    ApproximateSearch,
    make_index,
    recall_of,
    require_faiss,
)
from netgpt.graphstore.nearest.relation import as_relation, search_of
from netgpt.graphstore.nearest.search import BLOCK_TAILS, BLOCK_VECTORS, Rows
from netgpt.graphstore.relation_types import RelationType, edge_name
from netgpt.graphstore.relations import write_relation
from netgpt.graphstore.seal import VERSION, require_whole, write_attributes, write_seal
from netgpt.graphstore.store import Store

TASKS = 8
"""Of a part: some seconds of a thread."""
SEARCH, INDEX = "search.json", "index.faiss"


class PartedSearch:
    """The rows of a relation that a store does not have yet, in parts."""

    def __init__(
        self, store: Store, relation: RelationType, folder: Path, approximate: Approximate | None = None
    ) -> None:
        """folder: is made here, or has parts of the same search. approximate: by an index, which is made here
        where it is not in the folder. StoreError where it has those of another, and for a relation that the
        store cannot have."""
        self.store, self.relation, self.folder, self.approximate = store, relation, folder, approximate
        name = edge_name(relation.edge_type)
        if store.seal.version < VERSION:
            raise FormatError(
                f"{store.path}: found format version {store.seal.version}, expected {VERSION}; build the "
                "store again from its source"
            )
        if relation.edge_type in store.edge_types:
            raise StoreError(f"{store.path}: found the relation {name} already, expected a new name")
        schema = replace(store.schema, relations=(*store.schema.relations, relation))
        for problem in schema.problems():
            raise StoreError(f"{store.path}: {problem}")
        self.schema = schema
        if approximate is not None:
            require_faiss()
        folder.mkdir(parents=True, exist_ok=True)
        cut = [TASKS, BLOCK_VECTORS, BLOCK_TAILS]
        asked = {"approximate": approximate.to_dict()} if approximate else {}
        self.key = value_digest({"store": store.digest, "relation": relation.to_dict(), "cut": cut, **asked})
        said = folder / SEARCH
        if said.exists() and _read(said).get("key") != self.key:
            raise StoreError(f"{folder}: found parts of another search, expected none; remove the folder")
        self._search, self._asked = search_of(store, relation, scratch=folder / f"vectors-{uuid.uuid4().hex}")
        write_json(said, {"format": "netgpt-search", "version": 1, "key": self.key, "relation": name})
        if approximate is not None:
            index = folder / INDEX
            if not index.exists():
                make_index(self._search.bank, index)
            self._search = ApproximateSearch.of(self._search, index, approximate)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        """Tasks of each part, half open."""
        num = len(self._search.tasks)
        return [(first, min(first + TASKS, num)) for first in range(0, num, TASKS)]

    def path(self, part: int) -> Path:
        return self.folder / f"{part}.npz"

    @property
    def missing(self) -> list[int]:
        return [part for part in range(len(self.ranges)) if not self.path(part).exists()]

    def make(self, part: int) -> int:
        """Find the rows of a part and write them; how many tails they are. BLAS is left with the threads that
        it has."""
        search, (first, last) = self._search, self.ranges[part]
        found = [search.run(task) for task in search.tasks[first:last]]
        arrays = {
            name: np.concatenate([getattr(rows, name) for rows in found])
            for name in ("heads", "scores", "num")
        }
        with atomic_file(self.path(part)) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its typing takes names for options
        return len(arrays["num"])

    def rows(self) -> Rows:
        """All parts, in the order of the tails that have vectors. FormatError for one that is damaged."""
        search, asked = self._search, self._asked
        k = search.k
        whole = Rows.empty(len(asked), k)
        for part, (first, last) in enumerate(self.ranges):
            tails = search.order[search.tasks[first][0] : search.tasks[last - 1][1]]
            try:
                with np.load(self.path(part), allow_pickle=False) as made:
                    rows = Rows(made["heads"], made["scores"], made["num"])
                if {rows.heads.shape, rows.scores.shape} != {(len(tails), k)} or len(rows.num) != len(tails):
                    raise ValueError(f"rows {list(rows.heads.shape)}")
            except (OSError, ValueError, KeyError, BadZipFile) as error:
                raise FormatError(
                    f"{self.path(part)}: damaged ({error}); remove it and start again"
                ) from None
            whole.put(tails, rows)
        return whole

    def write(self, out: Path) -> None:
        """The store with the relation, at `out`; its other files are hard links to the old one's. The parts
        are removed then. StoreError where a part is missing."""
        if missing := self.missing:
            raise StoreError(f"{self.path(missing[0])}: found no such part, expected all of them")
        require_whole(self.store.path, self.store.seal)
        found, name = self.rows(), edge_name(self.relation.edge_type)
        rows = as_relation(self.store, self.relation, found, self._asked)
        with atomic_dir(out) as root:
            for file in self.store.seal.files:
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                _link(self.store.path / file, root / file)
            (root / "zarr.json").unlink()
            shutil.copyfile(self.store.path / "zarr.json", root / "zarr.json")  # this one changes
            write_relation(root, rows, "csr")
            relations = dict(self.store.attributes["relations"])
            tails = self.store.num_nodes[self.relation.edge_type[2]]
            relations[name] = {"layout": "csr", "num_edges": rows.num_edges, "dst_range": [0, tails]}
            if self.approximate is not None:
                recall, of = recall_of(self._search, found)
                said = {**self.approximate.to_dict(), "recall": recall, "of": of}
                relations[name]["approximate"] = said
            attributes: dict[str, Any] = {**self.store.attributes, "relations": relations}
            attributes |= {"schema": self.schema.to_dict(), "parent_digest": self.store.digest}
            write_attributes(root, attributes)
            write_seal(root)
        shutil.rmtree(self.folder)


def _link(original: Path, copy: Path) -> None:
    """A hard link, or where the file system has none a copy."""
    try:
        os.link(original, copy)
    except OSError:
        shutil.copyfile(original, copy)


def _read(path: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = dict(read_json(path))
        return made
    except (OSError, ValueError, TypeError):
        return {}
