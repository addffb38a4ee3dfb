"""Encoders against PyG's layers with the same weights, and HetSANN against its formula, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.nn import GCNConv, HANConv, HeteroConv, HGTConv, RGCNConv, SAGEConv

from netgpt.trainers.graph.aggregate import exact_mean
from netgpt.trainers.graph.encoders import Layer, LayerSpec, make_layer
from netgpt.trainers.graph.encoders.gcn import GCNLayer
from netgpt.trainers.graph.encoders.han import HANLayer
from netgpt.trainers.graph.encoders.hetsann import HetSANNLayer
from netgpt.trainers.graph.encoders.hgt import HGTLayer
from netgpt.trainers.graph.encoders.rgcn import RGCNLayer
from netgpt.trainers.graph.encoders.sage import SAGELayer
from netgpt.trainers.graph.rows import SampledRows, WholeRows
from tests.trainers.graph.random_graph import CPU, RandomGraph

SEEDS = range(4)
WIDTH, HEADS = 8, 2


@pytest.fixture(params=["sampled", "whole"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def layer_of(encoder: str, graph: RandomGraph, num_bases: int = 0) -> Layer:
    torch.manual_seed(1)
    types = tuple(graph.num_nodes)
    alone = tuple(name for name in types if all(e[2] != name for e in graph.edge_types))
    spec = LayerSpec(graph.edge_types, types, WIDTH, alone, heads=HEADS, num_bases=num_bases)
    made = make_layer(encoder, spec).double()
    for parameter in made.parameters():  # biases too
        nn.init.normal_(parameter, std=0.5)
    return made


def flat(graph: RandomGraph, h: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """All nodes and edges as one graph, type after type: x, edge_index, edge type."""
    sizes = list(graph.num_nodes.values())
    offset = dict(zip(graph.num_nodes, [0, *np.cumsum(sizes).tolist()], strict=False))
    index, kinds = [], []
    for i, e in enumerate(graph.edge_types):
        edges = graph.edge_index(e)
        index.append(torch.stack([edges[0] + offset[e[0]], edges[1] + offset[e[2]]]))
        kinds.append(torch.full((edges.shape[1],), i))
    return torch.cat([h[name] for name in graph.num_nodes]), torch.cat(index, 1), torch.cat(kinds)


def all_states(layer: Layer, h: dict[str, Tensor], graph: RandomGraph, kind: str) -> Tensor:
    """New states of all nodes, type after type."""
    out = layer(h, graph.block(kind))
    return torch.cat([out[name] if name in out else layer.alone(name, h[name]) for name in h])


def tails(states: dict[str, Tensor]) -> Tensor:
    """Those of the types that relations end in, one after the other."""
    return torch.cat([states["v"], states["a"]])


def assert_same(found: Tensor, expected: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> None:
    """Outputs, and the gradients of one random function of them by all pairs of leaves."""
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    ours = torch.autograd.grad((found * weight).sum(), [a for a, _ in pairs], retain_graph=True)
    theirs = torch.autograd.grad((expected * weight).sum(), [b for _, b in pairs], retain_graph=True)
    for a, b in zip(ours, theirs, strict=True):
        assert b.abs().sum() > 0
        torch.testing.assert_close(a, b.reshape(a.shape), rtol=1e-9, atol=1e-9)


def leaves(h: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.clone().requires_grad_() for name, x in h.items()}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_bases", [0, 2])
def test_rgcn_equals_pyg(seed: int, num_bases: int, kind: str) -> None:
    graph = RandomGraph.of(seed)
    layer = layer_of("rgcn", graph, num_bases)
    assert isinstance(layer, RGCNLayer)
    conv = RGCNConv(WIDTH, WIDTH, num_relations=len(graph.edge_types), num_bases=num_bases or None).double()
    with torch.no_grad():
        conv.weight.copy_(layer.basis_BDD)
        conv.root.copy_(layer.root.weight.T)
        conv.bias.copy_(layer.root.bias)
        if layer.share_RB is not None:
            conv.comp.copy_(layer.share_RB)
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    x, index, kinds = flat(graph, other)
    expected = conv(x, index, kinds)
    pairs = [*((h[name], other[name]) for name in h), (layer.basis_BDD, conv.weight)]
    if layer.share_RB is not None:
        pairs.append((layer.share_RB, conv.comp))
    pairs += [(layer.root.bias, conv.bias)]
    assert_same(all_states(layer, h, graph, kind), expected, pairs)


@pytest.mark.filterwarnings("ignore:There exist node types")
def test_rgcn_equals_pyg_hetero_conv(kind: str) -> None:
    graph = RandomGraph.of(0)
    layer = layer_of("rgcn", graph)
    assert isinstance(layer, RGCNLayer)
    convs = {
        e: SAGEConv((WIDTH, WIDTH), WIDTH, aggr="mean", root_weight=False, bias=False)
        for e in graph.edge_types
    }
    hetero = HeteroConv(convs, aggr="sum").double()
    with torch.no_grad():
        for e, conv in convs.items():
            conv.lin_l.weight.copy_(layer.weight_of(e).T)
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    out = hetero(other, {e: graph.edge_index(e) for e in graph.edge_types})
    expected = tails({name: out[name] + layer.root(other[name]) for name in ("v", "a")})
    assert_same(tails(layer(h, graph.block(kind))), expected, [(h[name], other[name]) for name in h])


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.filterwarnings("ignore:There exist node types")
def test_sage_equals_pyg(seed: int, kind: str) -> None:
    """A convolution a relation, whose own weights add up to one of the type."""
    graph = RandomGraph.of(seed)
    layer = layer_of("sage", graph)
    assert isinstance(layer, SAGELayer)
    convs = {e: SAGEConv((WIDTH, WIDTH), WIDTH, aggr="mean") for e in graph.edge_types}
    hetero = HeteroConv(convs, aggr="sum").double()
    with torch.no_grad():
        for r, (e, conv) in enumerate(convs.items()):
            own, share = layer.own[e[2]], len(layer.ending_in(e[2]))
            conv.lin_l.weight.copy_(layer.heads_RDD[r].T)
            conv.lin_l.bias.copy_(own.bias / share)
            conv.lin_r.weight.copy_(own.weight / share)
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    out = hetero(other, {e: graph.edge_index(e) for e in graph.edge_types})
    pairs = [(h[name], other[name]) for name in h]
    assert_same(tails(layer(h, graph.block(kind))), tails(out), pairs)
    alone = layer.own["b"]
    torch.testing.assert_close(layer.alone("b", h["b"]), h["b"] @ alone.weight.T + alone.bias)


@pytest.mark.parametrize("seed", SEEDS)
def test_gcn_equals_pyg(seed: int, kind: str) -> None:
    graph = RandomGraph.of(seed)
    layer = layer_of("gcn", graph)
    assert isinstance(layer, GCNLayer)
    conv = GCNConv(WIDTH, WIDTH).double()
    with torch.no_grad():
        conv.lin.weight.copy_(layer.linear.weight)
        conv.bias.copy_(layer.linear.bias)
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    x, index, _ = flat(graph, other)
    expected = conv(x, index)
    pairs = [
        *((h[name], other[name]) for name in h),
        (layer.linear.weight, conv.lin.weight),
        (layer.linear.bias, conv.bias),
    ]
    assert_same(all_states(layer, h, graph, kind), expected, pairs)


@pytest.mark.parametrize("seed", SEEDS)
def test_han_equals_pyg(seed: int, kind: str) -> None:
    graph = RandomGraph.of(seed)
    layer = layer_of("han", graph)
    assert isinstance(layer, HANLayer)
    conv = HANConv(WIDTH, WIDTH, (list(graph.num_nodes), list(graph.edge_types)), heads=HEADS).double()
    pairs: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        for name in graph.num_nodes:
            pairs += list(zip(layer.project[name].parameters(), conv.proj[name].parameters(), strict=True))
        for e, a, b in zip(graph.edge_types, layer.head_RHC, layer.tail_RHC, strict=True):
            conv.lin_src["__".join(e)].copy_(a[None])
            conv.lin_dst["__".join(e)].copy_(b[None])
        pairs += [
            (layer.semantic.weight, conv.k_lin.weight),
            (layer.semantic.bias, conv.k_lin.bias),
            (layer.query_D, conv.q),
        ]
        for ours, theirs in pairs:
            theirs.copy_(ours.reshape(theirs.shape))
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    expected = tails(conv(other, {e: graph.edge_index(e) for e in graph.edge_types}))
    pairs += [(h[name], other[name]) for name in h]
    assert_same(tails(layer(h, graph.block(kind))), expected, pairs)


@pytest.mark.parametrize("seed", SEEDS)
def test_hgt_equals_pyg(seed: int, kind: str) -> None:
    graph = RandomGraph.of(seed)
    layer = layer_of("hgt", graph)
    assert isinstance(layer, HGTLayer)
    conv = HGTConv(WIDTH, WIDTH, (list(graph.num_nodes), list(graph.edge_types)), heads=HEADS).double()
    num = len(graph.edge_types)
    with torch.no_grad():
        for name in graph.num_nodes:
            for part in ("weight", "bias"):
                key, value, query = getattr(layer.project[name], part).split(WIDTH)
                getattr(conv.kqv_lin.lins[name], part).copy_(torch.cat([key, query, value]))
                if name != "b":
                    getattr(conv.out_lin.lins[name], part).copy_(getattr(layer.out[name], part))
            conv.skip[name].copy_(layer.skip[name])
        for r, e in enumerate(graph.edge_types):
            conv.p_rel["__".join(e)].copy_(layer.prior_RH[r][None])
            for head in range(HEADS):
                conv.k_rel.weight[head * num + r].copy_(layer.key_RHCC[r, head])
                conv.v_rel.weight[head * num + r].copy_(layer.message_RHCC[r, head])
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    out = conv(other, {e: graph.edge_index(e) for e in graph.edge_types})
    pairs = [(h[name], other[name]) for name in h]
    pairs += [(layer.skip[name], conv.skip[name]) for name in ("v", "a")]
    pairs += [(layer.out[name].weight, conv.out_lin.lins[name].weight) for name in ("v", "a")]
    assert_same(tails(layer(h, graph.block(kind))), tails(out), pairs)
    share = torch.sigmoid(layer.skip["b"])
    alone = share * layer.alone_bias["b"] + (1 - share) * h["b"]
    torch.testing.assert_close(layer.alone("b", h["b"]), alone)


@pytest.mark.parametrize("seed", SEEDS)
def test_hetsann_equals_its_formula(seed: int, kind: str) -> None:
    """Edge by edge: one softmax over all edges that end in a node."""
    graph = RandomGraph.of(seed)
    layer = layer_of("hetsann", graph)
    assert isinstance(layer, HetSANNLayer)
    h, other = leaves(graph.states(WIDTH)), leaves(graph.states(WIDTH))
    x = {name: (other[name] @ layer.project[name].weight.T).view(-1, HEADS, WIDTH // HEADS) for name in other}
    out = []
    for tail, v in [(name, v) for name in ("v", "a") for v in range(graph.num_nodes[name])]:
        scores, messages = [], []
        for r, e in enumerate(graph.edge_types):
            for u in graph.relations[e].neighbors(v) if e[2] == tail else ():
                scores.append(
                    F.leaky_relu(
                        (layer.head_RHC[r] * x[e[0]][u]).sum(-1) + (layer.tail_RHC[r] * x[tail][v]).sum(-1),
                        0.2,
                    )
                )
                messages.append(x[e[0]][u])
        if scores:
            share = torch.softmax(torch.stack(scores), 0)
            total = (share[:, :, None] * torch.stack(messages)).sum(0).flatten()
        else:
            total = torch.zeros(WIDTH, dtype=torch.float64)
        out.append(other[tail][v] + F.elu(total))
    expected = torch.stack(out)
    found = tails(layer(h, graph.block(kind)))
    assert_same(found, expected, [(h[name], other[name]) for name in h])
    weight = torch.randn_like(found)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad((found * weight).sum(), parameters)
    theirs = torch.autograd.grad((expected * weight).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("encoder", ["rgcn", "gcn", "sage", "han", "hetsann", "hgt"])
def test_a_graph_without_edges_is_finite(encoder: str, kind: str) -> None:
    graph = RandomGraph.of(0)
    empty = {
        e: type(r)(e, "csr", r.indices[:0], np.zeros(r.num_dst, np.int64), np.zeros(r.num_dst, np.int64))
        for e, r in graph.relations.items()
    }
    layer = layer_of(encoder, graph)
    h = leaves(graph.states(WIDTH))
    out = tails(layer(h, RandomGraph(empty, graph.num_nodes).block(kind)))
    assert torch.isfinite(out).all()
    out.sum().backward()
    assert all(torch.isfinite(x.grad).all() for x in h.values() if x.grad is not None)


@pytest.mark.parametrize("seed", SEEDS)
def test_gradients_of_running_sums(seed: int) -> None:
    """The walk back, and the cumulative sum that GPUs use, against finite differences and each other."""
    graph = RandomGraph.of(seed)
    for relation in graph.relations.values():
        num = graph.num_nodes[relation.edge_type[0]]
        h = torch.randn(num, 3, dtype=torch.float64, requires_grad=True)
        content = np.random.default_rng(seed).integers(0, num, num).astype(np.int32)
        for rows in (WholeRows(relation, CPU), WholeRows(relation, CPU, content)):
            assert torch.autograd.gradcheck(rows.mean, h)
            assert torch.autograd.gradcheck(rows.mean_of_sums, h)
            torch.testing.assert_close(rows.mean(h), rows.mean_of_sums(h), rtol=1e-12, atol=1e-12)


def test_threads_change_no_bit() -> None:
    graph = RandomGraph.of(3, num_v=200, degree=10)
    h = torch.randn(200, 70, requires_grad=True)
    for relation in list(graph.relations.values())[:2]:
        found = []
        for threads in (1, 2, 4):
            mean = WholeRows(relation, CPU, None, threads).mean(h)
            found.append((mean, torch.autograd.grad(mean.square().sum(), h)[0]))
        for mean, grad in found[1:]:
            assert torch.equal(mean, found[0][0]) and torch.equal(grad, found[0][1])
        np.testing.assert_array_equal(exact_mean(relation, h.detach().numpy()), found[0][0].detach().numpy())


def test_sampled_gcn_is_unbiased() -> None:
    """The mean over samples of a sampled layer approaches the layer over all heads."""
    graph = RandomGraph.of(1, num_v=40, degree=12, star=True)
    layer = layer_of("gcn", graph)
    h = graph.states(WIDTH)
    whole = graph.block("sampled")
    rng = np.random.default_rng(0)
    outs = []
    for _ in range(400):
        rows = {}
        for e, r in graph.relations.items():
            drawn = [rng.permutation(r.neighbors(v))[:3] for v in range(40)]
            rows[e] = SampledRows(
                torch.from_numpy(np.concatenate(drawn).astype(np.int64)),
                torch.tensor([len(d) for d in drawn]),
                whole.rows[e].degree_T,
            )
        with torch.no_grad():
            outs.append(layer(h, type(whole)(rows, {"v": 40}, whole.degree_N))["v"])
    found, exact = torch.stack(outs), layer(h, whole)["v"].detach()
    z = (found.mean(0) - exact) / (found.std(0) / len(found) ** 0.5)
    assert 0.7 < float(z.square().mean()) < 1.3  # 1 where the mean is right
