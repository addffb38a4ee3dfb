"""Means of sampled rows, activation, and a model that makes no more states than are read: against torch's own
operations, and against the same model with every state made."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from netgpt.graphstore import Graph, Store
from netgpt.sampler import NeighborSampler
from netgpt.trainers.graph import bags, projected
from netgpt.trainers.graph.activation import relu_dropout
from netgpt.trainers.graph.bags import Bags
from netgpt.trainers.graph.buffers import Lender
from netgpt.trainers.graph.encoders import LayerEdges
from netgpt.trainers.graph.model import Degrees, GraphModel
from netgpt.trainers.graph.rows import SampledRows
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.tables import DistinctRows, FeatureTables
from netgpt.trainers.tasks.heads import PlainHead
from tests.trainers.graph.random_graph import CPU
from tests.trainers.graph.test_meta_graph import ENCODERS, FEATURES, MemoryGraph, model_of


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Threads of torch and of the loops, which then find every piece of work worth it."""
    monkeypatch.setattr(bags, "MIN_WORK", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def random_rows(seed: int, num_nodes: int, num_tails: int, most: int) -> tuple[Tensor, Tensor]:
    """Heads and counts; some rows are empty, some name a node more than once."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, most + 1, num_tails).astype(np.int32) * (rng.random(num_tails) > 0.2)
    heads = rng.integers(0, num_nodes, counts.sum()).astype(np.int32)
    return torch.from_numpy(heads), torch.from_numpy(counts.astype(np.int32))


def plain_means(h: Tensor, row: Tensor | None, heads: Tensor, counts: Tensor) -> Tensor:
    """[T, D], tail by tail."""
    index = heads.long() if row is None else row[heads.long()].long()
    parts = [
        h[part].mean(0) if len(part) else h.new_zeros(h.shape[1]) for part in index.split(counts.tolist())
    ]
    return torch.stack(parts)


@pytest.mark.parametrize("cached", [0, 1 << 20])
@pytest.mark.parametrize("contents", [None, 1, 7])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_read_of_one_table_and_its_gradient(
    seed: int, contents: int | None, cached: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Own rows, means of two relations, and a sum of weighted means, with the gradients of all of them."""
    monkeypatch.setattr(bags, "CACHED", cached)
    num_nodes, width, generator = 40, 33, torch.Generator().manual_seed(seed)
    row = None
    if contents:
        row = torch.from_numpy(np.random.default_rng(seed).integers(0, contents, num_nodes))
    h = torch.randn(
        contents or num_nodes, width, dtype=torch.float64, generator=generator, requires_grad=True
    )
    other = torch.randn(num_nodes, width, dtype=torch.float64, generator=generator, requires_grad=True)
    total = torch.randn(19, width, dtype=torch.float64, generator=generator, requires_grad=True)
    (a, a_counts), (b, b_counts) = (random_rows(seed + 10 * i, num_nodes, 19, 5) for i in (0, 1))
    factor = torch.rand(19, dtype=torch.float64, generator=generator)
    rows = SampledRows(a, a_counts), SampledRows(b, b_counts)

    own, (mean_a, mean_b) = bags.read(h, row, 11, [one.bags() for one in rows])
    added = bags.add_means(total * 1, [h, other], [row, None], [rows[0].bags(factor), rows[1].bags()])
    found = torch.cat([own, mean_a, mean_b, added])
    expected = torch.cat(
        [
            h[:11] if row is None else h[row[:11]],
            plain_means(h, row, a, a_counts),
            plain_means(h, row, b, b_counts),
            total
            + plain_means(h, row, a, a_counts) * factor[:, None]
            + plain_means(other, None, b, b_counts),
        ]
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    weight = torch.randn(found.shape, dtype=torch.float64, generator=generator)
    leaves = [h, other, total]
    ours, theirs = (torch.autograd.grad((x * weight).sum(), leaves) for x in (found, expected))
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: rows[0].mean(x, row), h)


@given(st.integers(0, 1000), st.integers(1, 30), st.integers(1, 12), st.integers(0, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_means_of_features(seed: int, num_nodes: int, num_tails: int, most: int, by_content: bool) -> None:
    """Into columns of a wider array, with shares and without, against torch."""
    rng = np.random.default_rng(seed)
    heads, counts = random_rows(seed, num_nodes, num_tails, most)
    x = torch.from_numpy(rng.normal(size=(5 if by_content else num_nodes, 3)).astype(np.float32))
    row = torch.from_numpy(rng.integers(0, 5, num_nodes)) if by_content else None
    share = torch.from_numpy(rng.random(num_nodes).astype(np.float32))
    nodes = x if row is None else x[row]
    for shares in (None, share):
        into = torch.full((num_tails, 5), -7.0)
        SampledRows(heads, counts).input_mean(x, row, shares, into[:, 1:4])
        shown = nodes if shares is None else nodes * shares[:, None]
        expected = plain_means(shown.double(), None, heads, counts)
        torch.testing.assert_close(into[:, 1:4].double(), expected, rtol=1e-5, atol=1e-6)
        assert (into[:, [0, 4]] == -7).all()


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bags, "MIN_WORK", 1)
    heads, counts = random_rows(0, 500, 200, 30)
    h = torch.randn(500, 70, requires_grad=True)
    before, found = torch.get_num_threads(), []
    for cached in (0, 1 << 20):
        monkeypatch.setattr(bags, "CACHED", cached)
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            torch.manual_seed(3)
            out = relu_dropout(SampledRows(heads, counts).mean(h), 0.3, True)
            found.append((out.detach(), torch.autograd.grad(out.square().sum(), h)[0]))
    torch.set_num_threads(before)
    for out, grad in found[1:]:
        assert torch.equal(out, found[0][0]) and torch.equal(grad, found[0][1])


@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (100, 64)])
def test_activation_and_dropout(shape: tuple[int, ...], threads: int) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    assert torch.equal(relu_dropout(x, 0.4, False), F.relu(x))
    assert torch.equal(relu_dropout(x, 0.0, True), F.relu(x))
    made = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        made.append(relu_dropout(x, 0.4, True))
    assert torch.equal(made[0], made[1])
    for out in made:
        kept = out > 0
        torch.testing.assert_close(out[kept], x[kept] / 0.6)
        assert (out[~kept] == 0).all() and (x[kept] > 0).all()
        grad = torch.autograd.grad(out.sum(), x)[0]
        torch.testing.assert_close(grad, kept / 0.6, check_dtype=False)
    if shape == (100, 64):
        assert not torch.equal(made[0], made[2])
        shown = [float((out[x > 0] > 0).double().mean()) for out in made]
        assert all(abs(share - 0.6) < 0.04 for share in shown)
        # Neighbours are drawn apart from each other: the joint share is the product
        both = (made[0] > 0).double().flatten()
        positive = (x > 0).flatten()
        pairs = positive[:-1] & positive[1:]
        assert abs(float((both[:-1] * both[1:])[pairs].mean()) - 0.36) < 0.05


