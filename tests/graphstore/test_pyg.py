"""PyG's remote-backend interfaces against the store they stand on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import EdgeAttr, TensorAttr
from torch_geometric.loader import LinkNeighborLoader
from torch_geometric.loader import NeighborLoader as PygNeighborLoader
from torch_geometric.typing import WITH_PYG_LIB, WITH_TORCH_SPARSE

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
    features, graph = graphstore.open(tmp_path / "s").as_pyg()
    attrs = features.get_all_tensor_attrs()
    # PyG takes the node types from these: a type without features has the numbers of its nodes
    assert [(a.group_name, a.attr_name) for a in attrs] == [("a", "x"), ("b", "n_id")]
    assert [features.get_tensor_size(a) for a in attrs] == [(3, 3), (2,)]
    assert features.get_tensor(TensorAttr("b", "n_id", index=None)).tolist() == [0, 1]
    assert features.get_tensor(TensorAttr("b", "n_id", index=torch.tensor([1, 1]))).tolist() == [1, 1]
    row, colptr = graph.get_edge_index(EdgeAttr(("a", "to", "b"), "csc", is_sorted=False))
    assert (row.tolist(), colptr.tolist()) == ([2, 1, 0], [0, 2, 3])


def test_a_store_is_read_only(store: Store) -> None:
    features, graph = store.as_pyg()
    with pytest.raises(StoreError, match="read-only"):
        features.put_tensor(torch.zeros(1), TensorAttr("video", "x", index=None))
    with pytest.raises(StoreError, match="read-only"):
        graph.remove_edge_index(EdgeAttr(store.edge_types[0], "csc"))


@pytest.mark.skipif(
    not (WITH_PYG_LIB or WITH_TORCH_SPARSE), reason="needs pyg-lib or torch-sparse: pip install netgpt[pyg]"
)
def test_pygs_loaders_run_where_types_have_no_features(tmp_path: Path) -> None:
    """`IndexError: phmap at()` where a type has no attribute."""
    pairs = np.random.default_rng(0).integers(0, 20, (80, 2))
    np.save(tmp_path / "pairs.npy", pairs)
    np.save(tmp_path / "back.npy", pairs[:, ::-1])
    np.save(tmp_path / "x.npy", np.eye(20, dtype=np.float32))
    (tmp_path / "g.yaml").write_text(
        "nodes: {a: {features: x.npy}, b: {count: 20}}\n"
        "edges: [{type: [a, to, b], path: pairs.npy}, {type: [b, of, a], path: back.npy}]\n"
    )
    graphstore.build_edges(tmp_path / "g.yaml", tmp_path / "s")
    remote = graphstore.open(tmp_path / "s").as_pyg()
    nodes = PygNeighborLoader(remote, [2, 2], input_nodes=("b", torch.arange(6)), batch_size=3)
    for data in nodes:
        assert data["b"].batch_size == 3 and (data["a"].x.argmax(1) == data["a"].n_id).all()
    ends = torch.from_numpy(pairs[:6].T.copy())
    links = LinkNeighborLoader(remote, [2, 2], edge_label_index=(("a", "to", "b"), ends), batch_size=3)
    for data in links:
        assert data["a", "to", "b"].edge_label_index.shape == (2, 3)
