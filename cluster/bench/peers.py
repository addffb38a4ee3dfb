"""Other samplers on the same graph, seeds and fanout: those that are installed here.

PyG's `NeighborSampler` runs over pyg-lib or torch-sparse, on 64-bit csr arrays in memory.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch_geometric.typing
from torch_geometric.data import EdgeAttr, FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeLayout
from torch_geometric.sampler import NeighborSampler as PygSampler
from torch_geometric.sampler import NodeSamplerInput

from netgpt.graphstore import EdgeType, Graph

Sample = Callable[[np.ndarray], int]
"""Samples around seed nodes of the target type and relabels; returns the number of edges."""


def available_memory() -> int:
    """Bytes that could be used without swapping."""
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    return kib["MemAvailable"] * 1024


class CsrArrays:
    """The peers' form of a graph's relations, made once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._made: dict[EdgeType, tuple[torch.Tensor, torch.Tensor]] = {}

    def needed_bytes(self, edge_types: list[EdgeType]) -> int:
        """What is still to be allocated for these relations."""
        new = [e for e in edge_types if e not in self._made]
        return sum(8 * (self.graph.relation(e).num_edges + self.graph.num_nodes[e[2]]) for e in new)

    def get(self, edge_type: EdgeType) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows by tail as int64 tensors: (indices, indptr)."""
        if edge_type not in self._made:
            indptr, indices = self.graph.relation(edge_type).to_csr(np.int64)
            self._made[edge_type] = (torch.from_numpy(indices), torch.from_numpy(indptr))
        return self._made[edge_type]


class _Sizes(FeatureStore):
    """Node types and their numbers, without features."""

    def __init__(self, num_nodes: dict[str, int]) -> None:
        super().__init__()
        self.num_nodes = num_nodes

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        return [TensorAttr(name, "x") for name in self.num_nodes]

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...]:
        return (self.num_nodes[attr.group_name], 1)

    def _get_tensor(self, attr: TensorAttr) -> None:
        return None

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> bool:
        return False

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        return False


class _Edges(GraphStore):
    """Relations in csr by tail; a single one as a homogeneous graph, which PyG samples faster."""

    def __init__(self, arrays: CsrArrays, edge_types: list[EdgeType]) -> None:
        super().__init__()
        self.arrays, self.edge_types = arrays, edge_types

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        num = self.arrays.graph.num_nodes
        single = len(self.edge_types) == 1
        return [
            EdgeAttr(None if single else e, EdgeLayout.CSC, False, (num[e[0]], num[e[2]]))
            for e in self.edge_types
        ]

    def _get_edge_index(self, attr: EdgeAttr) -> tuple[torch.Tensor, torch.Tensor]:
        return self.arrays.get(attr.edge_type or self.edge_types[0])

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> bool:
        return False

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> bool:
        return False


@contextmanager
def _pyg_lib(use: bool) -> Iterator[None]:
    before = torch_geometric.typing.WITH_PYG_LIB
    torch_geometric.typing.WITH_PYG_LIB = before and use
    try:
        yield
    finally:
        torch_geometric.typing.WITH_PYG_LIB = before


def _pyg(arrays: CsrArrays, edge_types: list[EdgeType], fanout: int, hops: int, with_pyg_lib: bool) -> Sample:
    single, target = len(edge_types) == 1, arrays.graph.schema.target
    stores = (_Sizes(arrays.graph.num_nodes), _Edges(arrays, edge_types))
    with _pyg_lib(with_pyg_lib), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch-sparse is deprecated as a part of PyG, and says so
        sampler = PygSampler(stores, [fanout] * hops)

    def sample(seeds: np.ndarray) -> int:
        ids = torch.from_numpy(seeds)
        with _pyg_lib(with_pyg_lib):
            out = sampler.sample_from_nodes(NodeSamplerInput(None, ids, None, None if single else target))
        return out.row.numel() if single else sum(row.numel() for row in out.row.values())

    return sample


def installed_peers(
    arrays: CsrArrays, edge_types: list[EdgeType], fanout: int, hops: int
) -> dict[str, Callable[[], Sample]]:
    """Peers of this Python by name, to be made when their turn comes."""
    peers: dict[str, Callable[[], Sample]] = {}
    if torch_geometric.typing.WITH_PYG_LIB:
        peers["pyg_lib"] = lambda: _pyg(arrays, edge_types, fanout, hops, True)
    if torch_geometric.typing.WITH_TORCH_SPARSE:
        peers["torch_sparse"] = lambda: _pyg(arrays, edge_types, fanout, hops, False)
    return peers
