"""RGCN, exact inference and stage 1 against naive code, float64 and PyG."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_geometric.nn import RGCNConv

from graphstore import Relation, Store
from graphstore.relations import prefix_rows
from graphstore.xsvideo.extend import ExtendedGraph
from graphstore.xsvideo.records import read_records
from sampler import NeighborSampler
from trainers import checkpoint
from trainers.config import GraphConfig, SamplerConfig
from trainers.errors import TrainerError
from trainers.graph.aggregate import exact_mean
from trainers.graph.inference import embed, open_cache, write_cache
from trainers.graph.model import RGCN, FeatureTables, RGCNShape, mean_of_heads
from trainers.graph.scalars import ScalarEncoding
from trainers.graph.train import CHECKPOINT, MODEL, GraphTrainer, load_model
from trainers.splits import Splits, make_splits

CPU = torch.device("cpu")
CONFIG = GraphConfig(
    hidden=8, batch_size=32, epochs=3, lr=0.01, dropout=0.2, feature_dropout=0.3, scalar_bins=4
)


def small_model(store: Store, seed: int = 0) -> RGCN:
    torch.manual_seed(seed)
    model = RGCN(RGCNShape.of(store, 8, scalar_bins=3))
    model.fit_scalars(FeatureTables(store, CPU), store.split("train"))
    return model.eval()


def naive_scalar(x: np.ndarray, mean: np.ndarray, std: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Bin by bin, each share read off a line between the bin's edges."""
    shares = [np.interp(x, [a, b], [0, 1]) for a, b in pairwise(edges)]
    return np.stack([(x - mean) / std, *shares], axis=1)


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


def test_bins_of_one_number_and_no_bins() -> None:
    constant = ScalarEncoding(3)
    constant.fit(torch.full((5, 1), 2.0))
    assert torch.isfinite(constant(torch.tensor([[2.0], [3.0]]))).all()
    plain = ScalarEncoding(0)
    plain.fit(torch.tensor([[1.0], [3.0]]))
    assert plain.dim == 1 and plain(torch.tensor([[2.0]])).shape == (1, 1)
    assert float(plain(torch.tensor([[2.0]]))) == 0.0


def naive_embeddings(model: RGCN, store: Store) -> np.ndarray:
    """Two layers by the formula, node by node, in float64."""
    state = {k: v.double().numpy() for k, v in model.state_dict().items()}
    h = {}
    for name in store.node_types:
        features = store.features(name)
        x = features.gather(np.arange(features.num_nodes)).astype(np.float64)
        if name in model.shape.scalar_types:
            x = naive_scalar(x[:, 0], *(state[f"scalars.{name}.{key}"] for key in ("mean", "std", "edges")))
        h[name] = x @ state[f"project.{name}.weight"].T + state[f"project.{name}.bias"]
    for layer in range(2):
        root, bias = state[f"layers.{layer}.root.weight"], state[f"layers.{layer}.root.bias"]
        new = {name: x @ root.T + bias for name, x in h.items()}
        for i, edge_type in enumerate(store.edge_types):
            weight = state[f"layers.{layer}.weight_RDD"][i]
            for v in range(store.num_nodes["video"]):
                row = store.relation(edge_type).neighbors(v)
                if len(row):
                    new["video"][v] += h[edge_type[0]][row].mean(0) @ weight
        h = {name: np.maximum(x, 0) for name, x in new.items()} if layer == 0 else new
    return h["video"]


def test_exact_inference_equals_the_formula_in_both_layouts(store: Store, csr_store: Store) -> None:
    model = small_model(store)
    expected = naive_embeddings(model, store)
    for graph in (store, csr_store):
        h, scores = embed(model, graph, CPU)
        np.testing.assert_allclose(h, expected, rtol=1e-4, atol=1e-4)
        logits = expected @ model.predictor.weight.double().detach().numpy()[0] + model.predictor.bias.item()
        np.testing.assert_allclose(scores, 9 / (1 + np.exp(-logits)), rtol=1e-4)


