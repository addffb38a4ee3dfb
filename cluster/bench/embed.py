"""Exact inference at a series of sizes, both layouts and PyG; and what a second of sampled training holds.

Each figure of inference is of a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.cluster.bench.measure import SYNTH, machine, measure
from netgpt.graphstore import Store, edge_name


@dataclass(frozen=True)
class EmbedBench:
    hidden: int = 128
    encoder: str = "rgcn"
    memory_bytes: int = 8 * 10**9
    threads: int = 2
    csr_edges: int = 2_000_000_000
    """Largest size for the csr layout."""
    peer_edges: int = 50_000_000
    """Largest size for PyG."""
    fanout: int = 50
    batch_size: int = 512
    batches: int = 8
    """Batches of the measured training; 0: none."""
    rounds: int = 3
    """Inferences; a figure is their median."""


def bench_scales(config: EmbedBench, scales: list[float], scratch: Path | None) -> Iterator[dict[str, Any]]:
    """One result a scale of synthetic stores: the layouts, how much faster one is, and PyG."""
    for scale in scales:
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            paths = {}
            for layout in ("prefix", "csr"):
                path = Path(name) / layout
                if not measure(SYNTH, path, scale, layout).ok:
                    raise RuntimeError(f"{path}: the synthetic store was not made")
                paths[layout] = path
                if _num_edges(paths["prefix"]) > config.csr_edges:
                    break
            yield {"graph": f"synth {scale}", **_case(config, paths, Path(name))}


def bench_store(config: EmbedBench, path: Path, scratch: Path | None) -> dict[str, Any]:
    """The same of one store, in the layout that it has."""
    store = graphstore.open(str(path))
    layout = "prefix" if any(store.relation(e).rank is not None for e in store.edge_types) else "csr"
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        return {"graph": path.name, **_case(config, {layout: path}, Path(name))}


def _num_edges(path: Path) -> int:
    return sum(graphstore.open(str(path)).num_edges.values())


def _case(config: EmbedBench, paths: dict[str, Path], scratch: Path) -> dict[str, Any]:
    first = next(iter(paths.values()))
    store = graphstore.open(str(first))
    largest = max(store.edge_types, key=lambda e: store.num_edges[e])
    result: dict[str, Any] = {
        "num_nodes": sum(store.num_nodes.values()),
        "num_targets": store.num_nodes[store.schema.target],
        "num_edges": sum(store.num_edges.values()),
        "largest_relation": edge_name(largest),
        "encoder": config.encoder,
        "hidden": config.hidden,
        "memory_bytes": config.memory_bytes,
        "threads": config.threads,
    }
    for layout, path in paths.items():
        rounds = config.rounds if layout == "prefix" else 1
        result[layout] = _measured("exact_main", config, path, scratch, rounds)
    if "csr" in result and "prefix" in result and not {"failed"} & {*result["csr"], *result["prefix"]}:
        prefix, csr = result["prefix"], result["csr"]
        result["csr_times_slower"] = {
            what: csr[key] / prefix[key]
            for what, key in (
                ("all", "seconds"),
                ("largest_relation", "largest_seconds"),
                ("its_means", "largest_mean_seconds"),
            )
            if csr[key] and prefix[key]  # attention has no time of one relation
        }
    if result["num_edges"] <= config.peer_edges and config.encoder == "rgcn":
        peer = _measured("pyg_main", config, first, scratch, config.rounds)
        if "failed" not in peer and "failed" not in (ours := result[next(iter(paths))]):
            peer["times_slower"] = peer["seconds"] / ours["seconds"]
        result["pyg"] = peer
    if config.batches:
        result["training"] = _measured("training_main", config, first, scratch, 1)
    return {**result, "machine": machine()}


def _measured(main: str, config: EmbedBench, path: Path, scratch: Path, rounds: int) -> dict[str, Any]:
    out = scratch / f"{main}.json"
    asked = json.dumps({**config.__dict__, "path": str(path), "scratch": str(scratch), "rounds": rounds})
    cost = measure(f"from netgpt.cluster.bench.embed import {main}; {main}()", asked, out)
    if not cost.ok:
        return {"failed": True, "peak_bytes": cost.peak_bytes}
    return json.loads(out.read_text()) | {"peak_bytes": cost.peak_bytes}


# What the processes run: sys.argv[1] says what, sys.argv[2] where the figures go


def _asked() -> tuple[dict[str, Any], Store, Any]:
    import torch

    from netgpt.trainers.graph.model import GraphModel
    from netgpt.trainers.graph.shape import ModelShape
    from netgpt.trainers.processor import use_cores

    asked = json.loads(sys.argv[1])
    use_cores(asked["threads"])
    store = graphstore.open(asked["path"])
    torch.manual_seed(0)
    shape = ModelShape.of(
        store.schema, store.feature_dims, hidden=asked["hidden"], encoder=asked["encoder"], heads=4
    )
    return asked, store, GraphModel(shape).eval()


def exact_main() -> None:
    import torch

    from netgpt.trainers.graph.exact import ExactInference
    from netgpt.trainers.graph.tables import FeatureTables

    asked, store, model = _asked()
    largest = edge_name(max(store.edge_types, key=lambda e: store.num_edges[e]))
    rounds, h = [], None
    for _ in range(asked["rounds"]):
        with tempfile.TemporaryDirectory(dir=asked["scratch"]) as scratch:
            start = time.perf_counter()
            tables = FeatureTables(store, torch.device("cpu"), max_bytes=0)
            del h
            inference = ExactInference(model, tables, Path(scratch), memory_bytes=asked["memory_bytes"])
            h = inference.run()
            rounds.append((time.perf_counter() - start, inference.seconds, inference.mean_seconds))
    assert h is not None
    rounds.sort(key=lambda result: result[0])
    seconds, by_relation, means = rounds[len(rounds) // 2]
    result = {
        "seconds": seconds,
        "seconds_of_rounds": [r[0] for r in rounds],
        "largest_seconds": by_relation.get(largest),
        "largest_mean_seconds": means.get(largest),
        "by_relation": by_relation,
        "checksum": float(np.abs(h[:: max(1, len(h) // 1000)]).mean(dtype=np.float64)),
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def pyg_main() -> None:
    """PyG's layers, layer by layer over the whole graph, with its sparse (not edge by edge) aggregation."""
    import torch
    from torch_geometric.nn import SAGEConv
    from torch_geometric.utils import to_torch_csr_tensor

    from netgpt.trainers.graph.encoders.rgcn import RGCNLayer
    from netgpt.trainers.graph.exact import embed
    from netgpt.trainers.graph.tables import FeatureTables

    asked, store, model = _asked()
    tables = FeatureTables(store, torch.device("cpu"))
    target = model.target
    adjacency = {}
    for e in store.edge_types:
        indptr, heads = store.relation(e).to_csr(np.int64)
        tails = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        pairs = torch.from_numpy(np.stack([tails, heads]))
        adjacency[e] = to_torch_csr_tensor(pairs, size=(store.num_nodes[e[2]], store.num_nodes[e[0]]))
    rounds = []
    out = torch.empty(0)
    for _ in range(asked["rounds"]):
        start = time.perf_counter()
        with torch.no_grad():
            h = {
                name: model.inputs(name, tables.gather(name, np.arange(store.num_nodes[name])))
                for name in store.node_types
            }
            for index in range(2):
                layer = model.layer(index)
                assert isinstance(layer, RGCNLayer)
                out = layer.root(h[target])
                for e in store.edge_types:
                    width = asked["hidden"]
                    conv = SAGEConv((width, width), width, aggr="mean", root_weight=False, bias=False)
                    conv.lin_l.weight.copy_(layer.weight_of(e).T)
                    out = out + conv((h[e[0]], h[target]), adjacency[e])
                if index == 0:
                    h = {n: model.between(layer.alone(n, x)) for n, x in h.items() if n != target}
                    h[target] = model.between(out)
        rounds.append(time.perf_counter() - start)
    ours, _ = embed(model, FeatureTables(store, torch.device("cpu"), max_bytes=0))
    result = {
        "seconds": sorted(rounds)[len(rounds) // 2],
        "seconds_of_rounds": rounds,
        "largest_difference": float(np.abs(ours - out.numpy()).max() / np.abs(ours).max()),
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def training_main() -> None:
    """Steps of sampled training as stage 1 takes them, one after the other and with a thread that samples
    ahead."""
    import torch

    from netgpt.sampler import NeighborLoader
    from netgpt.trainers.config import GraphConfig
    from netgpt.trainers.engine import AdamWEngine
    from netgpt.trainers.graph.model import Degrees, GraphModel
    from netgpt.trainers.graph.tables import FeatureTables

    asked, store, untrained = _asked()
    cpu, defaults = torch.device("cpu"), GraphConfig()
    tables, train = FeatureTables(store, cpu), store.split("train")
    size = min(asked["batch_size"], len(train) // 2)  # one batch to warm up, one to measure
    ids = np.random.default_rng(0).permutation(train)[: size * (asked["batches"] + 1)]
    # A number of each node's own: of one that is the same for all, gradients fade to denormals in some steps
    truth = np.log1p(store.relation(max(store.edge_types, key=lambda e: store.num_edges[e])).degree(ids))
    truth_S = torch.from_numpy((truth - truth.mean()) / max(truth.std(), 1e-6)).float()
    place = dict(zip(ids.tolist(), range(len(ids)), strict=True))
    parts = {"sampling": 0.0, "gathering": 0.0, "compute": 0.0}

    def epoch(threads: int) -> tuple[float, int]:
        torch.manual_seed(0)
        model = GraphModel(untrained.shape, dropout=defaults.dropout).train()
        model.fit_scalars(tables, train)
        degrees = Degrees(store, model.shape, cpu) if model.uses_degrees else None
        engine = AdamWEngine(model, lr=defaults.lr, weight_decay=defaults.weight_decay, clip=defaults.clip)
        loader = NeighborLoader(
            store, ids, batch_size=size, fanout=asked["fanout"], hops=2, threads=threads, prefetch=1
        )
        seeds, begin = 0, 0.0
        batches = iter(loader)
        for number in range(len(loader)):
            if number == 1:  # the first batch is for warming up
                begin, seeds = time.perf_counter(), 0
                parts.update(dict.fromkeys(parts, 0.0))
            times = [time.perf_counter()]
            batch = next(batches)
            times.append(time.perf_counter())
            contents = model.gather(batch, tables)
            times.append(time.perf_counter())
            scores, _ = model(contents, model.blocks(batch, cpu, degrees))
            own = [place[v] for v in batch.nodes[model.target][: batch.num_seeds].tolist()]
            engine.backward(
                torch.nn.functional.smooth_l1_loss(scores, truth_S[own], reduction="sum"), len(own)
            )
            engine.step(lambda norm: None)
            times.append(time.perf_counter())
            for name, a, b in zip(parts, times, times[1:], strict=False):
                parts[name] += b - a
            seeds += batch.num_seeds
        return time.perf_counter() - begin, seeds

    seconds, seeds = epoch(0)
    total = sum(parts.values())
    result = {
        "batch_size": size,
        "seeds_per_s": seeds / seconds,
        "share": {name: part / total for name, part in parts.items()},
        "ms_per_batch": {name: 1e3 * part * size / seeds for name, part in parts.items()},
    }
    seconds, seeds = epoch(1)
    result["seeds_per_s_sampling_ahead"] = seeds / seconds
    Path(sys.argv[2]).write_text(json.dumps(result))


def line(result: dict[str, Any]) -> str:
    """One result as text."""
    parts = [
        f"{result['graph']}: {result['num_edges']:,} edges, {result['encoder']}, hidden {result['hidden']}:"
    ]
    for name in ("prefix", "csr", "pyg"):
        if (part := result.get(name)) is None:
            continue
        if "failed" in part:
            parts.append(f"{name} failed ({part['peak_bytes'] / 1e9:.1f} GB)")
            continue
        text = f"{name} {part['seconds']:.2f} s, {part['peak_bytes'] / 1e9:.2f} GB"
        for key, what in (("largest_seconds", "largest relation"), ("largest_mean_seconds", "its means")):
            if part.get(key) is not None:
                text += f", {what} {part[key]:.3f} s"
        if "times_slower" in part:
            text += f" ({part['times_slower']:.1f} times slower"
            text += f", largest difference {part['largest_difference']:.1e})"
        parts.append(text)
    if "csr_times_slower" in result:
        slower = ", ".join(
            f"{ratio:.1f} ({what.replace('_', ' ')})" for what, ratio in result["csr_times_slower"].items()
        )
        parts.append(f"csr is so many times slower: {slower}")
    if (training := result.get("training")) and "failed" not in training:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in training["share"].items())
        parts.append(
            f"training {training['seeds_per_s']:.0f} seeds/s ({shares}), "
            f"{training['seeds_per_s_sampling_ahead']:.0f} with a sampling thread"
        )
    return "\n  ".join(parts)
