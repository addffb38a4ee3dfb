"""What every graph encoder must keep. Subclass it in the guest's test:

    class TestMine(EncoderTests):
        encoder = "my_package.encoder:MyLayer"

Layers run in float64 on small random graphs with isolated nodes, and as models of two layers on a store.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from netgpt.graphstore import EdgeType, Relation, Store
from netgpt.sampler import NeighborSampler
from netgpt.trainers.config import GraphConfig, SamplerConfig
from netgpt.trainers.graph.encoders import (
    AttentionLayer,
    Layer,
    LayerEdges,
    LayerSpec,
    MeanLayer,
    encoder_class,
    make_layer,
)
from netgpt.trainers.graph.exact import ExactInference, attention, embed, workspace
from netgpt.trainers.graph.model import Degrees, GraphModel, WholeGraph
from netgpt.trainers.graph.rows import SampledRows
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import MODEL, GraphTrainer, load_model
from tests.reference import rating, settings_of
from tests.trainers.graph.random_graph import CPU, RandomGraph

WIDTH = 8
TAILS = ("v", "a")
"""Types of the random graphs that relations end in."""


class EncoderTests:
    """Contract tests of one encoder."""

    encoder: ClassVar[str]
    """Its name in the table, or package.module:Name."""
    heads: ClassVar[int] = 2
    mixes_tails: ClassVar[bool] = False
    """Whether a tail's state depends on which other tails are there: then a batch is not the whole graph."""

    # One layer

    def layer(self, graph: RandomGraph) -> Layer:
        """In float64, with no parameter at zero."""
        torch.manual_seed(1)
        spec = LayerSpec(graph.edge_types, tuple(graph.num_nodes), WIDTH, ("b",), heads=self.heads)
        made = make_layer(self.encoder, spec).double()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.5)
        return made

    def test_it_is_found_and_says_what_it_is(self) -> None:
        found = encoder_class(self.encoder)
        assert issubclass(found, (MeanLayer, AttentionLayer)) and found.title
        found.check(GraphConfig(encoder=self.encoder, hidden=WIDTH, heads=self.heads))
        graph = RandomGraph.of(0)
        layer = self.layer(graph)
        assert type(layer) is found and layer.edge_types == graph.edge_types and layer.tail_types == TAILS

    @pytest.mark.parametrize("seed", range(3))
    def test_states_are_of_the_tails_that_are_asked_for(self, seed: int) -> None:
        graph = RandomGraph.of(seed)
        layer, h = self.layer(graph), graph.states(WIDTH)
        for kind in ("sampled", "whole"):
            out = layer(h, graph.block(kind))
            assert tuple(out) == TAILS
            for name, states in out.items():
                assert states.shape == (graph.num_nodes[name], WIDTH) and states.dtype == torch.float64
                assert torch.isfinite(states).all()
        few = layer(h, first_tails(graph, {"v": 5, "a": 0}))
        assert few["v"].shape == (5, WIDTH) and few["a"].shape == (0, WIDTH)
        if not self.mixes_tails:
            whole = layer(h, graph.block("sampled"))["v"]
            torch.testing.assert_close(few["v"], whole[:5], rtol=1e-9, atol=1e-9)
        alone = layer.alone("b", h["b"])
        assert alone.shape == h["b"].shape and torch.isfinite(alone).all()
        torch.testing.assert_close(layer.alone("b", h["b"][2:4]), alone[2:4])  # each by itself

    @pytest.mark.parametrize("seed", range(3))
    def test_sampled_rows_of_all_heads_are_whole_rows(self, seed: int) -> None:
        """The same states, and the same gradients by states and parameters."""
        graph = RandomGraph.of(seed)
        layer, found = self.layer(graph), []
        for kind in ("sampled", "whole"):
            h = {name: x.requires_grad_() for name, x in graph.states(WIDTH).items()}
            out = tails(layer(h, graph.block(kind)))
            weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
            leaves = [*h.values(), *layer.parameters()]
            grads = torch.autograd.grad((out * weight).sum(), leaves, allow_unused=True)
            found.append([out.detach(), *(g for g in grads if g is not None)])
        assert len(found[0]) == len(found[1])
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    def test_the_order_of_heads_in_a_row_is_no_matter(self) -> None:
        graph = RandomGraph.of(1)
        layer, h, rng = self.layer(graph), graph.states(WIDTH), np.random.default_rng(0)
        before = tails(layer(h, graph.block("sampled")))
        block = graph.block("sampled")
        for e, relation in graph.relations.items():
            rows = [rng.permutation(relation.neighbors(v)) for v in range(relation.num_dst)]
            heads = torch.from_numpy(np.concatenate(rows).astype(np.int64))
            block.rows[e] = SampledRows(heads, torch.from_numpy(relation.degree()))  # type: ignore[index]
        torch.testing.assert_close(tails(layer(h, block)), before, rtol=1e-9, atol=1e-9)

    def test_a_state_is_of_its_own_and_its_heads_alone(self) -> None:
        if self.mixes_tails:
            pytest.skip("its states depend on all tails")
        graph = RandomGraph.of(2)
        layer, h = self.layer(graph), graph.states(WIDTH)
        before = layer(h, graph.block("sampled"))
        for name, u in (("v", 0), ("v", 3), ("v", 11), ("a", 2), ("b", 1)):
            changed = {**h, name: h[name].clone()}
            changed[name][u] += 3
            after = layer(changed, graph.block("sampled"))
            for tail in TAILS:
                moved = (after[tail] - before[tail]).abs().amax(1) > 1e-12
                may_move = {u} if tail == name else set()
                for e in (e for e in graph.edge_types if e[0] == name and e[2] == tail):
                    relation = graph.relations[e]
                    may_move |= {v for v in range(relation.num_dst) if u in relation.neighbors(v)}
                assert set(torch.nonzero(moved)[:, 0].tolist()) <= may_move

    @pytest.mark.parametrize("kind", ["sampled", "whole"])
    def test_nodes_without_heads_are_finite(self, kind: str) -> None:
        graph = RandomGraph.of(0)
        nothing = {name: np.zeros(num, np.int64) for name, num in graph.num_nodes.items()}
        empty = {
            e: Relation(e, "csr", r.indices[:0], nothing[e[2]], nothing[e[2]])
            for e, r in graph.relations.items()
        }
        h = {name: x.requires_grad_() for name, x in graph.states(WIDTH).items()}
        layer = self.layer(graph)
        out = tails(layer(h, RandomGraph(empty, graph.num_nodes).block(kind)))
        assert torch.isfinite(out).all()
        out.square().sum().backward()
        grads = [x.grad for x in (*h.values(), *layer.parameters()) if x.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)

    # Models of two layers on a store

    def model(self, store: Store, without: frozenset[EdgeType] = frozenset()) -> GraphModel:
        torch.manual_seed(0)
        shape = ModelShape.of(
            store.schema,
            {name: store.features(name).dim for name in store.schema.encoded_types},
            hidden=WIDTH,
            without=without,
            encoder=self.encoder,
            heads=self.heads,
        )
        model = GraphModel(shape, rating().head)
        model.fit_scalars(FeatureTables(store, CPU), store.split("train"))
        return model.eval()

    def test_the_same_seed_gives_the_same_bits(self, store: Store) -> None:
        models = [self.model(store) for _ in range(2)]
        tables = FeatureTables(store, CPU)
        (h, scores), (again_h, again_scores) = (embed(model, tables) for model in models)
        assert h.tobytes() == again_h.tobytes() and scores.tobytes() == again_scores.tobytes()

    def test_a_gradient_reaches_all_parameters(self, store: Store) -> None:
        model, tables = self.model(store).train(), FeatureTables(store, CPU)
        scores, _ = WholeGraph(model, tables).run(model)
        ((scores - torch.linspace(0, 9, len(scores))) ** 2).sum().backward()  # type: ignore[no-untyped-call]
        for name, p in model.named_parameters():
            assert p.grad is not None and torch.isfinite(p.grad).all(), name
            # The store's features of videos are zeros: of their projection there is a bias to learn
            assert p.grad.any() or name == "project.video.weight", name

    def test_exact_inference_is_the_forward_pass_over_all_neighbours(
        self, store: Store, csr_store: Store
    ) -> None:
        """In both layouts; as one batch of the whole graph; and as a batch that samples every head."""
        model, seeds = self.model(store), np.arange(0, store.num_nodes[store.schema.target], 3)
        for graph in (store, csr_store):
            tables = FeatureTables(graph, CPU)
            exact_h, exact_scores = embed(model, tables)
            with torch.no_grad():
                scores, h = WholeGraph(model, tables).run(model)
            np.testing.assert_allclose(h.numpy(), exact_h, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(scores.numpy(), exact_scores, rtol=1e-4)
            if self.mixes_tails:
                continue
            degrees = Degrees(graph, model.shape, CPU) if model.uses_degrees else None
            batch = NeighborSampler(graph, fanout=-1, hops=2).sample(seeds)
            with torch.no_grad():
                scores, h = model(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
            np.testing.assert_allclose(h.numpy(), exact_h[seeds], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(scores.numpy(), exact_scores[seeds], rtol=1e-4)

    def test_memory_changes_only_the_rounding(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model, tables = self.model(store), FeatureTables(store, CPU)
        expected, _ = embed(model, tables)
        monkeypatch.setattr(workspace, "MIN_BLOCK_ROWS", 31)
        monkeypatch.setattr(attention, "BLOCK_EDGES", 700)
        found = ExactInference(model, tables, tmp_path, memory_bytes=1000).run()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)

    def test_without_a_relation_its_edges_are_no_matter(self, store: Store) -> None:
        for gone in (store.edge_types[0], store.edge_types[-1]):
            model = self.model(store, frozenset({gone}))
            assert gone not in model.layer(0).edge_types
            left = {e[0] for e in model.shape.edge_types} | {store.schema.target}
            assert set(model.shape.node_types) == left
            tables = FeatureTables(store, CPU, node_types=model.shape.node_types)
            exact_h, _ = embed(model, tables)
            whole_h, _ = embed(self.model(store), FeatureTables(store, CPU))
            assert np.isfinite(exact_h).all() and not np.allclose(exact_h, whole_h)

    def test_it_trains_is_kept_and_comes_back(self, store: Store, tmp_path: Path) -> None:
        config = GraphConfig(
            encoder=self.encoder,
            heads=self.heads,
            hidden=WIDTH,
            batch_size=32,
            epochs=4,
            lr=0.02,
            dropout=0.0,
        )
        settings, task = settings_of(graph=config, sampler=SamplerConfig(fanout=5)), rating()
        result = GraphTrainer(settings, store, task, tmp_path).run()
        losses = [entry["loss"] for entry in result["history"]]
        assert losses[-1] < losses[0] and np.isfinite(losses).all()
        assert (tmp_path / MODEL).exists()
        _, scores = embed(load_model(tmp_path, store, task, CPU), FeatureTables(store, CPU))
        test = task.examples(store).test
        found = task.measure(scores[test], task.truth(store)[test])
        assert found["mae"] == pytest.approx(result["exact"]["test"]["mae"], rel=1e-9)


def tails(states: dict[str, torch.Tensor]) -> torch.Tensor:
    """States of both types, one after the other."""
    return torch.cat([states[name] for name in TAILS])


def first_tails(graph: RandomGraph, num: dict[str, int]) -> LayerEdges:
    """The block of the first tails alone; states of all nodes are there."""
    block = graph.block("sampled")
    rows: dict[EdgeType, SampledRows] = {}
    for e, relation in graph.relations.items():
        of_tails = [relation.neighbors(v) for v in range(num[e[2]])]
        heads = np.concatenate([np.empty(0, np.int64), *of_tails]).astype(np.int64)
        rows[e] = SampledRows(torch.from_numpy(heads), torch.from_numpy(relation.degree()[: num[e[2]]]))
    return replace(block, rows=rows, num_tails=num)
