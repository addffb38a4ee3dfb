"""Benchmarks run, say on what, and count what they say they count."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from netgpt.cluster.bench.build import bench_edges, bench_synth, line
from netgpt.cluster.bench.embed import EmbedBench, bench_scales
from netgpt.cluster.bench.embed import bench_store as bench_embed_store
from netgpt.cluster.bench.embed import line as embed_line
from netgpt.cluster.bench.language import MODES, SHAPES, LanguageBench, bench_language, needed_flops
from netgpt.cluster.bench.language import line as language_line
from netgpt.cluster.bench.measure import measure
from netgpt.cluster.bench.recommend import ModelsBench, SpeedBench, bench_models, bench_speed
from netgpt.cluster.bench.recommend import line as recommend_line
from netgpt.cluster.bench.recommend_scale import bench_scale
from netgpt.cluster.bench.sampler import SamplerBench, bench_degrees, bench_store
from netgpt.cluster.bench.sampler import line as sampler_line
from netgpt.cluster.bench.similar import SimilarBench, bench_earlier, bench_search, recall
from netgpt.cluster.bench.similar import line as similar_line
from netgpt.cluster.cli.bench import app
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import EdgeType, Store
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.model.tiny import random_qwen2_vl
from netgpt.trainers.language.packing import collate
from tests.recommend import pairs_of_tastes, write_pairs
from tests.recommend import store_of as pairs_store


@pytest.mark.all
def test_similar(tmp_path: Path) -> None:
    config = SimilarBench(tails=40, bank=300, width=16, k=3, rounds=1, peers=sys.executable)
    (result,) = bench_search(config, tmp_path)
    assert recall(np.array([[0, 1, 2], [5, 4, 3]]), np.array([[1, 2, 3], [3, 4, 5]])) == pytest.approx(5 / 6)
    assert result["ours_recall"] == 1 and result["numpy_recall"] > 0.99
    assert result["numpy_times_slower"] == pytest.approx(result["numpy_s"] / result["ours_s"])
    for peer in ("faiss", "usearch"):
        assert f"{peer}_s" in result or "No module named" in result[f"{peer}_error"]
    (earlier,) = bench_earlier(config, 500, tmp_path)
    assert earlier["search_s"] > 0 and 0 < earlier["own_bytes"] <= earlier["peak_bytes"]
    assert "300" in similar_line(result) and "500 nodes" in similar_line(earlier)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_process_is_not_ok_and_memory_is_its_peak() -> None:
    assert not measure("raise SystemExit(3)").ok
    small, large = measure("pass"), measure("x = bytearray(200_000_000)")
    assert small.ok and large.ok
    assert 190e6 < large.peak_bytes - small.peak_bytes < 260e6


@pytest.mark.parametrize("command", ["build", "embed", "faults", "scaling"])
def test_a_scratch_folder_that_is_none_is_refused_at_once(command: str, tmp_path: Path) -> None:
    for scratch in (tmp_path / "missing", Path(__file__)):
        result = CliRunner().invoke(app, [command, "--scratch", str(scratch)])
        assert result.exit_code == 2 and "--scratch" in result.output


@pytest.mark.all
@pytest.mark.parametrize("peer_edges", [10**5, 0])
def test_build(peer_edges: int, tmp_path: Path) -> None:
    (result,) = bench_edges([20_000], 200_000, peer_edges, tmp_path)
    assert all(result[step]["ok"] for step in ("build", "open", "verify", "pack", "unpack"))
    assert result["build"]["edges_per_s"] == pytest.approx(20_000 / result["build"]["wall_s"])
    assert result["store_bytes"] > 20_000 * 4
    assert ("pyg_sort_edge_index" in result) == (peer_edges > 0)
    if peer_edges:
        for peer in ("pyg_sort_edge_index", "torch_coo_to_csr"):
            assert result[peer]["ok"] and result[peer]["times_slower"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.all
def test_synthetic_stores_of_both_layouts(tmp_path: Path) -> None:
    prefix, csr = bench_synth([0.0005], 10**6, tmp_path)
    assert (prefix["layout"], csr["layout"]) == ("prefix", "csr")
    assert prefix["num_edges"] == csr["num_edges"] and prefix["relation_bytes"] < csr["store_bytes"]
    assert all(csr[step]["ok"] for step in ("build", "open", "verify", "pack", "unpack"))
    assert csr["pyg_sort_edge_index"]["ok"] and "pyg_sort_edge_index" not in prefix
    assert line(csr).startswith("synth 0.0005 csr ") and "pyg_sort_edge_index" in line(csr)
    assert "ms" in line(prefix) and "failed" not in line(prefix)


@pytest.mark.all
def test_sampler_on_a_random_graph() -> None:
    (result,) = bench_degrees(SamplerBench(fanout=5, batch_size=20, hops=(2,), batches=3, rounds=2), [9], 300)
    assert (result["num_edges"], result["batch_size"], result["hops"]) == (2700, 20, 2)
    assert 20 * 5 < result["edges_per_batch"] <= 20 * 5 + 120 * 5
    one = result["threads_1"]
    assert one["seeds_per_s"] * result["edges_per_batch"] == pytest.approx(20 * one["edges_per_s"], rel=0.5)
    assert len(one["edges_per_s_of_rounds"]) == 2
    assert result["threads_2"]["times_one_thread"] > 0 and result["edge_index"]["times_slower"] > 0
    assert "threads_1" in sampler_line(result) and "ray_1" not in result


@pytest.mark.all
@pytest.mark.parametrize("with_ray", [False, True])
def test_sampler_on_a_store(with_ray: bool, store: Store) -> None:
    config = SamplerBench(fanout=5, batch_size=20, hops=(1,), batches=2, rounds=1, with_ray=with_ray)
    largest, everything = bench_store(config, store.path, "small")
    assert largest["num_edges"] == max(store.num_edges.values()) and largest["layout"] == "prefix"
    assert everything["num_edges"] == sum(store.num_edges.values())
    for result in (largest, everything):
        assert result["cold"]["first_batch_ms"] > 0 and result["cold"]["peak_bytes"] > 0
        for num in (1, 2, 4) if with_ray else (1, 2):
            assert result[f"threads_{num}"]["edges_per_s"] > 0
            assert not with_ray or result[f"ray_{num}"]["share_of_threads"] > 0
            assert with_ray == (f"ray_{num}" in result)
    assert "features" in everything and "features" not in largest
    assert ("of threads" in sampler_line(everything)) == with_ray


@pytest.mark.all
def test_embed_of_both_layouts_and_pyg(tmp_path: Path) -> None:
    config = EmbedBench(hidden=8, threads=1, batch_size=20, batches=2, fanout=5, rounds=1)
    (result,) = bench_scales(config, [0.0005], tmp_path)
    prefix, csr, pyg = (result[name] for name in ("prefix", "csr", "pyg"))
    assert prefix["checksum"] == pytest.approx(csr["checksum"], rel=1e-5)
    assert pyg["largest_difference"] < 1e-5  # the peer computes the same
    assert 0 < prefix["largest_mean_seconds"] <= prefix["largest_seconds"] <= prefix["seconds"]
    assert result["csr_times_slower"]["all"] == csr["seconds"] / prefix["seconds"]
    assert all(found["peak_bytes"] > 50e6 for found in (prefix, csr, pyg))
    training = result["training"]
    assert sum(training["share"].values()) == pytest.approx(1) and training["seeds_per_s"] > 0
    text = embed_line(result)
    assert "times slower" in text and "sampling" in text and "failed" not in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.all
def test_embed_of_a_store_with_attention(store: Store, tmp_path: Path) -> None:
    config = EmbedBench(encoder="han", hidden=8, threads=1, batches=0, rounds=1)
    result = bench_embed_store(config, store.path, tmp_path)
    assert "pyg" not in result and "csr" not in result and "training" not in result
    assert result["prefix"]["seconds"] > 0 and result["encoder"] in embed_line(result)


def test_a_peer_samples_the_same_numbers_of_edges(store: Store) -> None:
    """Of whole rows every sampler takes every edge."""
    from netgpt.cluster.bench.peers import CsrArrays, installed_peers
    from netgpt.sampler import NeighborSampler

    peers = installed_peers(CsrArrays(store), list(store.edge_types), 100_000, 1)
    if not peers:
        pytest.skip("needs pyg-lib or torch-sparse: pip install netgpt[pyg]")
    seeds = store.split("test")
    expected = NeighborSampler(store, fanout=-1, hops=1).sample(seeds).num_edges
    topic = ("video", "has_same_topic_as", "video")
    alone = NeighborSampler(store, fanout={topic: [-1, -1]}).sample(seeds).num_edges
    for make in peers.values():
        assert make()(seeds) == expected
    for make in installed_peers(CsrArrays(store), [topic], 100_000, 2).values():
        assert make()(seeds) >= alone


def test_graphbolt_samples_the_same_numbers_of_edges(store: Store, tmp_path: Path) -> None:
    """In a Python that has it; another is refused in one line."""
    from netgpt.cluster.bench.graphbolt import GraphBolt
    from netgpt.sampler import NeighborSampler

    def made(python: str, edge_types: Any, fanout: int, hops: int) -> GraphBolt:
        def arrays(edge_type: EdgeType) -> Any:
            return store.relation(edge_type).to_csr(np.int64)

        return GraphBolt(python, store, edge_types, arrays, tmp_path, fanout=fanout, hops=hops)

    with pytest.raises(ClusterError, match="--graphbolt: ModuleNotFoundError: No module named 'dgl'"):
        made(sys.executable, store.edge_types, 5, 1)
    if not (python := os.environ.get("NETGPT_GRAPHBOLT")):
        pytest.skip("NETGPT_GRAPHBOLT names no Python that has GraphBolt")
    seeds = store.split("test")
    topic = ("video", "has_same_topic_as", "video")
    for edge_types, hops in ((store.edge_types, 1), ((topic,), 1), (store.edge_types, 2)):
        others = [e for e in store.edge_types if e not in edge_types]
        whole = NeighborSampler(store, fanout=-1, hops=hops, exclude=tuple(others)).sample(seeds).num_edges
        peer = made(python, edge_types, 100_000, hops)
        found = peer.sample([seeds, seeds[::-1].copy()])
        peer.close()
        # It expands a node again in the next hop: ours once, in the hop after it was found
        assert found == 2 * whole if hops == 1 else found >= 2 * whole


@pytest.mark.all
@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_language(stage: str, tmp_path: Path) -> None:
    config = LanguageBench(
        stage=stage, max_tokens=900, token_budget=1800, samples=4, padded_samples=1, rounds=1, batch_size=2
    )
    (result,) = bench_language(config, None, None, tmp_path)
    assert set(result["modes"]) == set(MODES) and not list(tmp_path.iterdir())
    for mode, found in result["modes"].items():
        assert found["samples_s"] > 0 and found["peak_bytes"] > 10**8, mode
    share = {mode: found["useful_share"] for mode, found in result["modes"].items()}
    assert share["packed"] == 1 >= share["sorted"] >= share["longest"] > share["padded"]
    assert result["modes"]["packed"]["budget_fill"] <= 1
    assert "packed against" in language_line(result)


@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_flops_are_what_torch_counts(stage: str) -> None:
    """Matrix products of a forward and backward, by torch's own counter; its attention is not causal, and
    the projector and head, which it sees too, are small."""
    shape = {"hidden": 256, "layers": 6, "heads": 4, "kv_heads": 2, "intermediate": 700}
    base = random_qwen2_vl(vocab=512, **shape)  # type: ignore[arg-type]
    base.set_attn_implementation({"text_config": "eager"})
    netgpt = NetGPT(base, 4, (500, 501, 502))
    chosen = ["markers", "projector", *(["head", "last:4"] if stage == "stage3" else [])]
    netgpt.train_only(netgpt.parts(chosen))
    prompt, answer = np.arange(80) % 400, np.arange(12) if stage == "stage2" else np.empty(0, np.int64)
    prompt[3:6] = 500, 501, 502
    batch = collate([prompt], [answer], torch.device("cpu"), graph=np.ones((1, 4), np.float32))
    with FlopCounterMode(display=False) as counter:
        out = netgpt.response_log_probs(batch)[0] if stage == "stage2" else netgpt.scores(batch)
        out.sum().backward()
    SHAPES["test"] = shape
    try:
        config = LanguageBench(shape="test", stage=stage)
        length = len(prompt) + len(answer)
        needed = needed_flops(config, [length], 512, len(answer))
        causal = shape["layers"] * 3 * 2 * length**2 * shape["hidden"]
        assert counter.get_total_flops() == pytest.approx(needed + causal, rel=0.03)
    finally:
        del SHAPES["test"]


@pytest.mark.all
def test_recommenders_by_figures(tmp_path: Path) -> None:
    source = write_pairs(tmp_path, pairs_of_tastes())
    quick = ["recommender.epochs=2", "recommender.width=8", "task.k=5", "cluster.threads=1"]
    models = ["popularity", "bpr", "lightgcn recommender.layers=1"]
    asked = ModelsBench("shl-tiktok", source, models, ["given", "user_time"], [0, 1], quick)
    results = list(bench_models(asked, tmp_path))
    runs = [one for one in results if one["case"] == "model"]
    assert [(r["split"], r["model"], r["seed"]) for r in runs] == [
        (split, model, seed) for split in ("given", "user_time") for seed in (0, 1) for model in models
    ]
    for mean in (one for one in results if one["case"] == "mean"):
        own = [r for r in runs if (r["split"], r["model"]) == (mean["split"], mean["model"])]
        values = [r["test"]["recall@5"] for r in own]
        assert mean["test"]["recall@5"] == [pytest.approx(np.mean(values)), min(values), max(values)]
    assert all(f"{r['split']}" in recommend_line(r) for r in results)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.inter", "image_feat.npy", "text_feat.npy"]
    for wrong, words in ((["gru"], "found 'gru'"), (["bpr recommender.lr=0"], "recommender.lr")):
        with pytest.raises(ValueError, match=words):
            list(bench_models(ModelsBench("shl-tiktok", source, wrong), tmp_path))


@pytest.mark.all
def test_speeds_of_recommenders_beside_pygs(tmp_path: Path) -> None:
    store = pairs_store(tmp_path / "pairs")
    speed = SpeedBench(rounds=1, batches=2, batch_size=32, threads=1)
    links, lightgcn, bpr, ranking = bench_speed(speed, store, tmp_path)
    assert links["one_thread"] > 0 and links["two_threads"] > 0 and links["pairs"] > 50
    assert lightgcn["netgpt"] > 0 and lightgcn["netgpt_by_pyg"] > 0 and lightgcn["pyg_epoch_s"] > 0
    assert ranking["ranked_users"] > 5 and "implicit" not in ranking and bpr["netgpt"] > 0
    missing = dict(vars(speed)) | {"peers": sys.executable}
    *_, bpr, ranking = bench_speed(SpeedBench(**missing), store, tmp_path)
    for name in ("implicit", "cornac"):
        for case in (bpr, ranking):
            assert name in case.get(f"{name}_error", "") or case[name] > 0


@pytest.mark.all
def test_sizes_of_recommenders(tmp_path: Path) -> None:
    (result,) = bench_scale([0.0005], 1, tmp_path)
    assert result["step_ok"] and result["ranking_ok"] and result["step_s"] > 0
    assert result["ranked_users"] == result["user"] and "users ranked" in recommend_line(result)
