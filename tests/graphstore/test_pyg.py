"""PyG's remote-backend interfaces against the store they stand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import EdgeAttr, TensorAttr

from netgpt import graphstore
from netgpt.graphstore import Store, StoreError


def test_edges_and_features_are_the_stores(store: Store) -> None:
    features, graph = store.as_pyg()
    assert {a.edge_type for a in graph.get_all_edge_attrs()} == set(store.edge_types)
    for edge_type in store.edge_types:
        row, colptr = graph.get_edge_index(EdgeAttr(edge_type, "csc", is_sorted=False))
        for v in range(store.num_nodes["video"]):
            expected = store.relation(edge_type).neighbors(v).tolist()
            assert row[colptr[v] : colptr[v + 1]].tolist() == expected
    ids = np.array([3, 1, 1])
    for name in store.node_types:
        index = torch.from_numpy(ids % store.num_nodes[name])
        x = features.get_tensor(TensorAttr(name, "x", index=index))
        np.testing.assert_array_equal(x, store.features(name).gather(ids % store.num_nodes[name]))
    assert features.get_tensor(TensorAttr("video", "y", index=None)).tolist() == store.labels.tolist()


def test_rows_beyond_the_budget_are_refused_with_the_command(store: Store, csr_store: Store) -> None:
    with pytest.raises(StoreError, match="--layout csr"):
        store.as_pyg(max_bytes=1000)
    csr_store.as_pyg(max_bytes=0)  # the budget is for rows that have to be written out


def test_a_store_of_edge_lists(tmp_path: Path) -> None:
    np.save(tmp_path / "pairs.npy", np.array([[2, 0], [1, 0], [0, 1]]))
    np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "g.yaml").write_text(
        "nodes: {a: {features: x.npy}, b: {count: 2}}\nedges: [{type: [a, to, b], path: pairs.npy}]\n"
    )
    graphstore.build_edges(tmp_path / "g.yaml", tmp_path / "s")
    features, graph = graphstore.open(str(tmp_path / "s")).as_pyg()
    assert [(a.group_name, a.attr_name) for a in features.get_all_tensor_attrs()] == [("a", "x")]
    row, colptr = graph.get_edge_index(EdgeAttr(("a", "to", "b"), "csc", is_sorted=False))
    assert (row.tolist(), colptr.tolist()) == ([2, 1, 0], [0, 2, 3])


def test_a_store_is_read_only(store: Store) -> None:
    features, graph = store.as_pyg()
    with pytest.raises(StoreError, match="read-only"):
        features.put_tensor(torch.zeros(1), TensorAttr("video", "x", index=None))
    with pytest.raises(StoreError, match="read-only"):
        graph.remove_edge_index(EdgeAttr(store.edge_types[0], "csc"))
