"""What is nearest, by the definition; and small graphs to find it in."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st

from netgpt.graphstore.features import Features
from netgpt.graphstore.relation_types import Nearest, Part
from netgpt.graphstore.relations import Relation
from netgpt.graphstore.schema import Column, EdgeType, NodeType, Schema
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


EDGE = ("film", "is_similar_to", "film")


class Made(Graph):
    """Nodes in memory, with one type for each array of vectors."""

    def __init__(self, *vectors: np.ndarray, **columns: Any) -> None:
        num = len(vectors[0])
        kinds = {"time": "time", "part": "category", "series": "category"}
        own = tuple(Column(name, kinds[name]) for name in columns)  # type: ignore[arg-type]
        more = [
            NodeType(name=f"view{i}", encoding="given", inputs=("x",), origin="each", of="film")
            for i in range(1, len(vectors))
        ]
        film = NodeType(name="film", encoding="given", inputs=("x",), columns=own)
        self.schema = Schema(target="film", node_types=(film, *more), relations=())
        self.num_nodes = {n.name: num for n in self.schema.node_types}
        self._vectors = dict(zip(self.num_nodes, vectors, strict=True))
        self._columns = columns

    def features(self, node_type: str) -> Features:
        return Features(self.num_nodes[node_type], self._vectors[node_type], None)

    def column(self, node_type: str, name: str) -> np.ndarray:
        return np.asarray(self._columns[name])

    def category(self, node_type: str, name: str) -> tuple[np.ndarray, list[str]]:
        codes = np.asarray(self._columns[name])
        return codes, [f"v{i}" for i in range(int(codes.max(initial=-1)) + 1)]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Made, Nearest]:
    """Few values, so that there are copies, zeros and ties everywhere."""
    num, num_views = draw(st.integers(1, 24)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    views = [rng.integers(-1, 2, (num, draw(st.integers(1, 4)))).astype(np.float16) for _ in range(num_views)]
    columns: dict[str, Any] = {}
    if draw(st.booleans()):
        columns["time"] = rng.integers(0, 5, num)
    if draw(st.booleans()):
        columns["series"] = rng.integers(-1, 4, num)
    if draw(st.booleans()):
        columns["part"] = np.r_[0, rng.integers(-1, 3, num - 1)]
    graph = Made(*views, **columns)
    nearest = Nearest(
        by=tuple(graph.num_nodes),
        k=draw(st.integers(1, 6)),
        time="time" if "time" in columns else "",
        apart="series" if "series" in columns else "",
        bank=Part(column="part", value="v0") if "part" in columns else None,
    )
    return graph, nearest
