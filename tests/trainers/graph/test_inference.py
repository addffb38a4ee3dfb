"""Exact inference against the formulas node by node in float64, in both layouts and any memory."""

from __future__ import annotations

import functools
import itertools
import weakref
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.graphstore import EdgeType, ExtendedGraph, Relation, Store
from netgpt.graphstore.datasets.xsvideo.annotation import THRESHOLDS
from netgpt.graphstore.datasets.xsvideo.records import read_records
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.datasets.xsvideo.source import RecordSource
from netgpt.graphstore.features import encode_scalar
from netgpt.graphstore.relations import prefix_rows
from netgpt.sampler import NeighborSampler
from netgpt.trainers.config import AblationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.aggregate import exact_mean
from netgpt.trainers.graph.exact import (
    ExactInference,
    attention,
    cached_mean_scores,
    embed,
    open_cache,
    workspace,
    write_cache,
)
from netgpt.trainers.graph.model import Degrees, GraphModel, WholeGraph
from netgpt.trainers.graph.scalars import ScalarEncoding
from netgpt.trainers.graph.shape import ModelShape
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.without import Without
from tests.reference import ABLATIONS, rating

CPU = torch.device("cpu")
COUNTERS = ("fans", "likes", "comments", "shares", "views", "collects")
ENCODERS = ("rgcn", "gcn", "han", "hetsann")


def small_model(store: Store, encoder: str = "rgcn", ablation: str = "", hidden: int = 8) -> GraphModel:
    torch.manual_seed(0)
    without = Without.of(store.schema, ablation, ABLATIONS.get(ablation, AblationConfig()))
    shape = ModelShape.of(
        store.schema,
        dims_of(store),
        hidden=hidden,
        scalar_bins=3,
        thresholds=True,
        encoder=encoder,
        heads=2,
        without=without.relations,
        hidden_types=tuple(without.features),
    )
    model = GraphModel(shape, rating().head)
    model.fit_scalars(tables_of(model, store), store.split("train"))
    return model.eval()


def dims_of(store: Store) -> dict[str, int]:
    return {name: store.features(name).dim for name in store.schema.encoded_types}


def tables_of(model: GraphModel, graph: graphstore.Graph) -> FeatureTables:
    return FeatureTables(graph, CPU, hidden_types=model.shape.hidden_types)


def naive_scalar(
    x: np.ndarray, mean: np.ndarray, std: np.ndarray, edges: np.ndarray, steps: np.ndarray | tuple[()] = ()
) -> np.ndarray:
    """Bin by bin, each share read off a line between the bin's edges; and the steps."""
    shares = [np.interp(x, [a, b], [0, 1]) for a, b in pairwise(edges)]
    return np.stack([(x - mean) / std, *shares, *(x > step for step in steps)], axis=1)


def test_bins_lie_between_the_quantiles_of_distinct_numbers() -> None:
    encoding = ScalarEncoding(4)
    distinct = np.array([0.0, 1, 2, 4, 8, 16, 32, 64, 128], np.float32)
    many_zeros = torch.from_numpy(np.concatenate([np.zeros(500, np.float32), distinct]))[:, None]
    encoding.fit(many_zeros)
    np.testing.assert_array_equal(encoding.edges.numpy(), np.quantile(distinct, [0, 0.25, 0.5, 0.75, 1]))
    x = torch.tensor([-5.0, 0, 1.5, 8, 100, 128, 1e6])[:, None]
    found = encoding(x).numpy()
    edges = encoding.edges.double().numpy()
    expected = naive_scalar(x[:, 0].double().numpy(), encoding.mean.numpy(), encoding.std.numpy(), edges)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    # The shares add up to the number itself, between the outermost edges
    total = found[:, 1:] @ np.diff(edges)
    np.testing.assert_allclose(total, np.clip(x[:, 0].numpy(), 0, 128), rtol=1e-6)


