"""Settings of the recommender's stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from netgpt.trainers.config import StageConfig
from netgpt.trainers.errors import require


@dataclass(frozen=True, kw_only=True)
class ShlConfig:
    """Of the model `shl` alone."""

    hyperedges: int = 64
    """Hyperedges of each modality; 0: without the global encoder."""
    contrast: float = 0.01
    """Weight of the contrastive loss; 0: without it."""
    temperature: float = 0.2
    """Of the contrastive loss."""
    dropout: float = 0.5
    """Share of the hypergraph's entries that are zero in a step."""
    gate: str = "outside"
    """outside: beside the softmax; inside: in it; none: without the gate."""
    attention: bool = True
    """Without: all neighbours weigh the same."""
    users: str = "mean"
    """What users' hyperedges are: mean, that of their items; own, by weights of their own."""
    inputs: str = "own"
    """What a user's input of a modality is: own, a vector that is learnt; mean, that of its items' inputs."""
    scale: str = "plain"
    """Of a modality's inputs: plain, as they come; unit, rows of length 1, those of items by tanh before."""
    combine: str = "last"
    """What local states are: last, those of the last layer; mean, of all layers."""
    message_dropout: float = 0.0
    """Share of the messages' numbers that are zero in a step."""
    fusion: str = "gated"
    """gated: modalities side by side, each number by a gate; softmax: their sum, weighted by an MLP."""
    residual: str = "inner"
    """Where the residual is rectified: inner, without the ID embedding; outer, with it."""

    def __post_init__(self) -> None:
        require(self.hyperedges >= 0, "recommender.shl.hyperedges", self.hyperedges, "at least 0")
        require(self.contrast >= 0, "recommender.shl.contrast", self.contrast, "at least 0")
        require(self.temperature > 0, "recommender.shl.temperature", self.temperature, "above 0")
        for name in ("dropout", "message_dropout"):
            share = getattr(self, name)
            require(0 <= share < 1, f"recommender.shl.{name}", share, "a share from 0, below 1")
        choices = {
            "gate": ("outside", "inside", "none"),
            "users": ("mean", "own"),
            "inputs": ("own", "mean"),
            "scale": ("plain", "unit"),
            "combine": ("last", "mean"),
            "fusion": ("gated", "softmax"),
            "residual": ("inner", "outer"),
        }
        for name, known in choices.items():
            value = getattr(self, name)
            require(value in known, f"recommender.shl.{name}", value, f"one of {', '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class RecommenderConfig:
    """A model of users and items, trained on pairs."""

    model: str = "lightgcn"
    """bpr, lightgcn, ngcf, sage, mmgcn, acf, sasrec, shl, or package.module:Name."""
    width: int = 64
    """Of embeddings."""
    layers: int = 3
    """How far a model looks, where it is one of layers; of sasrec its blocks."""
    neighbors: str = "all"
    """all: a step is over the whole graph; sampled: over a sample around its pairs (bpr and lightgcn)."""
    fanout: int = 20
    """Neighbours sampled a hop; −1: all."""
    modalities: list[str] = field(default_factory=list)
    """What models of modalities read of the items; none: all that there are."""
    features: bool = True
    """Without: a learnt table in place of each modality's features."""
    negatives: str = "uniform"
    """What an item is set against: uniform, any that the user has not; degree, by its pairs to the power
    0.75; earlier, any that somebody took before, where pairs have times."""
    epochs: int = 200
    """At most; early stopping may end before."""
    patience: int = 20
    """Epochs without a better validation NDCG before training stops."""
    batch_size: int = 2048
    """Pairs of a step, over all ranks."""
    lr: float = 1e-3
    """Learning rate, after a linear warm-up constant."""
    warmup: float = 0.0
    """Share of all steps in which it rises to that."""
    penalty: float = 1e-4
    """Of half the squared norms of a step's own embeddings, divided by its pairs."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    dropout: float = 0.1
    """Share of the states that are zero in a step, of ngcf, sage and sasrec."""
    max_history: int = 50
    """Items of a user, the latest, that sasrec reads."""
    checkpoint_steps: int = 500
    """Steps between checkpoints; there is one at the end of every epoch too."""
    shl: ShlConfig = field(default_factory=ShlConfig)

    def __post_init__(self) -> None:
        for name in ("width", "epochs", "patience", "batch_size", "max_history", "checkpoint_steps"):
            require(getattr(self, name) >= 1, f"recommender.{name}", getattr(self, name), "at least 1")
        require(self.layers >= 0, "recommender.layers", self.layers, "at least 0")
        require(0 < self.lr < math.inf, "recommender.lr", self.lr, "above 0")
        require(0 <= self.warmup <= 1, "recommender.warmup", self.warmup, "a share from 0 to 1")
        require(0 <= self.penalty < math.inf, "recommender.penalty", self.penalty, "at least 0")
        require(0 < self.clip < math.inf, "recommender.clip", self.clip, "above 0")
        require(0 <= self.dropout < 1, "recommender.dropout", self.dropout, "a share from 0, below 1")
        require(
            self.neighbors in ("all", "sampled"), "recommender.neighbors", self.neighbors, "all or sampled"
        )
        require(self.fanout >= 1 or self.fanout == -1, "recommender.fanout", self.fanout, "at least 1, or -1")
        known = ("uniform", "degree", "earlier")
        require(
            self.negatives in known, "recommender.negatives", self.negatives, "uniform, degree or earlier"
        )


@dataclass(frozen=True, kw_only=True)
class RerankConfig(StageConfig):
    """The language model's own word on what the recommender ranks first."""

    section: ClassVar[str] = "rerank"

    history: int = 20
    """Items of train that a prompt shows of a user: those before the one that is asked about, the latest."""
    cases: int = 5
    """Train pairs of a user that are asked about, at most: the latest."""
    max_cases: int = 20_000
    """Train pairs that are asked about, at most, and users of validation; users are drawn by a hash."""
    characters: int = 200
    """Of each text of an item, at most; of a prompt that is too long all the same the earliest items go."""
    layers: int = 4
    """Last decoder layers that are trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("history", "cases", "max_cases", "characters", "layers"):
            self.require(getattr(self, name) >= 1, name, "at least 1")
