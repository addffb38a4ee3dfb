"""What is asked of a sampler: seed nodes, an epoch, times; checked before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from netgpt.graphstore import Graph
from netgpt.sampler.errors import SamplerError

Seeds = np.ndarray | Mapping[str, np.ndarray]
"""Seed nodes: [S] numbers of the target type, or numbers by type."""


@dataclass(frozen=True)
class Request:
    """What to sample: a pure function of it, the graph and the options is the batch."""

    seeds: Seeds
    epoch: int
    times: np.ndarray | None = None
    """[S] int64, for temporal sampling: latest times of the seeds' heads; default the seeds' own."""


def integer(value: Any, name: str) -> int:
    """A whole number, of Python or NumPy. Raises SamplerError for anything else."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise SamplerError(f"{name}: found {value!r}, expected a whole number")
    return int(value)


def integers(values: Any, name: str) -> np.ndarray:
    """[n] int64, a copy. Raises SamplerError for other shapes and types."""
    numbers = np.asarray(values)
    if numbers.ndim != 1 or (len(numbers) and not np.issubdtype(numbers.dtype, np.integer)):
        raise SamplerError(f"{name}: found {numbers.dtype} {list(numbers.shape)}, expected [n] integers")
    return numbers.astype(np.int64)


def node_ids(graph: Graph, node_type: str, values: Any) -> np.ndarray:
    """Node numbers of a type: [n] int64. Raises SamplerError for others."""
    ids = integers(values, "seed nodes")
    if len(ids) and not 0 <= ids.min() <= ids.max() < graph.num_nodes[node_type]:
        raise SamplerError(
            f"seed nodes: found {ids.min()} to {ids.max()}, "
            f"expected {node_type} numbers from 0 to {graph.num_nodes[node_type] - 1}"
        )
    return ids


def flat_seeds(graph: Graph, seeds: Seeds, *, distinct: bool) -> tuple[np.ndarray, np.ndarray]:
    """Seed nodes in order of type [S], and how many there are of each [T]."""
    by_type = seeds if isinstance(seeds, Mapping) else {graph.schema.target: seeds}
    for name in by_type:
        if name not in graph.node_types:
            raise SamplerError(f"seed nodes: found type {name!r}, expected {', '.join(graph.node_types)}")
    parts = [node_ids(graph, name, by_type.get(name, ())) for name in graph.node_types]
    for name, ids in zip(graph.node_types, parts, strict=True):
        if distinct and len(ids) > graph.num_nodes[name]:  # the kernel has room for so many
            raise SamplerError(f"seed nodes: found {len(ids)} of {name}, expected distinct ones")
    return np.concatenate(parts), np.array([len(p) for p in parts], np.int64)


def time_limits(
    graph: Graph,
    temporal: Literal["<=", "<"] | None,
    flat: np.ndarray,
    num_seeds_T: np.ndarray,
    times: np.ndarray | None,
) -> np.ndarray:
    """Latest time of each seed's heads: [S] int64, or [0] where there is no limit."""
    if temporal is None:
        if times is not None:
            raise SamplerError("times: found them without temporal sampling, expected temporal='<=' or '<'")
        return np.zeros(1, np.int64)
    if times is not None:
        limits = integers(times, "times")
        if limits.shape != flat.shape:
            raise SamplerError(f"times: found {list(limits.shape)}, expected one a seed, [{len(flat)}]")
    else:
        limits, first = np.empty(len(flat), np.int64), 0
        for name, num in zip(graph.node_types, num_seeds_T, strict=True):
            if num and name not in graph.times:
                raise SamplerError(f"times: found none of the seeds of type {name}, expected one a seed")
            if num:
                limits[first : first + num] = graph.times[name][flat[first : first + num]]
            first += num
    if len(limits) and limits.min() == np.iinfo(np.int64).min:
        raise SamplerError(f"times: found {limits.min()} (not a time), expected seconds")
    return limits - (temporal == "<")
