"""Models on graphs whose relations end in several types, some without features, against dense float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from netgpt.graphstore import EdgeType, Graph, Relation
from netgpt.graphstore.features import Features
from netgpt.graphstore.schema import NodeType, RelationType, Schema
from netgpt.sampler import NeighborSampler
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.exact import ExactInference, attention, embed, workspace, write_vectors
from netgpt.trainers.graph.exact.workspace import States as NodeStates
from netgpt.trainers.graph.model import Degrees, GraphModel, WholeGraph
from netgpt.trainers.graph.shape import LayerPart, ModelShape
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.tasks.heads import PlainHead
from tests.trainers.graph.random_graph import CPU, RandomGraph

ENCODERS = ("rgcn", "gcn", "sage", "han", "hetsann", "hgt")
WIDTH = 8
FEATURES = {"v": 5, "a": 3}
"""Widths; `b` has none."""
AWAY: EdgeType = ("b", "owns", "c")
"""Ends in a type that no other relation begins in: no layer has a use for it."""


class MemoryGraph(Graph):
    """A random graph with features, in memory."""

    def __init__(self, seed: int) -> None:
        made, rng = RandomGraph.of(seed, num_v=31, num_a=12), np.random.default_rng(seed)
        one_each = np.arange(4)
        away = Relation(AWAY, "csr", np.zeros(4, np.int32), one_each, one_each + 1)
        self.relations = {**made.relations, AWAY: away}
        self.num_nodes = {**made.num_nodes, "c": 4}
        self.schema = Schema(
            target="v",
            node_types=tuple(
                NodeType(name=name, encoding="given" if name in FEATURES else "none")
                for name in self.num_nodes
            ),
            relations=tuple(RelationType(edge_type=e) for e in self.relations),
        )
        self._features = {
            # Of `v` some nodes share a content
            "v": Features(31, rng.normal(size=(9, 5)).astype(np.float32), rng.integers(0, 9, 31)),
            "a": Features(12, rng.normal(size=(12, 3)).astype(np.float32), None),
        }

    def relation(self, edge_type: EdgeType) -> Relation:
        return self.relations[edge_type]

    def features(self, node_type: str) -> Features:
        return self._features[node_type]

    def counts(self, edge_type: EdgeType) -> Tensor:
        """Edges between each tail and each head: [tails, heads] float64."""
        relation = self.relations[edge_type]
        counts = np.zeros((relation.num_dst, self.num_nodes[edge_type[0]]))
        for v in range(len(counts)):
            np.add.at(counts[v], relation.neighbors(v), 1)
        return torch.from_numpy(counts)


def model_of(graph: MemoryGraph, encoder: str, num_layers: int = 2, featureless: str = "table") -> GraphModel:
    torch.manual_seed(0)
    shape = ModelShape.of(
        graph.schema,
        graph.feature_dims,
        num_nodes=graph.num_nodes,
        featureless=featureless,
        hidden=WIDTH,
        encoder=encoder,
        heads=2,
        num_layers=num_layers,
    )
    model = GraphModel(shape, PlainHead)
    for name, parameter in model.named_parameters():  # biases too
        if "table" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def dense(model: GraphModel, graph: MemoryGraph) -> dict[str, Tensor]:
    """Brute force over all nodes of all types at once, each layer by its formula, in float64: [N, D] by type,
    as the last layer that reads it has it, and of the target behind all layers."""
    state = {k: v.double() for k, v in model.state_dict().items()}
    h = {}
    for name in model.shape.node_types:
        if name in model.shape.table_rows:
            h[name] = state[f"project.{name}.weight"]
            continue
        if name in model.shape.degree_types:
            ending = [e for e in graph.edge_types if e[2] == name]
            x = torch.log1p(torch.stack([graph.counts(e).sum(1) for e in ending], 1)) if ending else None
            x = torch.zeros(graph.num_nodes[name], 1, dtype=torch.float64) if x is None else x
        else:
            x = torch.from_numpy(graph.features(name).gather(np.arange(graph.num_nodes[name]))).double()
        h[name] = x @ state[f"project.{name}.weight"].T + state[f"project.{name}.bias"]
    read = {}
    for index, part in enumerate(model.shape.layers):
        read |= {name: h[name] for name in part.node_types}
        prefix = f"layers.{index}."
        weights = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        h = FORMULAS[model.shape.encoder](graph, part, weights, h)
        if index + 1 < model.shape.num_layers:
            h = {name: torch.relu(x) for name, x in h.items()}
    return read | {"v": h["v"]}


Weights = dict[str, Tensor]
States = dict[str, Tensor]


def mean_of(graph: MemoryGraph, e: EdgeType, h: States) -> Tensor:
    counts = graph.counts(e)
    return counts / counts.sum(1, keepdim=True).clamp_min(1) @ h[e[0]]


def rgcn(graph: MemoryGraph, part: LayerPart, w: Weights, h: States) -> States:
    new = {name: h[name] @ w["root.weight"].T + w["root.bias"] for name in part.tail_types + part.alone_types}
    for r, e in enumerate(part.edge_types):
        new[e[2]] = new[e[2]] + mean_of(graph, e, h) @ w["basis_BDD"][r]
    return new


def sage(graph: MemoryGraph, part: LayerPart, w: Weights, h: States) -> States:
    new = {
        name: h[name] @ w[f"own.{name}.weight"].T + w[f"own.{name}.bias"]
        for name in part.tail_types + part.alone_types
    }
    for r, e in enumerate(part.edge_types):
        new[e[2]] = new[e[2]] + mean_of(graph, e, h) @ w["heads_RDD"][r]
    return new


def gcn(graph: MemoryGraph, part: LayerPart, w: Weights, h: States) -> States:
    degree = {name: torch.ones(num, dtype=torch.float64) for name, num in graph.num_nodes.items()}
    for e in graph.edge_types:
        degree[e[2]] = degree[e[2]] + graph.counts(e).sum(1)
    total = {name: h[name] / degree[name][:, None] for name in part.tail_types + part.alone_types}
    for e in part.edge_types:
        norm = graph.counts(e) / degree[e[2]].sqrt()[:, None] / degree[e[0]].sqrt()[None]
        total[e[2]] = total[e[2]] + norm @ h[e[0]]
    return {name: x @ w["linear.weight"].T + w["linear.bias"] for name, x in total.items()}


def attention_of(
    graph: MemoryGraph, part: LayerPart, w: Weights, h: States
) -> tuple[States, dict[EdgeType, Tensor]]:
    """Values [N, heads, C] by type; scores [heads, tails, sources] by relation, −inf without an edge."""
    x = {
        name: (h[name] @ w[f"project.{name}.weight"].T + w.get(f"project.{name}.bias", 0)).view(
            -1, 2, WIDTH // 2
        )
        for name in part.node_types
    }
    scores = {}
    for r, e in enumerate(part.edge_types):
        a = torch.einsum("nhc,hc->hn", x[e[0]], w["head_RHC"][r])
        b = torch.einsum("nhc,hc->hn", x[e[2]], w["tail_RHC"][r])
        score = torch.nn.functional.leaky_relu(b[:, :, None] + a[:, None, :], 0.2)
        scores[e] = score + torch.log(graph.counts(e))[None]
    return x, scores


def han(graph: MemoryGraph, part: LayerPart, w: Weights, h: States) -> States:
    x, scores = attention_of(graph, part, w, h)
    new = {name: torch.relu(x[name].flatten(1)) for name in part.alone_types}
    for name in part.tail_types:
        parts = []
        for e in (e for e in part.edge_types if e[2] == name):
            share = torch.nan_to_num(torch.softmax(scores[e], 2))
            parts.append(torch.relu(torch.einsum("htn,nhc->thc", share, x[e[0]]).flatten(1)))
        says = [
            torch.tanh(z @ w["semantic.weight"].T + w["semantic.bias"]).mean(0) @ w["query_D"] for z in parts
        ]
        beta = torch.softmax(torch.stack(says), 0)
        new[name] = torch.stack([b * z for b, z in zip(beta, parts, strict=True)]).sum(0)
    return new


def hetsann(graph: MemoryGraph, part: LayerPart, w: Weights, h: States) -> States:
    x, scores = attention_of(graph, part, w, h)
    new = {name: h[name] for name in part.alone_types}
    for name in part.tail_types:
        here = [e for e in part.edge_types if e[2] == name]
        share = torch.nan_to_num(torch.softmax(torch.cat([scores[e] for e in here], 2), 2))
        total = torch.einsum("htn,nhc->thc", share, torch.cat([x[e[0]] for e in here])).flatten(1)
        new[name] = h[name] + torch.nn.functional.elu(total)
    return new


def hgt(graph: MemoryGraph, part: LayerPart, w: Weights, h: States) -> States:
    kvq = {
        name: (h[name] @ w[f"project.{name}.weight"].T + w[f"project.{name}.bias"]).view(-1, 3, 2, WIDTH // 2)
        for name in part.node_types
    }
    new = {}
    for name in part.tail_types + part.alone_types:
        scores, messages = [], []
        for r, e in enumerate(part.edge_types):
            if e[2] == name:
                k, v, q = kvq[e[0]][:, 0], kvq[e[0]][:, 1], kvq[name][:, 2]
                score = torch.einsum("nhc,hcd,thd->htn", k, w["key_RHCC"][r], q)
                score = score * w["prior_RH"][r][:, None, None] / (WIDTH // 2) ** 0.5
                scores.append(score + torch.log(graph.counts(e))[None])
                messages.append(torch.einsum("nhc,hcd->nhd", v, w["message_RHCC"][r]))
        total = torch.zeros_like(h[name])
        if scores:
            share = torch.nan_to_num(torch.softmax(torch.cat(scores, 2), 2))
            total = torch.einsum("htn,nhc->thc", share, torch.cat(messages)).flatten(1)
        if name in part.tail_types:
            out = torch.nn.functional.gelu(total) @ w[f"out.{name}.weight"].T + w[f"out.{name}.bias"]
        else:
            out = w[f"alone_bias.{name}"]
        share = torch.sigmoid(w[f"skip.{name}"])
        new[name] = share * out + (1 - share) * h[name]
    return new


FORMULAS: dict[str, Any] = {
    **{"rgcn": rgcn, "gcn": gcn, "sage": sage},
    **{"han": han, "hetsann": hetsann, "hgt": hgt},
}


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_exact_whole_and_sampled_states_equal_dense_float64(encoder: str, num_layers: int) -> None:
    for seed, featureless in ((0, "table"), (1, "degree"), (2, "table")):
        graph = MemoryGraph(seed)
        model = model_of(graph, encoder, num_layers, featureless)
        tables = FeatureTables.of(graph, CPU, model.shape)
        expected = dense(model, graph)["v"].numpy()
        scale = max(1.0, np.abs(expected).max())
        h, _ = embed(model, tables)
        np.testing.assert_allclose(h / scale, expected / scale, rtol=1e-5, atol=1e-5)
        seeds = np.random.default_rng(seed).permutation(31)[:11]
        batch = NeighborSampler(graph, fanout=-1, hops=num_layers).sample(seeds)
        degrees = Degrees(graph, model.shape, CPU) if model.uses_degrees else None
        with torch.no_grad():
            _, whole = WholeGraph(model, tables).run(model)
            _, sampled = model(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
        np.testing.assert_allclose(whole.numpy() / scale, expected / scale, rtol=1e-5, atol=1e-5)
        if encoder != "han":  # weighs relations by a mean over the batch's nodes
            np.testing.assert_allclose(sampled.numpy() / scale, expected[seeds] / scale, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_states_of_all_types_equal_dense_float64(encoder: str, num_layers: int, tmp_path: Path) -> None:
    for seed, featureless in ((0, "table"), (1, "degree")):
        graph = MemoryGraph(seed)
        model = model_of(graph, encoder, num_layers, featureless)
        names = model.shape.node_types
        inference = ExactInference(model, FeatureTables.of(graph, CPU, model.shape), tmp_path, keep=names)
        h = inference.run()
        np.testing.assert_array_equal(inference.states["v"].h, h)
        assert set(inference.states) == set(names)
        for name, states in dense(model, graph).items():
            expected, num = states.numpy(), graph.num_nodes[name]
            scale = max(1.0, np.abs(expected).max())
            found = inference.states[name].of(slice(0, num)).numpy()
            np.testing.assert_allclose(found / scale, expected / scale, rtol=1e-5, atol=1e-5, err_msg=name)


def test_vectors_of_no_nodes_are_an_empty_table(tmp_path: Path) -> None:
    store = SimpleNamespace(num_nodes={"a": 0}, id_column=lambda name, nodes: [])
    write_vectors(tmp_path / "a.parquet", store, "a", NodeStates(np.zeros((0, 3), np.float32), None))  # type: ignore[arg-type]
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.num_rows == 0 and table.schema.field("embedding").type == pa.list_(pa.float32(), 3)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_small_memory_changes_only_the_rounding(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = MemoryGraph(3)
    model = model_of(graph, encoder, 3)
    tables = FeatureTables.of(graph, CPU, model.shape)
    expected, _ = embed(model, tables)
    monkeypatch.setattr(workspace, "MIN_BLOCK_ROWS", 7)
    monkeypatch.setattr(attention, "BLOCK_EDGES", 50)
    seen: list[tuple[int, int]] = []
    small = ExactInference(
        model, tables, tmp_path, memory_bytes=1000, progress=lambda done, of: seen.append((done, of))
    )
    np.testing.assert_allclose(small.run(), expected, rtol=1e-4, atol=1e-5)
    assert seen[-1][0] == seen[-1][1] and [done for done, _ in seen] == sorted(done for done, _ in seen)


@pytest.mark.parametrize("featureless", ["table", "degree"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_gradient_reaches_all_parameters(encoder: str, featureless: str) -> None:
    """Sampled, also where a batch has no node of a type."""
    graph = MemoryGraph(4)
    model = model_of(graph, encoder, 2, featureless).train()
    tables = FeatureTables.of(graph, CPU, model.shape)
    degrees = Degrees(graph, model.shape, CPU) if model.uses_degrees else None
    lonely = np.flatnonzero(sum(graph.relation(e).degree() for e in graph.edge_types if e[2] == "v") == 0)
    for seeds in (np.arange(31), lonely[:1]):
        model.zero_grad()
        batch = NeighborSampler(graph, fanout=2, hops=2).sample(seeds)
        scores, _ = model(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
        scores.square().sum().backward()
        for name, p in model.named_parameters():
            assert p.grad is not None and torch.isfinite(p.grad).all(), name
            assert len(seeds) < 31 or p.grad.any() or (name, featureless) == ("project.b.weight", "degree"), (
                name
            )


def test_a_layer_works_on_what_the_next_ones_ask_for() -> None:
    graph = MemoryGraph(0)
    first, second = model_of(graph, "rgcn").shape.layers
    assert second.tail_types == ("v",) and set(second.node_types) == {"v", "a"} and not second.alone_types
    assert first.tail_types == ("v", "a") and set(first.node_types) == {"v", "a", "b"}
    one, two, three = model_of(graph, "rgcn", 3).shape.layers
    assert three == second and two == first and one.alone_types == ("b",) and one.tail_types == ("v", "a")
    assert "c" not in model_of(graph, "rgcn", 3).shape.node_types


def test_nodes_that_came_later_have_no_learnt_vector() -> None:
    model = model_of(MemoryGraph(0), "rgcn")
    num = model.shape.table_rows["b"]
    found = model.inputs("b", torch.tensor([[0], [num - 1], [num], [num + 7]]))
    assert found[:2].abs().sum(1).min() > 0 and not found[2:].any()
    again = ModelShape.from_dict(model.shape.to_dict())
    assert again == model.shape


def test_the_target_may_be_without_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "FEATURES", {"a": 3})
    for featureless in ("table", "degree"):
        graph = MemoryGraph(5)
        model = model_of(graph, "rgcn", 2, featureless)
        h, _ = embed(model, FeatureTables.of(graph, CPU, model.shape))
        np.testing.assert_allclose(h, dense(model, graph)["v"].numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_a_target_without_relations_has_a_plain_network(encoder: str, tmp_path: Path) -> None:
    graph = MemoryGraph(6)
    graph.schema = replace(graph.schema, relations=(RelationType(edge_type=AWAY),))
    model = model_of(graph, encoder)
    tables = FeatureTables.of(graph, CPU, model.shape)
    assert model.shape.node_types == ("v",)
    assert ModelShape.from_dict(model.shape.to_dict()) == model.shape
    exact = ExactInference(model, tables, tmp_path, memory_bytes=1000).run()
    with torch.no_grad():
        x = model.inputs("v", tables.gather("v", np.arange(31)))
        expected = model.layer(1).alone("v", torch.relu(model.layer(0).alone("v", x)))
        _, whole = WholeGraph(model, tables).run(model)
        batch = NeighborSampler(graph, fanout=3, hops=2).sample(np.arange(0, 31, 2))
        degrees = Degrees(graph, model.shape, CPU) if model.uses_degrees else None
        _, sampled = model(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
    np.testing.assert_allclose(exact, expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(whole.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(sampled.numpy(), expected.numpy()[::2], rtol=1e-5, atol=1e-5)


def test_types_without_features_cannot_be_hidden() -> None:
    graph = MemoryGraph(0)
    with pytest.raises(TrainerError, match="features: found 'b', expected node types that have some"):
        ModelShape.of(
            graph.schema, graph.feature_dims, num_nodes=graph.num_nodes, hidden=8, hidden_types=("b",)
        )