def test_memory_is_lent_again_and_never_twice() -> None:
    lender = Lender()
    first, second = lender.empty(4, 5, torch.float32), lender.empty(4, 5, torch.float32)
    first[:], second[:] = 1, 2
    assert (first == 1).all() and (second == 2).all()
    where = first.data_ptr()
    part = first[1:]
    del first
    assert lender.empty(4, 5, torch.float32).data_ptr() != where, "a part of it is still in use"
    del part
    again = lender.empty(3, 5, torch.float64)
    assert again.shape == (3, 5) and again.dtype == torch.float64
    assert lender.empty(0, 5, torch.float32).shape == (0, 5)


# Models


def everything(model: GraphModel, contents: dict[str, DistinctRows], blocks: list[LayerEdges]) -> Tensor:
    """Scores with every state of every type made in every layer."""
    h = {name: model.inputs(name, c.x, c.row) for name, c in contents.items()}
    for index, block in enumerate(blocks):
        layer = model.layer(index)
        h = {n: layer.alone(n, h[n]) for n in model.parts[index].alone_types} | layer(h, block)
        if index + 1 < len(blocks):
            h = {name: F.relu(x) for name, x in h.items()}
    return model.score(h[model.target])


def assert_same_gradients(model: GraphModel, tables: FeatureTables, graph: Graph, hops: int) -> None:
    degrees = Degrees(graph, model.shape, CPU) if model.uses_degrees else None
    batch = NeighborSampler(graph, fanout=3, hops=hops).sample(np.arange(0, graph.num_nodes[model.target], 3))
    found = []
    for forward in (lambda *given: model(*given)[0], lambda *given: everything(model, *given)):
        torch.manual_seed(0)  # of features that are hidden
        scores = forward(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
        weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(5))
        model.zero_grad()
        (scores * weight).sum().backward()
        found.append(
            (scores.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None})
        )
    (scores, ours), (expected, theirs) = found
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-6)
    assert theirs.keys() <= ours.keys()
    largest = max(float(g.abs().max()) for g in theirs.values())
    for name, grad in ours.items():
        other = theirs.get(name, torch.zeros_like(grad))
        assert float((grad - other).abs().max()) <= 1e-6 * largest, name


