"""A node's own copy of the store: packed once by the driver, unpacked once a node, checked, then mapped."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from netgpt import graphstore
from netgpt.cluster.config import AUTO, OFF
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.progress import say
from netgpt.graphstore import Store, StoreError


@dataclass(frozen=True)
class NodeStore:
    """Where a process finds the store: in place, or in the node's cache, filled from the packed one."""

    path: str
    digest: str
    packed: str = ""
    cache: str = ""
    """Folder on the node's own disk; empty: the store is used where it is."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def local(self) -> Path:
        """The store on this node. The first process that asks unpacks it, the others wait for that."""
        if not self.cache:
            return Path(self.path)
        cache = Path(self.cache)
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        if cache.stat().st_uid != os.getuid():
            raise ClusterError(f"{cache}: belongs to another user; name a folder: cluster.store_cache=DIR")
        target = cache / self.digest[:16]
        with (cache / f".{target.name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if target.exists() and not self._whole(target):
                shutil.rmtree(target)
            if not target.exists():
                graphstore.unpack(self.packed, target)
        return target

    def _whole(self, target: Path) -> bool:
        try:
            return graphstore.open(str(target)).digest == self.digest
        except StoreError:
            return False


def place_store(store: Store, run: Path, cache: str, num_nodes: int) -> NodeStore:
    """How the nodes of a cluster get the store; packs it into the run's folder where they want copies.

    cache: a folder on every node's own disk; `auto`: one under the temporary folder, where there are
    several nodes; `off`: all nodes map the store where it is.
    """
    where = str(store.path.resolve())
    if cache == OFF or (cache == AUTO and num_nodes < 2):
        return NodeStore(where, store.digest)
    packed = run / f"store-{store.digest[:16]}.packed"
    if not packed.exists():
        say("packing the store, once, for the cluster's nodes")
        graphstore.pack(store.path, packed)
    if cache == AUTO:
        cache = str(Path(tempfile.gettempdir()) / f"netgpt-stores-{os.getuid()}")
    return NodeStore(where, store.digest, str(packed.resolve()), cache)
