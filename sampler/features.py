"""The features of a batch's nodes, each distinct row read once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numba import njit

from netgpt.graphstore import Graph
from netgpt.sampler.errors import SamplerError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class BatchFeatures:
    """Feature rows of one node type in a batch: node i of the batch has the features x[row[i]]."""

    x: Tensor
    """[rows, D] in the store's dtype: the distinct rows, in order of their first node."""
    row: Tensor
    """[n] int64."""

    def by_node(self) -> Tensor:
        """[n, D] float32."""
        return self.x[self.row].float()


@njit(cache=True, nogil=True)
def _distinct(rows, first_at, distinct, place):  # type: ignore[no-untyped-def]
    """The distinct values of rows [n] in order, and where among them each is.

    first_at: a table over all rows, of any content: an entry counts where what it points at agrees.
    """
    num = 0
    for i in range(len(rows)):
        row = rows[i]
        at = first_at[row]
        if at >= num or distinct[at] != row:
            at = num
            first_at[row] = at
            distinct[at] = row
            num += 1
        place[i] = at
    return num


class FeatureGatherer:
    """Gathers the features of batches, in memory that a GPU can copy from where `pin_memory`.

    Threads may share one.
    """

    def __init__(self, graph: Graph, *, pin_memory: bool = False) -> None:
        self.graph, self.pin_memory = graph, pin_memory
        self._features = {name: graph.features(name) for name in graph.schema.encoded_types}
        self._tables: dict[str, list[np.ndarray]] = {name: [] for name in self._features}

    def gather(self, nodes: Mapping[str, np.ndarray]) -> dict[str, BatchFeatures]:
        """Features of nodes by type [n], of the types that have any."""
        self.graph.check_unchanged()  # reading a file that was cut off would end the process
        gathered = {name: self._gather(name, nodes[name]) for name in self._features}
        self.graph.check_unchanged()
        return gathered

    def _gather(self, name: str, ids: np.ndarray) -> BatchFeatures:
        import torch

        features = self._features[name]
        rows = np.asarray(features.rows(ids), np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < features.num_rows:
            raise SamplerError(
                f"{name}: found feature row {rows.min()} or {rows.max()}, "
                f"expected 0 to {features.num_rows - 1}; the store is damaged: see netgpt verify"
            )
        distinct, place = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        tables = self._tables[name]
        try:  # a table for each thread that is here at once
            table = tables.pop()
        except IndexError:
            table = np.zeros(features.num_rows, np.uint32)
        distinct = distinct[: _distinct(rows, table, distinct, place)]
        tables.append(table)
        kind = torch.float16 if features.dtype == np.float16 else torch.float32
        x = torch.empty((len(distinct), features.dim), dtype=kind, pin_memory=self.pin_memory)
        # Clipping is never needed; numpy's other modes copy the output once more
        np.take(features.x, distinct, axis=0, out=x.numpy(), mode="clip")
        row = torch.from_numpy(place)
        return BatchFeatures(x, row.pin_memory() if self.pin_memory else row)
