"""What an ablation means for a graph: which relations and features a run does without."""

from __future__ import annotations

from dataclasses import dataclass

from netgpt.graphstore import EdgeType, Schema
from netgpt.trainers.config import AblationConfig
from netgpt.trainers.errors import require


@dataclass(frozen=True)
class Without:
    relations: frozenset[EdgeType]
    """Left out, in sampling and in the model."""
    features: frozenset[str]
    """Node types whose features are the zero vector."""

    @staticmethod
    def of(schema: Schema, name: str, ablation: AblationConfig) -> Without:
        """TrainerError where the schema lacks a type that the ablation `name` names."""
        types = {n.name for n in schema.node_types}
        missing = [t for t in (*ablation.types, *ablation.features) if t not in types]
        require(not missing, "without", name, f"one for a graph without {', '.join(missing)}")
        return Without(
            frozenset(e for e in schema.edge_types if e[0] in ablation.types), frozenset(ablation.features)
        )
