"""Graphs that Python holds become the same graphs on disk."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import yaml
from torch_geometric.data import Data, HeteroData

from netgpt import graphstore
from netgpt.graphstore import Store, StoreError
from netgpt.graphstore.datasets.tables import write_hetero_data, write_networkx, write_tables


def built(source: Path, tmp_path: Path) -> Store:
    graphstore.build(source, tmp_path / "store")
    assert graphstore.verify(tmp_path / "store") == []
    return graphstore.open(tmp_path / "store")


def edges_of(store: Store, edge_type: graphstore.EdgeType) -> np.ndarray:
    """[E, 2] heads and tails."""
    indptr, heads = store.relation(edge_type).to_csr(np.int64)
    return np.stack([heads, np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))], axis=1)


def same_pairs(one: np.ndarray, other: np.ndarray) -> bool:
    return sorted(map(tuple, one.tolist())) == sorted(map(tuple, other.tolist()))


def test_tables_of_pandas_and_arrow(tmp_path: Path) -> None:
    films = pd.DataFrame(
        {
            "film id": ["b", "a", "c"],
            "Film Title": ["One", "Two", None],
            "views": [1.5, np.nan, 3.0],
            "kind": pd.Categorical(["short", "long", "short"]),
            "released": pd.to_datetime(["2020-01-01", "2021-01-01", "2022-01-01"]),
        }
    )
    likes = pa.table({"user": [7, 8, 7], "film": ["a", "b", "c"]})
    source = write_tables(
        tmp_path / "tables",
        {"film": films, "likes": likes, "user": {"id": [8, 7]}},
        {
            "target": "film",
            "tables": {
                "film": {"key": "film_id", "rename": {"film id": "film_id"}, "time": "released"},
                "user": {"key": "id"},
                "likes": {"columns": {}, "links": {"user": "user", "film": "film"}},
            },
        },
    )
    store = built(source, tmp_path)
    assert list(store.node_ids("film")) == ["b", "a", "c"]
    assert list(store.strings("film", "Film_Title")) == ["One", "Two", ""]
    np.testing.assert_array_equal(store.column("film", "views"), films["views"])
    assert store.column("film", "released")[1] == pd.Timestamp("2021-01-01").timestamp()
    assert same_pairs(edges_of(store, ("user", "likes", "film")), np.array([[1, 1], [0, 0], [1, 2]]))


def hetero(seed: int = 0) -> HeteroData:
    g = torch.Generator().manual_seed(seed)
    data = HeteroData()
    data["paper"].x = torch.randn(30, 4, generator=g)
    data["paper"].y = torch.randint(0, 3, (30,), generator=g)
    data["paper"].title = [f"title {i}" for i in range(30)]
    data["paper"].time = torch.arange(30) + 1_600_000_000
    part = torch.arange(30) % 3
    for i, name in enumerate(("train", "val", "test")):
        data["paper"][f"{name}_mask"] = part == i
    data["author"].num_nodes = 12
    data["paper", "cites", "paper"].edge_index = torch.randint(0, 30, (2, 80), generator=g)
    data["author", "to", "paper"].edge_index = torch.stack(
        [torch.randint(0, 12, (50,), generator=g), torch.randint(0, 30, (50,), generator=g)]
    )
    data["author", "to", "paper"].edge_attr = torch.randn(50, 2, generator=g)
    data["author", "to", "paper"].time = torch.randint(0, 9, (50,), generator=g) + 1_600_000_000
    data["paper", "to", "author"].edge_index = data["author", "to", "paper"].edge_index.flip(0)
    return data


def test_pygs_hetero_data_is_the_same_graph(tmp_path: Path) -> None:
    data = hetero()
    store = built(write_hetero_data(tmp_path / "graph", data), tmp_path)
    assert store.schema.target == "paper"
    assert set(store.edge_types) == set(data.edge_types)
    assert store.num_nodes == {"paper": 30, "author": 12}
    np.testing.assert_array_equal(store.features("paper").gather(np.arange(30)), data["paper"].x)
    np.testing.assert_array_equal(store.column("paper", "y"), data["paper"].y)
    assert list(store.strings("paper", "title")) == data["paper"].title
    codes, values = store.category("paper", "split")
    assert [values[i] for i in codes[:3]] == ["train", "val", "test"]
    for edge_type in data.edge_types:
        assert same_pairs(edges_of(store, edge_type), data[edge_type].edge_index.T.numpy())
    relation = store.relation(("author", "to", "paper"))
    assert relation.time is not None
    expected = data["author", "to", "paper"]
    found = [relation.time.tolist(), *(relation.numbers[f"edge_attr_{k}"].tolist() for k in range(2))]
    rows = [expected.time.tolist(), *expected.edge_attr.T.tolist()]
    assert Counter(zip(*found, strict=True)) == Counter(zip(*rows, strict=True))


def test_a_homogeneous_graph_of_pyg(tmp_path: Path) -> None:
    edge_index = torch.tensor([[0, 1, 2, 2], [1, 2, 0, 1]])
    data = Data(x=torch.eye(3), y=torch.tensor([0.5, 1.5, 2.5]), edge_index=edge_index)
    store = built(write_hetero_data(tmp_path / "graph", data), tmp_path)
    assert store.edge_types == (("node", "to", "node"),)
    assert same_pairs(edges_of(store, ("node", "to", "node")), edge_index.T.numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d["paper"].update({"z": torch.zeros(30, 2)}),
            r"paper.z: found float32 \[30, 2\], expected",
        ),
        (lambda d: d["paper"].update({"z": torch.zeros(29)}), r"paper.z: found float32 \[29\], expected"),
        (lambda d: d["paper"].update({"z": {}}), r"paper.z: found object"),
        (lambda d: d["author", "to", "paper"].pop("edge_index"), "author/to/paper: found no edge_index"),
    ],
)
def test_what_tables_cannot_say_of_pyg_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    data = hetero()
    change(data)
    with pytest.raises(StoreError, match=message):
        write_hetero_data(tmp_path / "graph", data)
    assert not (tmp_path / "graph").exists()


def test_networkx_karate_club(tmp_path: Path) -> None:
    """Every edge both ways, its weight with it; the club as a text."""
    graph = nx.karate_club_graph()
    store = built(write_networkx(tmp_path / "graph", graph), tmp_path)
    both = [(u, v, w) for u, v, w in graph.edges(data="weight")]
    both += [(v, u, w) for u, v, w in both]
    found = edges_of(store, ("node", "edge", "node"))
    weights = store.relation(("node", "edge", "node")).numbers["weight"]
    assert sorted(zip(*found.T.tolist(), weights.tolist(), strict=True)) == sorted(both)
    assert list(store.strings("node", "club")) == [club for _, club in graph.nodes(data="club")]


def test_networkx_of_several_types(tmp_path: Path) -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("ann", type="user", age=30)
    graph.add_node("bob", type="user")
    graph.add_node(5, type="film", cover=[1.0, 2.0])
    graph.add_edge("ann", 5, type="likes", time=1_600_000_000)
    graph.add_edge("ann", 5, type="likes", time=1_700_000_000)
    graph.add_edge("ann", "bob", type="knows")
    store = built(write_networkx(tmp_path / "graph", graph, target="film"), tmp_path)
    assert list(store.node_ids("film")) == ["5"]
    assert store.num_edges[("user", "likes", "film")] == 2
    assert store.num_edges[("film", "rev_likes", "user")] == 2
    assert same_pairs(edges_of(store, ("user", "knows", "user")), np.array([[0, 1]]))
    assert np.isnan(store.column("user", "age")[1])
    np.testing.assert_array_equal(store.features("film").gather(np.array([0])), [[1.0, 2.0]])


@pytest.mark.parametrize(
    ("attributes", "edge", "message"),
    [
        ({"a": {}}, {}, "node.a: found dict, expected numbers, texts or lists"),
        ({"a": None}, {}, "node.a: found no value"),
        ({}, {"why": "so"}, "edges node_edge_node: why: found text, expected numbers"),
    ],
)
def test_what_tables_cannot_say_of_networkx_is_refused(
    attributes: dict[str, Any], edge: dict[str, Any], message: str, tmp_path: Path
) -> None:
    graph = nx.Graph()
    graph.add_node(1, **attributes)
    graph.add_edge(1, 2, **edge)
    with pytest.raises(StoreError, match=message):
        write_networkx(tmp_path / "graph", graph)
    assert not (tmp_path / "graph").exists()


def test_a_folder_that_is_taken_and_a_description_that_means_nothing(tmp_path: Path) -> None:
    tables = {"film": {"id": [1]}}
    with pytest.raises(StoreError, match=r"unknown key tables.film.kye; did you mean key"):
        write_tables(tmp_path / "graph", tables, {"tables": {"film": {"kye": "id"}}})
    assert not (tmp_path / "graph").exists()
    write_tables(tmp_path / "graph", tables)
    with pytest.raises(StoreError, match="graph"):
        write_tables(tmp_path / "graph", tables)


def test_vectors_of_networkx_nodes_have_a_file_each(tmp_path: Path) -> None:
    graph = nx.Graph()
    for i in range(4):
        graph.add_node(i, emb=[float(i), 1.0], pic=[100.0 + i, 7.0, 7.0])
    graph.add_edge(0, 1)
    path = write_networkx(tmp_path / "tables", graph)
    said = yaml.safe_load(path.read_text())
    for name, width in (("emb", 2), ("pic", 3)):
        table = dict(said["tables"]["node"], features=[name])
        path.write_text(yaml.safe_dump({**said, "tables": {**said["tables"], "node": table}}))
        graphstore.build(path, tmp_path / name)
        x = graphstore.open(tmp_path / name).features("node").gather(np.arange(4))
        expected = [graph.nodes[i][name] for i in range(4)]
        assert x.shape == (4, width) and x.tolist() == expected
