"""What is nearest, by the definition."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from netgpt.graphstore.relation_types import Nearest, Part
from netgpt.graphstore.relations import Relation
from netgpt.graphstore.schema import EdgeType
from netgpt.graphstore.store import Graph

Row = list[tuple[int, float]]
"""Heads and their scores."""


def in_bank(graph: Graph, node_type: str, bank: Part, u: int) -> bool:
    if bank.until is not None:
        return bool(graph.column(node_type, bank.column)[u] < bank.until)
    codes, values = graph.category(node_type, bank.column)
    return bool(codes[u] >= 0 and values[codes[u]] == bank.value)


def plain(graph: Graph, edge_type: EdgeType, nearest: Nearest) -> list[Row]:
    """The rows by the definition, each inner product in exact arithmetic of the float32 unit vectors."""
    dst = edge_type[2]
    num = graph.num_nodes[dst]
    parts = [graph.features(name).gather(np.arange(num)) for name in nearest.by]
    vectors = []
    for v in range(num):
        whole: list[Fraction] = []
        for part in parts:
            row = part[v].astype(np.float64)
            length = np.sqrt(sum(float(one) ** 2 for one in row))
            scale = len(parts) ** -0.5 / length if length else 0.0
            whole += [Fraction(float(np.float32(one * scale))) for one in row]
        vectors.append(whole)
    rows = []
    for v in range(num):
        found = []
        for u in range(num):
            ok = u != v and any(vectors[u]) and any(vectors[v])
            if nearest.time:
                times = graph.column(dst, nearest.time)
                ok &= bool(times[u] < times[v])
            if nearest.bank is not None:
                ok &= in_bank(graph, dst, nearest.bank, u)
            if ok:
                score = sum(a * b for a, b in zip(vectors[u], vectors[v], strict=True))
                time = int(graph.column(dst, nearest.time)[u]) if nearest.time else 0
                found.append((-score, -time, u))
        row: Row = []
        series = graph.category(dst, nearest.apart)[0] if nearest.apart else np.full(num, -1)
        there = {int(series[v])} - {-1}
        for score, _, u in sorted(found):
            if len(row) < nearest.k and int(series[u]) not in there:
                row.append((u, float(-score)))
                there |= {int(series[u])} - {-1}
        rows.append(row)
    return rows


def equal(made: Relation, expected: list[Row]) -> None:
    assert made.num_dst == len(expected)
    for v, row in enumerate(expected):
        assert made.neighbors(v).tolist() == [u for u, _ in row], v
        scores = made.numbers["score"][made.begin[v] : made.end[v]]
        np.testing.assert_allclose(scores, [score for _, score in row], rtol=0, atol=1e-7)
