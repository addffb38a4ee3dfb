"""Why a run answers as it does: what its answer for a node would lack without each thing that it reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import bar
from netgpt.cluster.scores import LanguageScores
from netgpt.graphstore import Graph, JoinedGraph
from netgpt.trainers.graph.exact import KeptStates, NewNodes, exact_scores
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import load_model
from netgpt.trainers.progress import no_progress
from netgpt.trainers.tasks.base import Task


@dataclass(frozen=True)
class Reason:
    """What an answer would lack without something."""

    kind: str
    """relation: the row does not hear it; neighbour: of a relation of the nearest one head; features: the
    row's own vector is zero; field: the prompt is without it."""
    name: str
    change: float
    """The answer less what it is without: of classes in the chance of the one that was answered."""


@dataclass(frozen=True)
class Explained:
    score: float | np.ndarray
    embedding: np.ndarray
    """[D]: of the graph model."""
    reasons: tuple[Reason, ...]
    """The largest change first."""


@dataclass(frozen=True)
class Explainer:
    """The models of a run, with the states that a graph's nodes have."""

    task: Task
    nodes: NewNodes
    language: LanguageScores | None = None

    @staticmethod
    def of(
        run: Run,
        graph: Graph,
        language: LanguageScores | None,
        mean_scores: list[list[float]] | None = None,
    ) -> Explainer:
        """graph: the run's store, or one that extends it. mean_scores: as `ExactInference` has them; default
        the graph's own. On the CPU: one exact inference."""
        cpu = torch.device("cpu")
        model = load_model(run.path / "stage1", run.store, run.task, cpu)
        tables = FeatureTables.of(graph, cpu, model.shape, max_bytes=0)
        kept = KeptStates.of(
            model,
            tables,
            memory_bytes=run.settings.graph.inference_bytes,
            progress=bar("embeddings", "relation"),
            scratch=run.scratch,
            mean_scores=mean_scores,
        )
        return Explainer(run.task, NewNodes(model, tables, kept), language)

    def explain(self, graph: JoinedGraph, name: str, document: tuple[str, str] | None = None) -> Explained:
        """For the one new node of a graph. name: its id; document: id and text of what prompts say of it,
        where a language model answers. TrainerError for one that is too long."""
        told, graphs = self._without(graph)
        h = np.concatenate(self.nodes.of(graphs))
        scores = exact_scores(self.nodes.model, h)
        if self.language is not None and document is not None:
            fields = self.language.document.fields
            there = json.loads(document[1])
            left_out = [i for i, field in enumerate(fields) if field.name in there]
            told += [("field", fields[i].name) for i in left_out]
            num, first = len(told) + 1, len(graphs)
            hidden = np.zeros((num, len(fields)), bool)
            hidden[np.arange(first, num), left_out] = True
            h = np.concatenate([h, np.repeat(h[:1], len(left_out), axis=0)])
            scores = np.concatenate([scores, np.repeat(scores[:1], len(left_out), axis=0)])
            prompts = self.language.tokens([document]) * num
            scores = self.language.of(prompts, h, scores, [name] * num, no_progress, hidden)
        values = self.task.said_values(scores, scores[0])
        changes = (values[0] - values[1:]).tolist()
        reasons = [Reason(kind, what, change) for (kind, what), change in zip(told, changes, strict=True)]
        return Explained(scores[0], h[0], tuple(sorted(reasons, key=lambda one: -abs(one.change))))

    def _without(self, graph: JoinedGraph) -> tuple[list[tuple[str, str]], list[JoinedGraph]]:
        """What is left out, and the graph, followed by the graph without each."""
        target, (node,) = graph.schema.target, graph.new.tolist()
        told: list[tuple[str, str]] = []
        graphs = [graph]
        for edge_type in self.nodes.model.shape.ending_in(target):
            heads = graph.relation(edge_type).neighbors(node)
            if not len(heads):
                continue
            told.append(("relation", edge_type[1]))
            graphs.append(graph.without_heads(edge_type))
            if graph.schema.relation_type(edge_type).rule == "nearest":
                names = graph.node_names(edge_type[0])
                for head in heads.tolist():
                    told.append(("neighbour", names[head]))
                    graphs.append(graph.without_heads(edge_type, [head]))
        if target in graph.schema.encoded_types and graph.features(target).gather(graph.new).any():
            told.append(("features", target))
            graphs.append(graph.without_features())
        return told, graphs


def as_json(reasons: Sequence[Reason]) -> list[dict[str, Any]]:
    return [{**asdict(one), "change": round(one.change, 6)} for one in reasons]