def test_forward_on_whole_rows_equals_exact_inference(store: Store) -> None:
    model, tables = small_model(store), FeatureTables(store, CPU)
    sampler = NeighborSampler(store, fanout=10_000, hops=2)
    seeds = np.arange(0, store.num_nodes["video"], 3)
    with torch.no_grad():
        scores, h = model(sampler.sample(seeds), tables)
    exact_h, exact_scores = embed(model, store, CPU)
    np.testing.assert_allclose(h.numpy(), exact_h[seeds], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(scores.numpy(), exact_scores[seeds], rtol=1e-4)


def test_a_layer_equals_pyg_rgcn_conv(store: Store) -> None:
    """PyG's RGCNConv on the homogeneous graph of all nodes, with the same weights."""
    model = small_model(store)
    layer = model.layers[0]
    offset, total = {}, 0
    for name in store.node_types:
        offset[name], total = total, total + store.num_nodes[name]
    x = torch.randn(total, 8)
    index, kind = [], []
    for i, edge_type in enumerate(store.edge_types):
        for v in range(store.num_nodes["video"]):
            for u in store.relation(edge_type).neighbors(v):
                index.append((offset[edge_type[0]] + int(u), offset["video"] + v))
                kind.append(i)
    conv = RGCNConv(8, 8, num_relations=len(store.edge_types))
    with torch.no_grad():
        conv.weight.copy_(layer.weight_RDD)
        conv.root.copy_(layer.root.weight.T)
        conv.bias.copy_(layer.root.bias)
        expected = conv(x, torch.tensor(index).T, torch.tensor(kind))
        num = store.num_nodes["video"]
        means = []
        for edge_type in store.edge_types:
            out = np.empty((num, 8), np.float32)
            first = offset[edge_type[0]]
            exact_mean(
                store.relation(edge_type), x[first : first + store.num_nodes[edge_type[0]]].numpy(), out
            )
            means.append(torch.from_numpy(out))
        found = layer(x[:num], means)
    torch.testing.assert_close(found, expected[:num], rtol=1e-4, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 3)), min_size=1, max_size=30), st.booleans())