@pytest.mark.parametrize("feature_dropout", [0.0, 0.5])
@pytest.mark.parametrize("early", ["as it costs", "always", "never"])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_what_nobody_reads_changes_no_gradient(
    encoder: str, early: str, feature_dropout: float, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    if early != "as it costs":
        monkeypatch.setattr(projected, "GATHER", -(10**9) if early == "always" else 10**9)
    torch.manual_seed(0)
    shape = ModelShape.of(store.schema, store.feature_dims, hidden=8, encoder=encoder, heads=2, scalar_bins=3)
    model = GraphModel(shape, PlainHead, 0.0, feature_dropout, ["topic"])
    for max_bytes in (None, 0):
        tables = FeatureTables(store, CPU, max_bytes=max_bytes)
        model.fit_scalars(tables, store.split("train"))
        for p in model.parameters():
            if p.dim() == 1:
                nn.init.normal_(p)  # biases too
        assert_same_gradients(model, tables, store, 2)


@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_on_graphs_whose_relations_end_in_several_types(encoder: str, num_layers: int) -> None:
    assert set(FEATURES) == {"v", "a"}
    for seed in range(3):
        graph = MemoryGraph(seed)
        model = model_of(graph, encoder, num_layers)
        tables = FeatureTables.of(graph, CPU, model.shape)
        assert_same_gradients(model, tables, graph, num_layers)


def test_the_first_layer_multiplies_no_more_than_it_must(store: Store, tmp_path: Path) -> None:
    """A step of two layers: states of other types are made of the nodes that the second layer reads alone."""
    shape = ModelShape.of(store.schema, store.feature_dims, hidden=8)
    model, tables = GraphModel(shape).eval(), FeatureTables(store, CPU)
    batch = NeighborSampler(store, fanout=3, hops=2).sample(np.arange(5))
    seen: dict[str, int] = {}
    layer = model.layer(0)
    alone = layer.alone

    def spy(node_type: str, h: Tensor) -> Tensor:
        seen[node_type] = len(h)
        return alone(node_type, h)

    layer.alone = spy  # type: ignore[method-assign]
    model(model.gather(batch, tables), model.blocks(batch, CPU, None))
    assert seen == {n: sum(batch.num_sampled_nodes[n][:2]) for n in model.parts[0].alone_types}
    assert seen["title"] < len(batch.nodes["title"])


def test_bags_say_what_they_are() -> None:
    made = Bags.of(torch.tensor([3, 1]), torch.tensor([1, 2]))
    assert made.heads_E.tolist() == [3, 1] and made.ends_T.tolist() == [1, 2] and len(made.factor_T) == 0


def test_a_forked_process_has_threads_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bags, "MIN_WORK", 1)
    heads, counts = random_rows(0, 50, 40, 5)
    x, before = np.ones((50, 4), np.float32), torch.get_num_threads()
    torch.set_num_threads(2)

    def means() -> np.ndarray:
        out = np.empty((40, 4), np.float32)
        empty = np.empty(0, np.int64)
        bags.bag_means(x, empty, empty, SampledRows(heads, counts).bags(), out, False)
        return out

    try:
        expected = means()
        child = os.fork()
        if not child:
            os._exit(0 if (means() == expected).all() else 1)
        for _ in range(200):
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                break
            time.sleep(0.05)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError("the child waits for its parent's threads")
        assert os.waitstatus_to_exitcode(status) == 0
    finally:
        torch.set_num_threads(before)
