"""`netgpt bench sampler`: edges sampled and relabelled a second, beside the samplers that are installed.

Contestants take turns, round by round, on the same seeds: threads among themselves, then one thread
and the peers, then threads and Ray's workers. A figure is the median over the rounds, a ratio the
median of the rounds' ratios.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.cluster.bench.measure import machine, measure
from netgpt.cluster.workers.session import ray_session
from netgpt.graphstore import EdgeType, Graph, Relation, Store
from netgpt.graphstore.relations import from_indptr
from netgpt.graphstore.schema import NodeType, RelationType, Schema, edge_name
from netgpt.sampler import (
    FeatureGatherer,
    MiniBatch,
    NeighborSampler,
    Request,
    SamplerError,
    SamplingEngine,
    SamplingOptions,
)
from netgpt.sampler.loader import ThreadedEngine

RAY_WORKERS = (1, 2, 4)
AHEAD = 8
"""Batches that a thread or worker is asked for ahead."""


@dataclass(frozen=True, kw_only=True)
class SamplerBench:
    """What is measured."""

    fanout: int = 50
    batch_size: int = 512
    hops: tuple[int, ...] = (1, 2)
    batches: int = 48
    """Batches of a round, for this sampler; peers take an eighth of them."""
    rounds: int = 5
    with_ray: bool = True
    with_peers: bool = True
    graphbolt: str = ""
    """A Python that has GraphBolt."""


@dataclass
class _Contest:
    """Edges and seconds of each contestant's rounds."""

    runs: dict[str, Callable[[], tuple[int, int]]] = field(default_factory=dict)
    rates: dict[str, list[float]] = field(default_factory=dict)
    seeds: dict[str, list[float]] = field(default_factory=dict)

    def play(self, rounds: int) -> None:
        """Every contestant once before it counts, then in turns."""
        for number in range(rounds + 1):
            for name, run in self.runs.items():
                start = time.perf_counter()
                num_edges, num_seeds = run()
                wall_s = time.perf_counter() - start
                if number:
                    self.rates.setdefault(name, []).append(num_edges / wall_s)
                    self.seeds.setdefault(name, []).append(num_seeds / wall_s)

    def result(self, name: str, batch_size: int) -> dict[str, Any]:
        seeds_per_s = statistics.median(self.seeds[name])
        return {
            "edges_per_s": statistics.median(self.rates[name]),
            "seeds_per_s": seeds_per_s,
            "batch_ms": 1e3 * batch_size / seeds_per_s,
            "edges_per_s_of_rounds": self.rates[name],
        }

    def ratio(self, name: str, other: str) -> float:
        """Median over the rounds of one's rate by the other's."""
        rates = zip(self.rates[name], self.rates[other], strict=True)
        return statistics.median(a / b if b else 0.0 for a, b in rates)


class DegreeGraph(Graph):
    """One relation among nodes of one type, all rows of one length, with random heads."""

    def __init__(self, num_nodes: int, degree: int) -> None:
        edge_type = ("n", "to", "n")
        self.schema = Schema(
            target="n",
            node_types=(NodeType(name="n", encoding="none"),),
            relations=(RelationType(edge_type=edge_type),),
        )
        self.num_nodes = {"n": num_nodes}
        indices = np.random.default_rng(0).integers(0, num_nodes, num_nodes * degree, np.int32)
        self._relation = from_indptr(edge_type, np.arange(num_nodes + 1) * degree, indices)

    def relation(self, edge_type: EdgeType) -> Relation:
        return self._relation


def bench_degrees(config: SamplerBench, degrees: list[int], num_nodes: int) -> Iterator[dict[str, Any]]:
    """One result a degree and number of hops, on random graphs in memory."""
    for degree in degrees:
        graph = DegreeGraph(num_nodes, degree)
        for hops in config.hops:
            result = {"graph": f"degree-{degree}", "layout": "csr", "relations": "one", "hops": hops}
            yield result | _case(config, graph, graph.edge_types, hops, None)


def bench_store(config: SamplerBench, path: Path, name: str) -> Iterator[dict[str, Any]]:
    """One result a set of relations and number of hops, on a store: its largest relation, and all."""
    largest, layout = _largest_relation(path)
    cases = [("largest", (largest,), hops) for hops in config.hops]
    cases += [("all", None, hops) for hops in config.hops]  # type: ignore[misc]
    # Before anything here maps the files: what is mapped cannot be dropped from memory
    cold = [_cold(config, path, edge_types, hops) for _, edge_types, hops in cases]
    store = graphstore.open(str(path))
    for (relations, edge_types, hops), first in zip(cases, cold, strict=True):
        result = {"graph": name, "layout": layout, "relations": relations, "hops": hops, "cold": first}
        yield result | _case(config, store, edge_types or store.edge_types, hops, store)


def bench_synth(config: SamplerBench, scales: list[float], scratch: Path | None) -> Iterator[dict[str, Any]]:
    """`bench_store` on synthetic stores of both layouts, made here."""
    from netgpt.cluster.bench.reference import build_synthetic

    for scale in scales:
        for layout in ("prefix", "csr"):
            with TemporaryDirectory(dir=scratch) as folder:
                path = Path(folder) / "store"
                build_synthetic(path, scale, layout=layout)
                yield from bench_store(config, path, f"synth-{scale}")