def test_steps_are_above_and_not_at_a_threshold() -> None:
    """Of every count around every threshold, as the store's float32 logarithm gives them."""
    for name, thresholds in THRESHOLDS.items():
        encoding = ScalarEncoding(2, thresholds)
        small = [t for t in thresholds if t <= 100_000]  # float32 tells neighbours apart
        counts = np.array(sorted({max(0, t + d) for t in small for d in (-1, 0, 1)} | {10**9}))
        x = torch.from_numpy(encode_scalar(counts))
        encoding.fit(x)
        found = encoding(x)[:, 3:].numpy()
        assert encoding.dim == 3 + len(thresholds) and found.shape == (len(counts), len(thresholds))
        np.testing.assert_array_equal(found, counts[:, None] > np.array(thresholds), name)


def test_bins_of_one_number_and_no_bins() -> None:
    constant = ScalarEncoding(3)
    constant.fit(torch.full((5, 1), 2.0))
    assert torch.isfinite(constant(torch.tensor([[2.0], [3.0]]))).all()
    plain = ScalarEncoding(0)
    plain.fit(torch.tensor([[1.0], [3.0]]))
    assert plain.dim == 1 and plain(torch.tensor([[2.0]])).shape == (1, 1)
    assert float(plain(torch.tensor([[2.0]]))) == 0.0


@functools.cache
def edge_counts(store: Store, edge_type: EdgeType) -> torch.Tensor:
    """Edges between each tail and each head: [tails, heads] float64."""
    counts = np.zeros((store.num_nodes[edge_type[2]], store.num_nodes[edge_type[0]]))
    relation = store.relation(edge_type)
    for v in range(len(counts)):
        np.add.at(counts[v], relation.neighbors(v), 1)
    return torch.from_numpy(counts)


def dense(model: GraphModel, store: Store) -> np.ndarray:
    """Brute force: a dense [tails, heads] matrix a relation, all nodes at once, all in float64."""
    state = {k: v.double() for k, v in model.state_dict().items()}
    types, shape = model.shape.edge_types, model.shape
    counts = {e: edge_counts(store, e) for e in types}
    h = {}
    for name in shape.node_types:
        x = store.features(name).gather(np.arange(store.num_nodes[name])).astype(np.float64)
        if name in shape.hidden_types:
            x = np.zeros_like(x)
        if name in shape.scalar_types:
            x = naive_scalar(
                x[:, 0],
                *(state[f"scalars.{name}.{key}"].numpy() for key in ("mean", "std", "edges", "steps")),
            )
        h[name] = torch.from_numpy(x) @ state[f"project.{name}.weight"].T + state[f"project.{name}.bias"]
    for index in range(2):
        layer = {
            k.removeprefix(f"layers.{index}."): v
            for k, v in state.items()
            if k.startswith(f"layers.{index}.")
        }
        h = DENSE[shape.encoder](model, layer, h, counts)
        if index == 0:
            h = {name: torch.relu(x) for name, x in h.items()}
    return h["video"].numpy()


def dense_rgcn(model: GraphModel, layer: dict, h: dict, counts: dict) -> dict:  # type: ignore[type-arg]
    new = {name: x @ layer["root.weight"].T + layer["root.bias"] for name, x in h.items()}
    for r, e in enumerate(counts):
        mean = counts[e] / counts[e].sum(1, keepdim=True).clamp_min(1)
        new["video"] = new["video"] + mean @ h[e[0]] @ layer["basis_BDD"][r]
    return new


def dense_gcn(model: GraphModel, layer: dict, h: dict, counts: dict) -> dict:  # type: ignore[type-arg]
    degree = {name: torch.ones(len(x), dtype=torch.float64) for name, x in h.items()}
    for n in counts.values():
        degree["video"] = degree["video"] + n.sum(1)
    total = {name: x / degree[name][:, None] for name, x in h.items()}
    for e, n in counts.items():
        total["video"] = (
            total["video"] + (n / degree["video"].sqrt()[:, None] / degree[e[0]].sqrt()) @ h[e[0]]
        )
    return {name: x @ layer["linear.weight"].T + layer["linear.bias"] for name, x in total.items()}


