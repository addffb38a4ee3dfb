"""The data set that benchmarks make graphs of: the first of the table. Imports no more than the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from netgpt import graphstore
from netgpt.graphstore.dataset import Dataset
from netgpt.graphstore.datasets import names
from netgpt.graphstore.schema import EdgeType

SMALL: dict[str, Any] = {"encoder": "hash:64", "time_dim": 16, "video_dim": 16}
"""Build settings of narrow features."""


def reference() -> Dataset:
    return names.load(next(iter(names.DATASETS)))


def build_synthetic(out: Path, scale: float, **settings: Any) -> None:
    """A store of synthetic rows at `out`. settings: of the build."""
    dataset = reference()
    config = dataset.Config(**settings)
    graphstore.build(dataset.synthetic(scale, 0, config), out, config, dataset=dataset)


def largest_within(store: graphstore.Store) -> EdgeType:
    """The relation of most edges among the nodes of one type."""
    return max((e for e in store.edge_types if e[0] == e[2]), key=lambda e: store.num_edges[e])
