"""Settings of the stage `multimodal`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from netgpt.trainers.errors import require

PARTS = ("RE", "Neg", "Pos", "V", "T")
"""What MMRA can do without, as the paper calls it: retrieval, negative and positive attention, a modality."""


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig:
    """A model of an example's pictures and texts, and of its retrieved neighbours' with their labels."""

    model: str = "mmra"
    """mmra, mmra-released, cban, clstm, hmmved, massl or tmall; or package.module:Name."""
    visual: str = ""
    """Type whose features are the pictures: the target, or one with a node for each of it. Empty: none."""
    visual_tokens: int = 10
    """Frames of a picture's features: [frames, width] one behind the other; rows of zeros are none."""
    text: str = ""
    """Type whose features are the texts; empty: none."""
    text_tokens: int = 1
    """Words of a text's features, alike."""
    relation: str = ""
    """Relation of the retrieved neighbours; empty: the one that there is."""
    k: int = 10
    """Neighbours that are read, the most alike."""
    labels: str = "train"
    """Whose labels are read: train: those of neighbours that are train examples; all: leaks, for tests
    alone."""
    known_from: str = ""
    """Time column from which a neighbour's label counts as known; with `known_days`. Empty: always."""
    known_days: float = 0.0
    """Days after it until the label is final; it is read by examples that came to be no sooner than that."""
    over: str = ""
    """ridge: the model learns what a ridge regression on the target's texts leaves, and is added to it; its
    errors on train are those of regressions that have not seen them. Empty: all of the label."""
    without: list[str] = field(default_factory=list)
    """Of RE (retrieval), Neg, Pos (attention), V, T (modalities): what the model does without."""
    width: int = 768
    """Hidden width."""
    alpha: float = 0.6
    """Share of the positive attention."""
    share_branches: bool = False
    """One network for an example and its neighbours, and not one for each."""
    epochs: int = 100
    """Passes over the train examples, at most."""
    patience: int = 20
    """Epochs without a better validation before training stops."""
    select: str = "best"
    """best: keep the weights of the epoch that validation judges best; last: the last's."""
    batch_size: int = 64
    """Examples of a step, of all workers together."""
    lr: float = 1e-4
    """Learning rate."""
    weight_decay: float = 0.0
    """Decoupled (AdamW)."""
    dropout: float = 0.0
    """Share of the joined vector's numbers that are zero in a step."""
    clip: float = 10.0
    """Largest norm of the gradient."""
    checkpoint_steps: int = 500
    """Steps between checkpoints; there is one at the end of every epoch too."""

    def __post_init__(self) -> None:
        whole = ("visual_tokens", "text_tokens", "k", "width", "epochs", "patience", "batch_size")
        for name in (*whole, "checkpoint_steps"):
            require(getattr(self, name) >= 1, f"multimodal.{name}", getattr(self, name), "at least 1")
        for name in ("lr", "clip"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"multimodal.{name}", value, "above 0")
        require(0 <= self.weight_decay < math.inf, "multimodal.weight_decay", self.weight_decay, "from 0")
        require(0 <= self.dropout < 1, "multimodal.dropout", self.dropout, "a share from 0, below 1")
        require(0 <= self.alpha <= 1, "multimodal.alpha", self.alpha, "a share from 0 to 1")
        require(0 <= self.known_days < math.inf, "multimodal.known_days", self.known_days, "days from 0")
        column = "a column in multimodal.known_from, which they are counted from"
        ok = not self.known_days or bool(self.known_from)
        require(ok, "multimodal.known_days", self.known_days, column)
        for part, name in (("V", "visual"), ("T", "text")):
            ok = part not in self.without or bool(getattr(self, name))
            require(ok, "multimodal.without", self.without, f"{part} only beside multimodal.{name}")
        known = ", ".join(PARTS)
        require(set(self.without) <= set(PARTS), "multimodal.without", self.without, f"some of {known}")
        both = not {"Neg", "Pos"} <= set(self.without)
        require(both, "multimodal.without", self.without, "Neg or Pos, not both")
        require(self.over in ("", "ridge"), "multimodal.over", self.over, "ridge, or nothing")
        require(self.select in ("best", "last"), "multimodal.select", self.select, "best or last")
        require(self.labels in ("train", "all"), "multimodal.labels", self.labels, "train or all")
