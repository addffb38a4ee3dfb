"""The sampler once more, in plain Python over rows as lists: the oracle of the kernels; and small graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from netgpt.graphstore import EdgeType, Graph, Relation
from netgpt.graphstore.features import Features
from netgpt.graphstore.relations import from_indptr, group_relation
from netgpt.graphstore.schema import NodeType, RelationType, Schema
from netgpt.sampler import MiniBatch, SamplingOptions
from netgpt.sampler.kernels.generator import row_key

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def draws(key: int, v: int, degree: int, k: int, replace: bool) -> list[int]:
    """k numbers below degree for node v's row."""
    state = mix(key ^ mix((v * GOLDEN + 1) & MASK))

    def draw(i: int, bound: int) -> int:
        return ((mix((state + (i + 1) * GOLDEN) & MASK) >> 32) * bound) >> 32

    if replace:
        return [draw(i, degree) for i in range(k)]
    if k >= degree:
        return list(range(degree))
    chosen: list[int] = []
    for i in range(k):
        last = degree - k + i
        p = draw(i, last + 1)
        chosen.append(last if p in chosen else p)
    return chosen


def reference(
    graph: Graph,
    options: SamplingOptions,
    seeds: dict[str, list[int]],
    epoch: int,
    times: list[int] | None = None,
) -> dict[str, Any]:
    """What a batch must hold, as lists."""
    fanout = options.by_hop(graph).tolist()
    keys = [int(row_key(options.seed, epoch, e)) for e in graph.edge_types]
    flat = [(name, int(v)) for name in graph.node_types for v in seeds.get(name, [])]
    if options.temporal and times is None:
        times = [int(graph.times[name][v]) for name, v in flat]
    groups = [[i] for i in range(len(flat))] if options.is_disjoint else [list(range(len(flat)))]
    nodes: dict[str, list[int]] = {t: [] for t in graph.node_types}
    trees: dict[str, list[int]] = {t: [] for t in graph.node_types}
    place: list[dict[tuple[str, int], int]] = [{} for _ in groups]

    def position(s: int, name: str, v: int) -> int:
        if (name, v) not in place[s]:
            place[s][name, v] = len(nodes[name])
            nodes[name].append(v)
            trees[name].append(s)
        return place[s][name, v]

    for s, members in enumerate(groups):
        for i in members:
            position(s, *flat[i])
    counts = {t: [len(nodes[t])] for t in graph.node_types}
    heads: dict[EdgeType, list[int]] = {e: [] for e in graph.edge_types}
    degrees: dict[EdgeType, list[int]] = {e: [] for e in graph.edge_types}
    ids: dict[EdgeType, list[int]] = {e: [] for e in graph.edge_types}
    num_edges: dict[EdgeType, list[int]] = {e: [] for e in graph.edge_types}
    for hop in range(options.num_hops):
        frontier = {
            t: [(s, v) for s, v in zip(trees[t], nodes[t], strict=True)][sum(counts[t][:-1]) :]
            for t in graph.node_types
        }
        before = {t: len(nodes[t]) for t in graph.node_types}
        edges_before = {e: len(heads[e]) for e in graph.edge_types}
        for s in range(len(groups)):
            for r, edge_type in enumerate(graph.edge_types):
                src, _, dst = edge_type
                for v in [v for tree, v in frontier[dst] if tree == s]:
                    row = [(i, int(u)) for i, u in enumerate(graph.relation(edge_type).neighbors(v))]
                    if options.temporal and src in graph.times:
                        assert times is not None
                        limit = times[s]
                        strict = options.temporal == "<"
                        row = [
                            (i, u)
                            for i, u in row
                            if graph.times[src][u] < limit or (not strict and graph.times[src][u] == limit)
                        ]
                    k = fanout[hop][r]
                    drawn = options.replace and k >= 0 and bool(row)
                    k = k if drawn else len(row) if k < 0 else min(k, len(row))
                    for p in draws(keys[r], v, len(row), k, drawn):
                        heads[edge_type].append(position(s, src, row[p][1]))
                        ids[edge_type].append(int(graph.relation(edge_type).first_edge[v]) + row[p][0])
                    degrees[edge_type].append(k)
        for t in graph.node_types:
            counts[t].append(len(nodes[t]) - before[t])
        for e in graph.edge_types:
            num_edges[e].append(len(heads[e]) - edges_before[e])
    return {
        "nodes": nodes,
        "heads": heads,
        "degrees": degrees,
        "num_sampled_nodes": counts,
        "num_sampled_edges": num_edges,
        "trees": trees if options.is_disjoint else None,
        "edge_ids": ids if options.edge_ids else None,
    }


def as_lists(batch: MiniBatch) -> dict[str, Any]:
    """A batch in the form of the reference."""

    def lists(arrays: dict[Any, np.ndarray] | None) -> dict[Any, list[int]] | None:
        return None if arrays is None else {name: array.tolist() for name, array in arrays.items()}

    return {
        "nodes": lists(batch.nodes),
        "heads": lists(batch.heads),
        "degrees": lists(batch.degrees),
        "num_sampled_nodes": batch.num_sampled_nodes,
        "num_sampled_edges": batch.num_sampled_edges,
        "trees": lists(batch.trees),
        "edge_ids": lists(batch.edge_ids),
    }


