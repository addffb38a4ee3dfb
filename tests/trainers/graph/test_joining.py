"""New nodes from kept states against exact inference over the whole extended graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt import graphstore
from netgpt.graphstore import ExtendedGraph, JoinedGraph, NodeCopies, Store
from netgpt.graphstore.dataset import HeldSource
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.writer import build_config
from netgpt.trainers.graph.exact import KeptStates, NewNodes, embed
from netgpt.trainers.graph.model import GraphModel
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.tasks.heads import PlainHead
from tests.trainers.graph.test_inference import dims_of, small_model

CPU = torch.device("cpu")
ENCODERS = ("rgcn", "gcn", "sage", "han", "hetsann", "hgt")
STUDIOS = "id,name\n" + "".join(f"s{i},studio {i}\n" for i in range(5))
FILMS = "id,title,stars,kind,studio,sequel_of,at\n"
DESCRIPTION = """
target: film
tables:
  studio: {path: studio.csv, key: id, columns: {name: text}}
  user: {features: []}
  film:
    path: films.csv
    key: id
    time: at
    columns: {title: text, stars: number, kind: category}
    features: [title]
    links: {studio: studio, sequel_of: film}
relations:
  - {name: same_studio_as, of: film, group: studio, ties: strict}
  - {name: same_kind_as, of: film, group: kind}
"""


@pytest.fixture(scope="module")
def videos(
    records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, list[Path], Path]:
    """A store of most records, a file for each of some others, and one of all of these."""
    root = tmp_path_factory.mktemp("videos")
    keys = list(records)
    apart = keys[5::40]
    old = {
        k: {**r, "历史状态": [h for h in r["历史状态"] if str(h) not in apart]}
        for k, r in records.items()
        if k not in apart
    }
    (root / "old.json").write_text(json.dumps(old, ensure_ascii=False), encoding="utf-8")
    graphstore.build(root / "old.json", root / "store", Config(encoder="hash:16", time_dim=8, video_dim=4))
    files = []
    for key in apart:
        files.append(root / f"{key}.json")
        one = {**records[key], "历史状态": [h for h in records[key]["历史状态"] if str(h) in old]}
        files[-1].write_text(json.dumps({key: one}, ensure_ascii=False), encoding="utf-8")
    (root / "new.json").write_text(
        json.dumps({key: records[key] for key in apart}, ensure_ascii=False), encoding="utf-8"
    )
    return graphstore.open(root / "store"), files, root / "new.json"


def extended(store: Store, path: Path) -> ExtendedGraph:
    return ExtendedGraph(store, HeldSource(store.dataset.open_new(store, path, build_config(store))))


def whole(model: GraphModel, kept: KeptStates, graph: JoinedGraph) -> np.ndarray:
    """By exact inference over all nodes."""
    tables = FeatureTables.of(graph, CPU, model.shape, max_bytes=0)
    return embed(model, tables, mean_scores=kept.mean_scores)[0][graph.new]


def check(model: GraphModel, store: Store, graphs: list[ExtendedGraph]) -> list[np.ndarray]:
    tables = FeatureTables.of(store, CPU, model.shape, max_bytes=0)
    kept = KeptStates.of(model, tables)
    found = NewNodes(model, tables, kept).of(graphs)
    assert [len(one) for one in found] == [graph.num_new for graph in graphs]
    for one, graph in zip(found, graphs, strict=True):
        np.testing.assert_allclose(one, whole(model, kept, graph), rtol=1e-5, atol=1e-6)
    return found


@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_joins_alone_whatever_else_is_asked(encoder: str, videos: Any) -> None:
    store, files, _ = videos
    model = small_model(store, encoder)
    graphs = [extended(store, path) for path in files]
    together = check(model, store, graphs)
    alone = check(model, store, graphs[1:2])
    np.testing.assert_allclose(together[1], alone[0], rtol=0, atol=1e-6)
    assert any(g.num_nodes[n] > store.num_nodes[n] for g in graphs for n in g.num_nodes if n != "video")


@pytest.mark.parametrize("encoder", ["rgcn", "han"])
def test_rows_of_one_file_hear_each_other(encoder: str, videos: Any) -> None:
    store, files, together = videos
    model = small_model(store, encoder)
    graph = extended(store, together)
    (found,) = check(model, store, [graph])
    apart = check(model, store, [extended(store, path) for path in files])
    assert np.abs(found - np.concatenate(apart)).max() > 3e-5


@pytest.mark.parametrize("encoder", ENCODERS)
def test_copies_of_nodes_are_those_nodes(encoder: str, videos: Any) -> None:
    """Of a store, and of rows that joined it together; without a relation they are as if it had no head."""
    store, _, together = videos
    model = small_model(store, encoder)
    joined = extended(store, together)
    for graph, nodes in ((store, np.array([7, 0, 31])), (joined, joined.new[[2, 0]])):
        tables = FeatureTables.of(graph, CPU, model.shape, max_bytes=0)
        kept = KeptStates.of(model, tables)
        new = NewNodes(model, tables, kept)
        copies = NodeCopies(graph, nodes)
        (found,) = new.of([copies])
        expected = embed(model, tables, mean_scores=kept.mean_scores)[0][nodes]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found, whole(model, kept, copies), rtol=1e-5, atol=1e-6)
        edge_type = next(e for e in model.shape.ending_in("video") if graph.relation(e).degree(nodes).all())
        changed = copies.without_heads(edge_type)
        assert not changed.relation(edge_type).degree(changed.new).any()
        (other,) = new.of([changed])
        assert np.abs(other - found).max() > 1e-5
        np.testing.assert_allclose(other, whole(model, kept, changed), rtol=1e-5, atol=1e-6)


def films(num: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(num):
        sequel = f"f{rng.integers(i)}" if i and rng.random() < 0.6 else ""
        studio = f"s{rng.integers(5)}" if rng.random() < 0.8 else ""
        lines.append(f"f{i},title {i % 9},{i % 5},{'abc'[i % 3]},{studio},{sequel},{1_600_000_000 + i}\n")
    return lines


@pytest.mark.parametrize("featureless", ["table", "degree"])
@pytest.mark.parametrize("encoder", ["rgcn", "gcn", "hgt"])
def test_rows_of_tables_with_links_both_ways(encoder: str, featureless: str, tmp_path: Path) -> None:
    """Three layers; heads that are tails themselves; types without features."""
    lines = films(50)
    (tmp_path / "graph.yaml").write_text(DESCRIPTION.replace("  user: {features: []}\n", ""))
    (tmp_path / "studio.csv").write_text(STUDIOS)
    (tmp_path / "films.csv").write_text(FILMS + "".join(lines[:44]))
    graphstore.build(tmp_path / "graph.yaml", tmp_path / "store")
    store = graphstore.open(tmp_path / "store")
    graphs = []
    for i, own in enumerate([lines[44:45], lines[45:46], lines[46:]]):
        (tmp_path / f"new{i}.csv").write_text(FILMS + "".join(own))
        graphs.append(extended(store, tmp_path / f"new{i}.csv"))
    torch.manual_seed(0)
    shape = ModelShape.of(
        store.schema,
        dims_of(store),
        num_nodes=store.num_nodes,
        featureless=featureless,
        hidden=8,
        encoder=encoder,
        heads=2,
        num_layers=3,
    )
    model = GraphModel(shape, PlainHead)
    model.fit_scalars(FeatureTables.of(store, CPU, shape), np.arange(44))
    check(model.eval(), store, graphs)