def _largest_relation(path: Path) -> tuple[EdgeType, str]:
    store = graphstore.open(str(path))
    # Of those that seeds have rows in
    ending = [e for e in store.edge_types if e[2] == store.schema.target]
    if not ending:
        raise SamplerError(f"{path}: found no relation that ends in {store.schema.target}, expected one")
    largest = max(ending, key=lambda e: store.num_edges[e])
    return largest, store.attributes["relations"][edge_name(largest)]["layout"]


def _options(graph: Graph, edge_types: tuple[EdgeType, ...], fanout: int, hops: int) -> SamplingOptions:
    others = set(graph.edge_types) - set(edge_types)
    return SamplingOptions(fanout=fanout, hops=hops, exclude=tuple(sorted(others)))


def _requests(graph: Graph, config: SamplerBench) -> list[Request]:
    """Random seeds, the same for all contestants."""
    num, rng = graph.num_nodes[graph.schema.target], np.random.default_rng(0)
    size = min(config.batch_size, num)
    return [Request(rng.choice(num, size, replace=False), 0) for _ in range(config.batches)]


def _count(
    batches: Iterator[MiniBatch], use: Callable[[MiniBatch], object] = lambda batch: None
) -> tuple[int, int]:
    num_edges = num_seeds = 0
    for batch in batches:
        use(batch)
        num_edges, num_seeds = num_edges + batch.num_edges, num_seeds + batch.num_seeds
    return num_edges, num_seeds