def same_batch(a: MiniBatch, b: MiniBatch) -> bool:
    """Equal in all but features, bit for bit."""
    return a.epoch == b.epoch and as_lists(a) == as_lists(b)


class MemoryGraph(Graph):
    """Relations and times in memory; node i of every type has the feature i."""

    def __init__(
        self,
        num_nodes: dict[str, int],
        relations: list[Relation],
        times: dict[str, np.ndarray],
        groups: set[str],
    ) -> None:
        self.schema = Schema(
            target=next(iter(num_nodes)),
            node_types=tuple(NodeType(name=n, encoding="scalar") for n in num_nodes),
            relations=tuple(
                RelationType(edge_type=r.edge_type, group_by="key" if r.edge_type[1] in groups else None)
                for r in relations
            ),
        )
        self.num_nodes = num_nodes
        self._relations = {r.edge_type: r for r in relations}
        self._times = times

    @property
    def times(self) -> dict[str, np.ndarray]:
        return self._times

    def relation(self, edge_type: EdgeType) -> Relation:
        return self._relations[edge_type]

    def features(self, node_type: str) -> Features:
        num = self.num_nodes[node_type]
        return Features(num, np.arange(num, dtype=np.float32)[:, None], None)


def random_csr(
    rng: np.random.Generator, edge_type: EdgeType, num_src: int, num_dst: int, degree: float, dtype: Any
) -> Relation:
    """Rows of random lengths with repeated heads, as an edge list may have."""
    length = np.minimum(rng.geometric(1 / (degree + 1), num_dst) - 1, 200)
    indptr = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return from_indptr(edge_type, indptr, rng.integers(0, num_src, indptr[-1]).astype(dtype))


def one_each(
    rng: np.random.Generator, edge_type: EdgeType, num_src: int, num_dst: int, dtype: Any
) -> Relation:
    """A relation in which every node has one head."""
    return from_indptr(edge_type, np.arange(num_dst + 1), rng.integers(0, num_src, num_dst).astype(dtype))


def random_graph(seed: int, *, layout: str = "prefix") -> MemoryGraph:
    """Three node types; relations into two of them, of both layouts and widths, some with one head each."""
    rng = np.random.default_rng(seed)
    num = {"a": int(rng.integers(1, 120)), "b": int(rng.integers(1, 40)), "c": int(rng.integers(1, 300))}
    times = {"a": rng.integers(0, 30, num["a"]), "b": rng.integers(0, 30, num["b"])}
    key = rng.integers(-1, int(rng.integers(1, 6)), num["a"])
    group = group_relation(("a", "same_key", "a"), key, times["a"], strict=bool(rng.integers(2)))
    if layout == "csr":
        group = from_indptr(group.edge_type, *group.to_csr())
    relations = [
        random_csr(rng, ("b", "in", "a"), num["b"], num["a"], 3, np.int64),
        group,
        random_csr(rng, ("a", "of", "b"), num["a"], num["b"], 12, np.int32),
        random_csr(rng, ("c", "of", "b"), num["c"], num["b"], 1, np.int32),
        random_csr(rng, ("c", "in", "a"), num["c"], num["a"], 5, np.int64),
        one_each(rng, ("b", "is_one_of", "a"), num["b"], num["a"], np.int32),
        one_each(rng, ("a", "is_one_of", "b"), num["a"], num["b"], np.int64),
    ]
    return MemoryGraph(num, relations, times, {"same_key"})


def single_graph(num: int, heads: np.ndarray) -> MemoryGraph:
    """`num` tails with one head each."""
    relation = from_indptr(("m", "to", "n"), np.arange(num + 1), heads)
    return MemoryGraph({"n": num, "m": num}, [relation], {}, set())


def one_row_graph(degree: int, num_tails: int, layout: str) -> MemoryGraph:
    """`num_tails` tails that all have the heads 0 to degree − 1; the first ones stand in their own row."""
    edge_type, num = ("n", "to", "n"), degree + num_tails
    # The own nodes of a prefix row are among its heads: they are left out of it
    members = np.arange(degree + 1, dtype=np.int32)
    begin = np.zeros(num, np.int64)
    end = np.full(num, degree + 1)
    rank = np.full(num, degree, np.int32)  # the last member is every row's "own" one
    relation = Relation(edge_type, "prefix", members, begin, end, rank)
    if layout == "csr":
        relation = from_indptr(edge_type, *relation.to_csr())
    return MemoryGraph({"n": num}, [relation], {}, {"to"})


def rows_of(batch: MiniBatch, edge_type: tuple[str, str, str]) -> dict[int, list[int]]:
    """Sampled heads (node numbers, in order) of each expanded tail."""
    heads, tails = batch.edges[edge_type]
    src, dst = batch.nodes[edge_type[0]], batch.nodes[edge_type[2]]
    rows: dict[int, list[int]] = {}
    for h, t in zip(heads, tails, strict=True):
        rows.setdefault(int(dst[t]), []).append(int(src[h]))
    return rows
