"""Relations that a rule makes: "an earlier member of the same group", from two columns of the nodes.

Row i of the columns is node i. Kept in `prefix` layout one number, two offsets and a rank a node stand
for edges that may be as many as the square of the nodes.

Legend: N nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.described import open_npy
from netgpt.graphstore.datasets.edges.columns import LOWEST, keys, times
from netgpt.graphstore.datasets.edges.describe import EdgeDescription, GroupDescription
from netgpt.graphstore.datasets.edges.read import integers, table_batches
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import edge_name

NODE_BYTES, TEXT_BYTES = 160, 120
"""Memory that sorting takes, for each node; and what a key that is a text takes besides its characters."""


def group_length(group: GroupDescription) -> int:
    """Number of nodes N that the columns have."""
    if group.path is None:
        return open_npy(group.key).require(1).shape[0]
    return sum(batch.num_rows for batch in _batches(group.path, group))


def group_columns(edge: EdgeDescription, num_nodes: int, memory_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Key and time of each node: [N], [N] int64. Raises StoreError, also where sorting them would take more
    memory than there is."""
    assert edge.group is not None
    _require_memory(edge, NODE_BYTES * num_nodes, num_nodes, memory_bytes)
    key, time = _columns(edge, edge.group, num_nodes, memory_bytes)
    for name, values in ((edge.group.key, key), (edge.group.time, time)):
        if len(values) != num_nodes:
            raise StoreError(f"{name}: found {len(values)} values, expected {num_nodes}, one for each node")
    return key, time


def _require_memory(edge: EdgeDescription, needed: int, num_nodes: int, memory_bytes: int) -> None:
    if needed > memory_bytes:
        raise StoreError(
            f"{edge_name(edge.edge_type)}: memory: found {memory_bytes:,} bytes, "
            f"expected at least {needed:,} bytes ({num_nodes:,} nodes)"
        )


def _batches(path: str, group: GroupDescription) -> Iterator[Any]:
    # Keys of a CSV file are texts: "007" and "7" are two
    return table_batches(path, [group.key, group.time], texts=[group.key])


def _columns(
    edge: EdgeDescription, group: GroupDescription, num_nodes: int, memory_bytes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Key and time of each node: [N], [N] int64. Texts become codes; no text or an empty one is −1."""
    if group.path is None:
        key, time = (open_npy(file).require(1) for file in (group.key, group.time))
        return (
            integers(group.key, "key", key.read(0, key.shape[0]), 0, low=-1),
            integers(group.time, "time", time.read(0, time.shape[0]), 0, low=LOWEST),
        )
    code_of: dict[str, int] = {}
    all_keys, all_times, first, text_bytes = [], [], 0, 0
    for batch in _batches(group.path, group):
        known = len(code_of)
        all_keys.append(keys(group.path, group.key, batch.column(group.key), first, code_of))
        all_times.append(times(group.path, group.time, batch.column(group.time), first))
        first += batch.num_rows
        text_bytes += sum(TEXT_BYTES + 4 * len(text) for text in islice(code_of, known, None))
        _require_memory(edge, NODE_BYTES * num_nodes + text_bytes, num_nodes, memory_bytes)
    if not first:
        raise StoreError(f"{group.path}: found no rows, expected one for each node")
    return np.concatenate(all_keys), np.concatenate(all_times)
