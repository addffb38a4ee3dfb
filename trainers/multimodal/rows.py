"""Examples as tensors: their modalities, and those and the labels of what was retrieved for them.

A row's first k heads count, weighed by the softmax of their scores. Labels are those of train examples that
were known before the example's own time: of others the features alone are read, and the weights of those that
are known are divided by their sum.

Shape suffixes: N nodes, B examples, K heads of a row, T tokens, D width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from netgpt.graphstore import EdgeType, Graph, edge_name
from netgpt.graphstore.features import DAY_S, Features
from netgpt.graphstore.relation_types import SCORE
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.base import TEXT, VISUAL, ModalBatch, Retrieved, Shape
from netgpt.trainers.tasks.base import Examples
from netgpt.trainers.tasks.baselines import nearest_types


def nearest_of(graph: Graph, config: MultimodalConfig) -> EdgeType | None:
    """The relation of retrieved neighbours of the target; None where the graph has none and none is named.
    TrainerError for a name that it has not, and where there are several."""
    found = nearest_types(graph)
    there = ", ".join(e[1] for e in found) or "none: build it with nearest neighbours"
    if config.relation:
        named = [e for e in found if config.relation in (e[1], edge_name(e))]
        require(bool(named), "multimodal.relation", config.relation, f"one of {there}")
        return named[0]
    require(len(found) < 2, "multimodal.relation", "no name", f"one of {there}")
    return found[0] if found else None


class ModalRows:
    """What a model reads of a graph's target."""

    def __init__(self, graph: Graph, config: MultimodalConfig, examples: Examples, *, near: bool) -> None:
        """near: neighbours are read. TrainerError for types without features, for features that are no whole
        tokens, and for neighbours that there are not."""
        self.graph, self.config = graph, config
        self._features: dict[str, tuple[Features, int]] = {}
        for name, part, node_type, tokens in (
            (VISUAL, "V", config.visual, config.visual_tokens),
            (TEXT, "T", config.text, config.text_tokens),
        ):
            if node_type and part not in config.without:
                self._features[name] = (self._tokens(name, node_type, tokens), tokens)
        found = f"visual {config.visual or 'none'}, text {config.text or 'none'}"
        expected = "a type with features in multimodal.visual or multimodal.text"
        require(bool(self._features), "multimodal", found, expected)
        self.edge_type = nearest_of(graph, config) if near else None
        require(
            not near or self.edge_type is not None,
            "multimodal.model",
            config.model,
            "a model without neighbours, or without: [RE], or a graph with a relation of what is nearest",
        )
        if self.edge_type is not None:
            self._relation = graph.relation(self.edge_type)
            self._labels = self._known_labels(examples)
            self._final = self._finals()

    @property
    def types(self) -> tuple[str, ...]:
        """Types whose features are read."""
        named = {VISUAL: self.config.visual, TEXT: self.config.text}
        return tuple(named[modality] for modality in self._features)

    def _tokens(self, name: str, node_type: str, tokens: int) -> Features:
        schema = self.graph.schema
        ok = node_type in schema.encoded_types and schema.is_numbered_as(node_type, schema.target)
        known = [one for one in schema.encoded_types if schema.is_numbered_as(one, schema.target)]
        require(ok, f"multimodal.{name}", node_type, f"one of {', '.join(known) or 'none'}")
        features = self.graph.features(node_type)
        whole = features.dim % tokens == 0
        require(whole, f"multimodal.{name}_tokens", tokens, f"a part of the width {features.dim}")
        frames = _frames_of(self.graph, node_type)
        require(frames in (0, tokens), f"multimodal.{name}_tokens", tokens, f"{frames}, the frames there are")
        return features

    def _known_labels(self, examples: Examples) -> np.ndarray:
        """[N] float64, NaN where no neighbour's label may be read."""
        if self.config.labels == "all":
            return examples.truth
        labels = np.full(len(examples.truth), np.nan)
        labels[examples.train] = examples.truth[examples.train]
        return labels

    def _finals(self) -> tuple[np.ndarray, np.ndarray] | None:
        """When each node's label is final, and its own time: [N] int64 seconds each."""
        config, target = self.config, self.graph.schema.node_type(self.graph.schema.target)
        if not config.known_from:
            return None
        expected = f"a time column of {target.name}, which has a time itself"
        column = target.column_named(config.known_from)
        ok = bool(target.time) and column is not None and column.kind == "time"
        require(ok, "multimodal.known_from", config.known_from, expected)
        after = np.asarray(self.graph.column(target.name, config.known_from), np.int64)
        own = np.asarray(self.graph.column(target.name, target.time), np.int64)
        return after + int(config.known_days * DAY_S), own

    def shape(self, outputs: int) -> Shape:
        return Shape({m: features.dim // tokens for m, (features, tokens) in self._features.items()}, outputs)

    def batch(self, nodes: np.ndarray, device: torch.device | None = None) -> ModalBatch:
        """Some nodes of the target [B]. TrainerError for features that are not finite."""
        x = {m: torch.from_numpy(self._gather(m, nodes)).to(device) for m in self._features}
        return ModalBatch(x, None if self.edge_type is None else self._near(nodes, device))

    def _gather(self, modality: str, nodes: np.ndarray) -> np.ndarray:
        features, tokens = self._features[modality]
        x = features.gather(nodes).astype(np.float32)
        if not np.isfinite(x).all():
            row = int(np.argmin(np.isfinite(x).reshape(len(x), -1).all(axis=1)))
            raise TrainerError(
                f"node {nodes[row]}: {modality}: found a number that is not finite, expected vectors"
            )
        return x.reshape(len(nodes), tokens, -1)

    def weights(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Heads [B, K] int64, their weights [B, K] float64, and the weights of the labels that may be
        read."""
        relation, k = self._relation, self.config.k
        begin, end = np.asarray(relation.begin[nodes]), np.asarray(relation.end[nodes])
        there = np.arange(k) < np.minimum(end - begin, k)[:, None]
        places = np.where(there, begin[:, None] + np.arange(k), 0)
        empty = not len(relation.indices)
        heads = np.zeros_like(places) if empty else np.asarray(relation.indices[places], np.int64)
        scores = np.zeros(places.shape) if empty else np.asarray(relation.numbers[SCORE][places], np.float64)
        weights = np.where(there, np.exp(scores), 0.0)  # scores are at most 1
        known = there & ~np.isnan(self._labels[heads])
        if self._final is not None:
            final, own = self._final
            known &= final[heads] <= own[nodes][:, None]  # final by then, to the second
        return heads, _shares(weights), _shares(np.where(known, weights, 0.0))

    def _near(self, nodes: np.ndarray, device: torch.device | None) -> Retrieved:
        heads, weights, of_labels = self.weights(nodes)
        near: Mapping[str, torch.Tensor] = {
            m: torch.from_numpy(self._mixed(m, heads, weights)).to(device) for m in self._features
        }
        labels = np.where(of_labels > 0, np.nan_to_num(self._labels[heads]), 0.0)
        return Retrieved(
            near,
            torch.from_numpy(weights.any(axis=1)).to(device),
            torch.from_numpy((labels * of_labels).sum(axis=1).astype(np.float32)).to(device),
            torch.from_numpy(of_labels.any(axis=1)).to(device),
        )

    def _mixed(self, modality: str, heads: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """The heads' tokens, weighed and summed, place by place: [B, T, D] float32. A head counts at the
        places where it has a token."""
        x_BKTD = self._gather(modality, heads.ravel()).reshape(*heads.shape, self._features[modality][1], -1)
        shares_BKT = _shares(np.where(x_BKTD.any(axis=-1), weights[..., None], 0.0))
        return np.asarray(np.einsum("bkt,bktd->btd", shares_BKT.astype(np.float32), x_BKTD))


def _shares(weights: np.ndarray) -> np.ndarray:
    """Weights [B, K, …] divided by their sums over heads; zeros stay."""
    total = weights.sum(axis=1, keepdims=True)
    return np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)


def _frames_of(graph: Graph, node_type: str) -> int:
    """Frames of a type whose features an encoder of frames made, as its name says; 0 for others."""
    attributes: Mapping[str, Any] = getattr(graph, "attributes", {})
    name = str(attributes.get("encoders", {}).get("video", ""))
    said = re.search(r"/(\d+)frames/", name)
    is_video = graph.schema.node_type(node_type).encoding == "video"
    return int(said[1]) if said and is_video else 0