def test_segmented_sums_equal_plain_means(nodes: list[tuple[int, int]], strict: bool) -> None:
    key, time = (np.array([n[i] for n in nodes], np.int64) for i in (0, 1))
    rows = prefix_rows(key, time, strict=strict)
    prefix = Relation(("v", "r", "v"), "prefix", rows.indices, rows.begin, rows.end, rows.rank)
    indptr, indices = prefix.to_csr()
    csr = Relation(("v", "r", "v"), "csr", indices, indptr[:-1], indptr[1:])
    h = np.random.default_rng(0).normal(size=(len(nodes), 3)).astype(np.float32)
    a, b = np.full_like(h, 7), np.full_like(h, 7)
    exact_mean(prefix, h, a)
    exact_mean(csr, h, b)
    expected = [
        h[prefix.neighbors(v)].astype(np.float64).mean(0) if prefix.degree()[v] else [0] * 3
        for v in range(len(nodes))
    ]
    np.testing.assert_allclose(a, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(b, expected, rtol=1e-6, atol=1e-6)


def test_mean_of_heads_has_right_values_and_gradients() -> None:
    h = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    heads, counts = torch.tensor([0, 1, 1, 5]), torch.tensor([3, 0, 1])
    out = mean_of_heads(h, heads, counts)
    expected = torch.stack([(h[0] + 2 * h[1]) / 3, torch.zeros(3, dtype=torch.float64), h[5]])
    torch.testing.assert_close(out, expected)
    assert torch.autograd.gradcheck(lambda x: mean_of_heads(x, heads, counts), h)


def train(store: Store, folder: Path, config: GraphConfig = CONFIG, seed: int = 0) -> GraphTrainer:
    folder.mkdir(exist_ok=True)
    splits = make_splits(store, 0.2)
    return GraphTrainer(config, SamplerConfig(fanout=5), store, splits, folder, seed=seed)


def test_training_twice_gives_the_same_bits_and_another_seed_others(store: Store, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(store, tmp_path / name, seed=seed).run()
    a, b, c = ((tmp_path / n / MODEL).read_bytes() for n in "abc")
    assert a == b != c


def steps_of(trainer: GraphTrainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the steps that a trainer takes from now on."""
    taken: list[int] = []
    step = trainer._step

    def count(batch: object, number: int) -> float:
        taken.append(number)
        return step(batch, number)

    monkeypatch.setattr(trainer, "_step", count)
    return taken


class KilledError(Exception):
    pass


@pytest.mark.parametrize("fault_step", [0, 2, 5, 7])
def test_a_run_killed_at_any_step_ends_in_the_same_bits(
    store: Store, tmp_path: Path, fault_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, checkpoint_steps=2)
    whole = train(store, tmp_path / "whole", config).run()
    trainer = train(store, tmp_path / "killed", config)
    step = trainer._step

    def fail(batch: object, number: int) -> float:
        if number == fault_step:
            raise KilledError
        return step(batch, number)

    monkeypatch.setattr(trainer, "_step", fail)
    with pytest.raises(KilledError):
        trainer.run()
    resumed = train(store, tmp_path / "killed", config)
    done = steps_of(resumed, monkeypatch)
    assert resumed.run() == whole
    assert done[0] == (fault_step // 2) * 2 if fault_step < len(resumed.loader) else done[0] <= fault_step
    assert done[0] > 0 or fault_step < 2
    for name in (MODEL, CHECKPOINT):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_other_inputs_is_not_resumed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, tmp_path / "run").run()
    other = train(store, tmp_path / "run")
    other.key = "of other inputs"
    taken = steps_of(other, monkeypatch)
    other.run()
    assert taken[0] == 0


def test_a_loss_that_is_no_number_ends_the_stage(store: Store, tmp_path: Path) -> None:
    trainer = train(store, tmp_path / "run")
    with torch.no_grad():
        trainer.model.predictor.bias.fill_(float("nan"))
    with pytest.raises(TrainerError, match=r"loss of step 0: found nan.*graph\.lr"):
        trainer.run()
    assert not (tmp_path / "run" / MODEL).exists()


def test_training_learns_and_stops_early(store: Store, tmp_path: Path) -> None:
    config = GraphConfig(hidden=16, batch_size=32, epochs=60, lr=0.02, dropout=0.0, patience=2)
    result = train(store, tmp_path / "run", config).run()
    history = result["history"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert result["epochs"] < 60 and result["epochs"] - 1 - result["best"]["epoch"] <= 3
    assert result["best"]["val_mae"] == min(h["val_mae"] for h in history)
    # The kept weights are those of the best epoch, not of the last
    model = load_model(tmp_path / "run", store, CPU)
    _, scores = embed(model, store, CPU)
    val = make_splits(store, 0.2).val
    mae = np.abs(np.clip(scores[val].astype(np.float64), 0, 9) - store.labels[val]).mean()
    assert mae == pytest.approx(result["best"]["val_mae"], rel=1e-9)


def test_a_cache_of_another_store_or_checkpoint_is_refused(store: Store, tmp_path: Path) -> None:
    digests = {"store": store.digest, "checkpoint": "c"}
    write_cache(tmp_path, small_model(store), store, CPU, digests)
    for name in digests:
        with pytest.raises(TrainerError, match=f"embeddings of {name}"):
            open_cache(tmp_path, {**digests, name: "other"})


def test_joined_graphs_of_both_layouts_embed_alike(
    store: Store, csr_store: Store, records_path: Path
) -> None:
    model = small_model(store)
    new = [replace(r, id=f"new-{r.id}") for r in read_records(records_path)][:40]
    found = [embed(model, ExtendedGraph(g, new, file="f"), CPU)[0] for g in (store, csr_store)]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[0][: -len(new)], embed(model, store, CPU)[0], rtol=1e-5, atol=1e-5)


def test_the_cache_holds_the_embeddings(store: Store, tmp_path: Path) -> None:
    model = small_model(store)
    digests = {"store": store.digest, "checkpoint": "c"}
    write_cache(tmp_path, model, store, CPU, digests)
    h, scores = open_cache(tmp_path, digests)
    expected_h, expected_scores = embed(model, store, CPU)
    np.testing.assert_array_equal(h, expected_h)
    np.testing.assert_array_equal(scores, expected_scores)
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".json") == ["h", "score"]


def test_splits_keep_videos_together_and_in_order(store: Store) -> None:
    splits: Splits = make_splits(store, 0.25)
    url = store.key("url")[0]
    parts = {name: set(url[ids].tolist()) for name, ids in splits.named().items()}
    assert not parts["train"] & parts["val"] and not parts["val"] & parts["test"]
    post = store.post_time
    assert (
        post[splits.train].max() < post[splits.val].min() <= post[splits.val].max() < post[splits.test].min()
    )
    assert 0.2 < len(splits.val) / (len(splits.val) + len(splits.train)) < 0.35


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": torch.arange(3)}, {"step": 4})
    tensors, meta = checkpoint.load(path)
    assert meta == {"step": 4} and tensors["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TrainerError, match="not a readable checkpoint"):
        checkpoint.load(path)
