"""Training of large graph models: a heterogeneous graph joined to a large language model.

    import netgpt
    store = netgpt.open("runs/demo/store")
    netgpt.load("exported").predict(rows)  # of `netgpt export`
    loader = netgpt.sampler.NeighborLoader(store, store.split("train"), batch_size=64)

The packages `netgpt.graphstore`, `.sampler`, `.trainers` and `.cluster` are the folders of those names
of the source tree: links here, so that one import name holds all, and no other package's name is taken.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from netgpt import cluster, graphstore, sampler, trainers
    from netgpt.graphstore import open
    from netgpt.trainers.language.model.scorer import Scorer

    load = Scorer

__all__ = ["cluster", "graphstore", "load", "open", "sampler", "trainers"]


def __getattr__(name: str) -> Any:
    """Packages, `open` and `load` when they are first asked for: `import netgpt` alone takes no time."""
    if name == "open":
        return import_module("netgpt.graphstore").open
    if name == "load":
        return import_module("netgpt.trainers.language.model.scorer").Scorer
    if name in __all__:
        return import_module(f"netgpt.{name}")
    raise AttributeError(f"module 'netgpt' has no attribute {name!r}")


def _place_compiled_code() -> None:
    """Have numba keep what it compiles in a temporary folder, where neither this tree nor the user's folder
    of caches can be written: it refuses to start without one. NUMBA_CACHE_DIR names another."""
    here = os.path.dirname(os.path.abspath(__file__))
    rooms = [os.path.join(here, name) for name in __all__ if os.path.isdir(os.path.join(here, name))]
    if os.environ.get("NUMBA_CACHE_DIR") or all(os.access(room, os.W_OK) for room in rooms):
        return
    import tempfile

    caches = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    with suppress(OSError):
        os.makedirs(os.path.join(caches, "numba"), exist_ok=True)
        with tempfile.TemporaryFile(dir=os.path.join(caches, "numba")):
            return
    with suppress(OSError):  # with no temporary folder either, nothing can be done
        folder = os.path.join(tempfile.gettempdir(), f"netgpt-compiled-{os.getuid()}")
        with suppress(FileExistsError):
            os.mkdir(folder, 0o700)
        status = os.lstat(folder)
        if status.st_uid != os.getuid() or status.st_mode & 0o022:  # code is read from it
            folder = tempfile.mkdtemp(prefix="netgpt-compiled-")
        os.environ["NUMBA_CACHE_DIR"] = folder
        if "numba" in sys.modules:  # it read the environment when it was imported
            sys.modules["numba"].config.CACHE_DIR = folder


_place_compiled_code()
