"""PyG's remote-backend interfaces over a store. The only module here that imports torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch_geometric.data import EdgeAttr, FeatureStore, GraphStore, TensorAttr
from torch_geometric.data.graph_store import EdgeLayout

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.schema import EdgeType, edge_name
from netgpt.graphstore.store import Store


class StoreFeatures(FeatureStore):
    """Read-only: `x` of the node types that have features, `n_id` (the node numbers) of those that have none,
    and `y` of the target type, where that has the column `label`.

    PyG's loaders take the node types of a graph from these: a type without an attribute would be none.
    """

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store

    def _has_labels(self) -> bool:
        return self.store.has_column(self.store.schema.target, "label")

    def _get_tensor(self, attr: TensorAttr) -> torch.Tensor | None:
        store, name = self.store, attr.group_name
        index = np.arange(store.num_nodes[name]) if attr.index is None else np.asarray(attr.index)
        if attr.attr_name == "y" and name == store.schema.target and self._has_labels():
            values = np.asarray(store.labels)[index]
            return torch.from_numpy(values.astype(np.int64 if values.dtype.kind in "iu" else np.float32))
        if attr.attr_name == "n_id":
            return torch.from_numpy(index.astype(np.int64))
        if attr.attr_name != "x":
            return None
        return torch.from_numpy(store.features(name).gather(index).astype(np.float32))

    def _get_tensor_size(self, attr: TensorAttr) -> tuple[int, ...]:
        num = self.store.num_nodes[attr.group_name]
        return (num, self.store.features(attr.group_name).dim) if attr.attr_name == "x" else (num,)

    def get_all_tensor_attrs(self) -> list[TensorAttr]:
        encoded = self.store.schema.encoded_types
        attrs = [TensorAttr(name, "x" if name in encoded else "n_id") for name in self.store.node_types]
        return [*attrs, TensorAttr(self.store.schema.target, "y")] if self._has_labels() else attrs

    def _put_tensor(self, tensor: Any, attr: TensorAttr) -> bool:
        raise StoreError("a store is read-only")

    def _remove_tensor(self, attr: TensorAttr) -> bool:
        raise StoreError("a store is read-only")


class StoreGraph(GraphStore):
    """Edges of every relation in CSC (rows of heads by tail), read-only."""

    def __init__(self, store: Store, *, max_bytes: int) -> None:
        super().__init__()
        self.store = store
        prefix = [e for e in store.edge_types if store.relation(e).layout == "prefix"]
        needed = sum(store.num_edges[e] * 8 for e in prefix)
        if needed > max_bytes:
            raise StoreError(
                f"{store.path}: its prefix rows as csr need {needed / 2**30:.1f} GiB, max_bytes allows "
                f"{max_bytes / 2**30:.1f}; build with: netgpt build SOURCE --out STORE --layout csr"
            )
        self._edges: dict[EdgeType, tuple[torch.Tensor, torch.Tensor]] = {}

    def _get_edge_index(self, attr: EdgeAttr) -> tuple[torch.Tensor, torch.Tensor] | None:
        if attr.layout != EdgeLayout.CSC or attr.edge_type not in self.store.edge_types:
            return None
        if attr.edge_type not in self._edges:
            # PyG's samplers take 64-bit numbers: the rows are copied, once
            indptr, indices = self.store.relation(attr.edge_type).to_csr(np.int64)
            self._edges[attr.edge_type] = (torch.from_numpy(indices), torch.from_numpy(np.array(indptr)))
        return self._edges[attr.edge_type]

    def get_all_edge_attrs(self) -> list[EdgeAttr]:
        return [
            EdgeAttr(e, EdgeLayout.CSC, False, (self.store.num_nodes[e[0]], self.store.num_nodes[e[2]]))
            for e in self.store.edge_types
        ]

    def _put_edge_index(self, edge_index: Any, edge_attr: EdgeAttr) -> bool:
        raise StoreError(f"a store is read-only: {edge_name(edge_attr.edge_type)}")

    def _remove_edge_index(self, edge_attr: EdgeAttr) -> bool:
        raise StoreError(f"a store is read-only: {edge_name(edge_attr.edge_type)}")
