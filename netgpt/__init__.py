"""Training of large graph models: a heterogeneous graph joined to a large language model.

    import netgpt
    store = netgpt.open("runs/demo/store")
    netgpt.load("exported").predict(rows)  # of `netgpt export`
    loader = netgpt.sampler.NeighborLoader(store, store.split("train"), batch_size=64)

The packages `netgpt.graphstore`, `.sampler`, `.trainers` and `.cluster` are the folders of those names
of the source tree: links here, so that one import name holds all, and no other package's name is taken.
"""

from __future__ import annotations

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
