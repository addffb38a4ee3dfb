"""The paper's ablations of the graph: which relations and features a run does without."""

from __future__ import annotations

from dataclasses import dataclass

from netgpt.graphstore import EdgeType, Graph
from netgpt.trainers.errors import require

INFLUENCE_TYPES = ("ctime", "fans", "likes", "comments", "shares", "views", "collects")


@dataclass(frozen=True)
class Ablation:
    relations: frozenset[EdgeType]
    """Left out, in sampling and in the model."""
    features: frozenset[str]
    """Node types whose features are the zero vector."""

    @staticmethod
    def of(graph: Graph, name: str) -> Ablation:
        """none, V (video features), VV (video–video relations), IV (ctime and counters), CV (comments)."""
        target = graph.schema.target
        heads = {"VV": (target,), "IV": INFLUENCE_TYPES, "CV": ("comment",)}.get(name, ())
        missing = [h for h in heads if h not in graph.node_types]
        require(not missing, "graph.ablation", name, f"one for a graph without {', '.join(missing)}")
        return Ablation(
            frozenset(e for e in graph.edge_types if e[0] in heads),
            frozenset([target] if name == "V" else []),
        )
