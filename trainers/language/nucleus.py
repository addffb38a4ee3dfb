"""Answers of a model at random, by what they are of alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netgpt.graphstore.mixing import seed_of
from netgpt.trainers.config import DrawConfig


@dataclass(frozen=True)
class Nucleus:
    """Draws of a model's answers: the `top_k` likeliest tokens, of them those that have the share `top_p`
    together, by their probabilities at a temperature. (Holtzman et al., "The Curious Case of Neural Text
    Degeneration".) By (seed, key, node, draw, position): the same whatever else is in a pack."""

    config: DrawConfig
    nodes: np.ndarray
    """Node of each sample."""
    seed: int
    num: int
    """Draws of each sample."""
    key: str = "pairs"
    """What they are for."""

    def token(self, logits_V: np.ndarray, sample: int, draw: int, position: int) -> int:
        config = self.config
        num = min(config.top_k, int(np.isfinite(logits_V).sum()))
        likely = np.argsort(-logits_V, kind="stable")[:num]
        scaled = logits_V[likely].astype(np.float64) / config.temperature
        p = np.exp(scaled - scaled.max())
        p /= p.sum()
        kept = int(np.searchsorted(np.cumsum(p), config.top_p)) + 1
        p = p[:kept] / p[:kept].sum()
        key = seed_of(self.seed, self.key, int(self.nodes[sample]), draw, position)
        chosen = int(np.searchsorted(np.cumsum(p), np.random.default_rng(key).random(), side="right"))
        return int(likely[min(chosen, kept - 1)])