def dense_scores(layer: dict, x: dict, counts: dict, heads: int) -> dict:  # type: ignore[type-arg]
    """By relation, attention scores [heads, tails, sources], −inf where there is no edge."""
    found = {}
    for r, e in enumerate(counts):
        a = torch.einsum("nhc,hc->hn", x[e[0]], layer["head_RHC"][r])
        b = torch.einsum("nhc,hc->hn", x["video"], layer["tail_RHC"][r])
        score = torch.nn.functional.leaky_relu(b[:, :, None] + a[:, None, :], 0.2)
        found[e] = score + torch.log(counts[e])[None]
    return found


def projected(layer: dict, h: dict, heads: int) -> dict:  # type: ignore[type-arg]
    bias = {name: layer.get(f"project.{name}.bias", 0) for name in h}
    return {n: (x @ layer[f"project.{n}.weight"].T + bias[n]).view(len(x), heads, -1) for n, x in h.items()}


def dense_han(model: GraphModel, layer: dict, h: dict, counts: dict) -> dict:  # type: ignore[type-arg]
    x = projected(layer, h, model.shape.heads)
    parts, scores = [], []
    for e, score in dense_scores(layer, x, counts, model.shape.heads).items():
        share = torch.nan_to_num(torch.softmax(score, 2))
        z = torch.relu(torch.einsum("htn,nhc->thc", share, x[e[0]]).flatten(1))
        parts.append(z)
        scores.append(
            torch.tanh(z @ layer["semantic.weight"].T + layer["semantic.bias"]).mean(0) @ layer["query_D"]
        )
    beta = torch.softmax(torch.stack(scores), 0)
    new = {name: torch.relu(v.flatten(1)) for name, v in x.items()}
    new["video"] = sum(b * z for b, z in zip(beta, parts, strict=True))
    return new


def dense_hetsann(model: GraphModel, layer: dict, h: dict, counts: dict) -> dict:  # type: ignore[type-arg]
    x = projected(layer, h, model.shape.heads)
    scores = dense_scores(layer, x, counts, model.shape.heads)
    share = torch.nan_to_num(torch.softmax(torch.cat(list(scores.values()), 2), 2))
    values = torch.cat([x[e[0]] for e in scores])
    total = torch.einsum("htn,nhc->thc", share, values).flatten(1)
    return {**h, "video": h["video"] + torch.nn.functional.elu(total)}