def _case(
    config: SamplerBench, graph: Graph, edge_types: tuple[EdgeType, ...], hops: int, store: Store | None
) -> dict[str, Any]:
    """All contestants on one set of relations. With a store also features, and Ray."""
    options = _options(graph, edge_types, config.fanout, hops)
    requests, cores = _requests(graph, config), len(os.sched_getaffinity(0))
    sampler = NeighborSampler.of(graph, options)
    engines: dict[str, SamplingEngine] = {"threads_1": sampler}
    for threads in sorted({2, cores, *(RAY_WORKERS if config.with_ray and store else ())} - {1}):
        engines[f"threads_{threads}"] = ThreadedEngine(sampler, threads=threads, prefetch=AHEAD * threads)
    local = _Contest({n: _stream(engine, requests) for n, engine in engines.items()})
    local.play(config.rounds)
    results = {name: local.result(name, len(requests[0].seeds)) for name in local.runs}
    for name in results.keys() - {"threads_1"}:
        results[name]["times_one_thread"] = local.ratio(name, "threads_1")

    some = requests[: max(1, len(requests) // 4)]
    others = _Contest({"threads_1": local.runs["threads_1"]})
    others.runs["edge_index"] = _stream(sampler, some, lambda batch: batch.edges)
    if store is not None and len(edge_types) > 1:
        gatherer = FeatureGatherer(store)
        others.runs["features"] = _stream(sampler, some, lambda batch: gatherer.gather(batch.nodes))
    with ExitStack() as stack:
        failed = (
            _add_peers(config, graph, edge_types, hops, requests, others, stack) if config.with_peers else {}
        )
        others.play(config.rounds)
    for name in others.runs.keys() - {"threads_1"}:
        results[name] = others.result(name, len(requests[0].seeds))
        results[name]["times_slower"] = others.ratio("threads_1", name)
    results |= {name: {"skipped": why} for name, why in failed.items()}
    del others  # and with it the peers' arrays
    if store is not None and config.with_ray:
        with ray_session(num_cpus=cores):
            from netgpt.cluster.workers.sampling import (
                RaySamplingEngine,
            )  # imports Ray, which must be configured first

            remote = _Contest()
            for num in RAY_WORKERS:
                remote.runs[f"threads_{num}"] = local.runs[f"threads_{num}"]
                workers = RaySamplingEngine(store, options, num_workers=num, prefetch=AHEAD * num)
                remote.runs[f"ray_{num}"] = _stream(workers, requests)
            remote.play(config.rounds)
            for num in RAY_WORKERS:
                name = f"ray_{num}"
                results[name] = remote.result(name, len(requests[0].seeds))
                results[name]["share_of_threads"] = remote.ratio(name, f"threads_{num}")
    return {
        "num_edges": sum(graph.relation(e).num_edges for e in edge_types),
        "fanout": config.fanout,
        "batch_size": len(requests[0].seeds),
        "edges_per_batch": _count(sampler.stream(requests[:4]))[0] // len(requests[:4]),
        **results,
        "machine": machine(),
    }


def _stream(
    engine: SamplingEngine, requests: list[Request], use: Callable[[MiniBatch], object] = lambda batch: None
) -> Callable[[], tuple[int, int]]:
    """A round: every batch of the requests, used and counted."""
    return lambda: _count(engine.stream(requests), use)


def _add_peers(
    config: SamplerBench,
    graph: Graph,
    edge_types: tuple[EdgeType, ...],
    hops: int,
    requests: list[Request],
    contest: _Contest,
    stack: ExitStack,
) -> dict[str, str]:
    """Let the installed peers take part; returns why others do not. stack: ends what was started."""
    import torch

    from netgpt.cluster.bench.peers import CsrArrays, available_memory, installed_peers

    torch.set_num_threads(1)
    arrays, failed = CsrArrays(graph), {}
    few = requests[: max(1, len(requests) // 8)]
    for name, make in installed_peers(arrays, list(edge_types), config.fanout, hops).items():
        if (needed := arrays.needed_bytes(list(edge_types))) + (2 << 30) > available_memory():
            failed[name] = f"its arrays need {needed / 1e9:.1f} GB more than there is"
            continue
        try:
            sample = make()
            sample(few[0].seeds)  # type: ignore[arg-type]
        except Exception as error:  # a peer of another version must not end the measurement
            failed[name] = f"{type(error).__name__}: {error}"
            continue
        contest.runs[name] = _peer(sample, few)
    if config.graphbolt:
        from netgpt.cluster.bench.graphbolt import GraphBolt

        peer = GraphBolt(
            config.graphbolt,
            graph,
            edge_types,
            lambda e: graph.relation(e).to_csr(np.int64),
            Path(stack.enter_context(TemporaryDirectory())),
            fanout=config.fanout,
            hops=hops,
        )
        stack.callback(peer.close)
        seeds = [request.seeds for request in few]
        num_seeds = sum(map(len, seeds))  # type: ignore[arg-type]
        contest.runs["graphbolt"] = lambda: (peer.sample(seeds), num_seeds)  # type: ignore[arg-type]
    return failed


def _peer(sample: Callable[[np.ndarray], int], requests: list[Request]) -> Callable[[], tuple[int, int]]:
    def run() -> tuple[int, int]:
        num_edges = sum(sample(request.seeds) for request in requests)  # type: ignore[arg-type, misc]
        return num_edges, sum(len(request.seeds) for request in requests)

    return run


def _cold(
    config: SamplerBench, path: Path, edge_types: tuple[EdgeType, ...] | None, hops: int
) -> dict[str, Any]:
    """First touch, in a process of its own: nothing of the relations is in memory."""
    with TemporaryDirectory() as folder:
        out = Path(folder) / "times.json"
        asked = {
            "path": str(path),
            "edge_types": edge_types,
            "fanout": config.fanout,
            "hops": hops,
            "batch_size": config.batch_size,
            "batches": config.batches,
        }
        code = "from netgpt.cluster.bench.sampler import cold_main; cold_main()"
        cost = measure(code, json.dumps(asked), out)
        if not cost.ok:
            return {"failed": True}
        return json.loads(out.read_text()) | {"peak_bytes": cost.peak_bytes}


def cold_main() -> None:
    """What `_cold` runs: sys.argv[1] says what to sample, sys.argv[2] where the times go."""
    asked = json.loads(sys.argv[1])
    NeighborSampler(DegreeGraph(10, 2), fanout=1).sample(np.arange(3))  # the kernel is loaded
    for file in Path(asked["path"], "edges").rglob("*"):
        if file.is_file():
            fd = os.open(file, os.O_RDONLY)
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(fd)
    store = graphstore.open(asked["path"])
    edge_types = tuple(tuple(e) for e in asked["edge_types"] or store.edge_types)
    config = SamplerBench(
        fanout=asked["fanout"],
        batch_size=asked["batch_size"],
        batches=asked["batches"],
        hops=(asked["hops"],),
    )
    sampler = NeighborSampler.of(store, _options(store, edge_types, config.fanout, asked["hops"]))
    times, num_edges = [], 0
    for request in _requests(store, config):
        start = time.perf_counter()
        num_edges += sampler.sample_flat(request).heads.size
        times.append(time.perf_counter() - start)
    result = {
        "first_batch_ms": 1e3 * times[0],
        "last_batch_ms": 1e3 * times[-1],
        "edges_per_s": num_edges / sum(times),
    }
    Path(sys.argv[2]).write_text(json.dumps(result))


def line(result: dict[str, Any]) -> str:
    """One result as text: millions of edges a second, and what the ratios are."""
    parts = [f"{result['graph']} {result['layout']}, {result['relations']}, {result['hops']} hops:"]
    for name, part in result.items():
        if not isinstance(part, dict) or name == "machine":
            continue
        if "edges_per_s" not in part:
            parts.append(f"{name} {part.get('skipped', 'failed')}")
            continue
        text = f"{name} {part['edges_per_s'] / 1e6:.1f} M/s"
        for key, label in (
            ("times_one_thread", "{:.2f} times one thread"),
            ("share_of_threads", "{:.0%} of threads"),
            ("times_slower", "{:.1f} times slower"),
            ("first_batch_ms", "first batch {:.0f} ms"),
        ):
            if key in part:
                text += f" ({label.format(part[key])})"
        if "batch_ms" in part and name == "threads_1":
            text += f" ({part['batch_ms']:.1f} ms a batch)"
        parts.append(text)
    return "\n  ".join(parts)