DENSE = {"rgcn": dense_rgcn, "gcn": dense_gcn, "han": dense_han, "hetsann": dense_hetsann}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_exact_inference_equals_dense_float64(encoder: str, store: Store, csr_store: Store) -> None:
    model = small_model(store, encoder)
    expected = dense(model, store)
    for graph in (store, csr_store):
        h, scores = embed(model, tables_of(model, graph))
        np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-5)
        logits = expected @ model.predictor.weight.double().detach().numpy()[0] + model.predictor.bias.item()
        np.testing.assert_allclose(scores, 9 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_embeddings_of_the_released_sample_equal_dense_float64(encoder: str, sample_store: Store) -> None:
    model = small_model(sample_store, encoder, hidden=16)
    h, _ = embed(model, tables_of(model, sample_store))
    expected = dense(model, sample_store)
    np.testing.assert_allclose(h, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.fixture(scope="module")
def sample_store(sample_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    out = tmp_path_factory.mktemp("stores") / "sample"
    graphstore.build(sample_path, out, Config(encoder="hash:64", time_dim=16, video_dim=8))
    return graphstore.open(str(out))


@pytest.mark.parametrize(("encoder", "ablation"), itertools.product(("rgcn", "han"), ("V", "VV", "IV", "CV")))
def test_ablations_leave_out_what_they_say(encoder: str, ablation: str, store: Store) -> None:
    model = small_model(store, encoder, ablation)
    h, _ = embed(model, tables_of(model, store))
    np.testing.assert_allclose(h, dense(model, store), rtol=1e-5, atol=1e-5)
    left = {e[1] for e in model.shape.edge_types}
    gone = {
        "V": set(),
        "VV": {"has_same_author_as", "has_same_topic_as", "is_history_of"},
        "IV": {"is_current_time_of"}
        | {f"is_{n}_of" for n in ("fans", "likes", "comments", "shares", "views", "collects")},
        "CV": {"is_comment_of"},
    }[ablation]
    assert {e[1] for e in store.edge_types} - left == gone
    assert model.shape.hidden_types == (("video",) if ablation == "V" else ())


@pytest.mark.parametrize("encoder", ENCODERS)
def test_forward_on_whole_rows_equals_exact_inference(encoder: str, store: Store) -> None:
    """By sampling every head, and by the whole graph as one batch."""
    model = small_model(store, encoder)
    tables = tables_of(model, store)
    exact_h, exact_scores = embed(model, tables)
    seeds = np.arange(0, store.num_nodes["video"], 3)
    degrees = Degrees(store, model.shape, CPU) if model.uses_degrees else None
    batch = NeighborSampler(store, fanout=-1, hops=2).sample(seeds)
    with torch.no_grad():
        scores, h = model(model.gather(batch, tables), model.blocks(batch, CPU, degrees))
        whole_scores, whole_h = WholeGraph(model, tables).run(model)
    np.testing.assert_allclose(whole_h.numpy(), exact_h, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(whole_scores.numpy(), exact_scores, rtol=1e-5)
    if encoder != "han":  # weighs relations by a mean over the batch's nodes
        np.testing.assert_allclose(h.numpy(), exact_h[seeds], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(scores.numpy(), exact_scores[seeds], rtol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_memory_changes_only_the_rounding(
    encoder: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Down to blocks of a few rows, tables made block by block, and states in mapped files."""
    model = small_model(store, encoder)
    tables = tables_of(model, store)
    expected, _ = embed(model, tables)
    monkeypatch.setattr(workspace, "MIN_BLOCK_ROWS", 31)
    monkeypatch.setattr(attention, "BLOCK_EDGES", 700)
    small = ExactInference(model, tables, tmp_path, memory_bytes=1000)
    found = small.run()
    assert small.work.block_rows == 31 and isinstance(found, np.memmap)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert set(small.seconds) >= {"input"} and all(s >= 0 for s in small.seconds.values())


def test_tables_that_do_not_fit_travel_with_the_batch(store: Store) -> None:
    model = small_model(store)
    batch = NeighborSampler(store, fanout=5, hops=2).sample(np.arange(40))
    found = []
    for max_bytes in (None, 20_000, 0):
        tables = FeatureTables(store, CPU, max_bytes=max_bytes)
        with torch.no_grad():
            found.append(model(model.gather(batch, tables), model.blocks(batch, CPU, None))[0])
        sizes = {n: store.features(n).x.size * 4 for n in store.node_types}
        assert sum(sizes[n] for n in tables.resident) <= (max_bytes if max_bytes is not None else 1e12)
        assert bool(tables.resident) == (max_bytes != 0)
    for scores in found[1:]:
        torch.testing.assert_close(scores, found[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), min_size=1, max_size=30), st.booleans())
def test_segmented_sums_equal_plain_means(nodes: list[tuple[int, int]], strict: bool) -> None:
    key, time = (np.array([n[i] for n in nodes], np.int64) for i in (0, 1))
    rows = prefix_rows(key, time, strict=strict)
    prefix = Relation(("v", "r", "v"), "prefix", rows.indices, rows.begin, rows.end, rows.rank)
    indptr, indices = prefix.to_csr()
    csr = Relation(("v", "r", "v"), "csr", indices, indptr[:-1], indptr[1:])
    h = np.random.default_rng(0).normal(size=(len(nodes), 3)).astype(np.float32)
    expected = [
        h[prefix.neighbors(v)].astype(np.float64).mean(0) if prefix.degree()[v] else [0] * 3
        for v in range(len(nodes))
    ]
    np.testing.assert_allclose(exact_mean(prefix, h), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(exact_mean(csr, h), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_joined_graphs_of_both_layouts_embed_alike(
    encoder: str, store: Store, csr_store: Store, records_path: Path, tmp_path: Path
) -> None:
    """And what was computed for the store's own nodes stays, also where relations are weighed by a mean."""
    model = small_model(store, encoder)
    digests = {"store": store.digest, "checkpoint": "c"}
    write_cache(tmp_path, model, tables_of(model, store), digests)
    scores = cached_mean_scores(tmp_path, digests)
    new = [replace(r, id=f"new-{r.id}") for r in read_records(records_path)][:40]
    source = RecordSource(lambda: new, "f", Config(video_dim=4))
    found = [
        embed(model, tables_of(model, ExtendedGraph(g, source)), mean_scores=scores)[0]
        for g in (store, csr_store)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)
    alone, _ = embed(model, tables_of(model, store))
    np.testing.assert_allclose(found[0][: -len(new)], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_states_in_memory_keep_to_half_of_the_budget(
    encoder: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted at the peak, for budgets that hold all arrays, some, and none."""
    model = small_model(store, encoder)
    tables, one = tables_of(model, store), store.num_nodes["video"] * 8 * 4
    expected, _ = embed(model, tables)
    array = workspace.Workspace.array
    for budget, some_mapped in ((one, True), (4 * one, encoder != "rgcn"), (200 * one, False)):
        live: dict[int, int] = {}
        peaks, mapped = [0], []

        def counted(
            self: workspace.Workspace,
            rows: int,
            width: int = 0,
            live: dict[int, int] = live,
            peaks: list[int] = peaks,
            mapped: list[int] = mapped,
        ) -> np.ndarray:
            found = array(self, rows, width)
            if isinstance(found, np.memmap):
                mapped.append(rows)
            else:
                live[id(found)] = found.nbytes
                weakref.finalize(found, live.pop, id(found))
                peaks.append(sum(live.values()))
            return found

        monkeypatch.setattr(workspace.Workspace, "array", counted)
        found = np.array(ExactInference(model, tables, tmp_path, memory_bytes=budget).run())
        monkeypatch.setattr(workspace.Workspace, "array", array)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert max(peaks) <= budget // 2 and bool(mapped) == some_mapped
        assert list(tmp_path.iterdir()) == []  # files go with their maps


def test_a_cache_of_another_store_or_checkpoint_is_refused(store: Store, tmp_path: Path) -> None:
    digests = {"store": store.digest, "checkpoint": "c"}
    model = small_model(store)
    write_cache(tmp_path, model, tables_of(model, store), digests)
    for name in digests:
        with pytest.raises(TrainerError, match=f"embeddings of {name}"):
            open_cache(tmp_path, {**digests, name: "other"})


def test_the_cache_holds_the_embeddings(store: Store, tmp_path: Path) -> None:
    model = small_model(store)
    tables = tables_of(model, store)
    digests = {"store": store.digest, "checkpoint": "c"}
    write_cache(tmp_path, model, tables, digests)
    h, scores = open_cache(tmp_path, digests)
    expected_h, expected_scores = embed(model, tables)
    np.testing.assert_array_equal(h, expected_h)
    np.testing.assert_array_equal(scores, expected_scores)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".json") == ["h", "score"]


@pytest.mark.gpu
def test_a_gpu_embeds_alike(store: Store) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    for encoder in ENCODERS:
        model = small_model(store, encoder)
        expected, _ = embed(model, tables_of(model, store))
        on_gpu = FeatureTables(store, torch.device("cuda"))
        found, _ = embed(model.to("cuda"), on_gpu)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
