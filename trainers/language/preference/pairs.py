"""Pairs of answers: how they are drawn, which is the better one, and how likely both were at the start.

    RUN/pairs/pairs.npz    node [P]; tokens, ends [P, 2]; errors [P, 2]; reference [P, 2]

Answers are drawn by (seed, node, draw, position), whatever else is in a pack and however many ranks there
are. Of two answers the one with the smaller error is chosen. There is no pair where one states no number,
where both are one text, or where their errors are equal.

Legend: P pairs; 2: the chosen, the rejected answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from netgpt.graphstore.files import atomic_file
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.preference.config import PreferConfig
from netgpt.trainers.language.preference.losses import pair_weights

FILE = "pairs.npz"
_ARRAYS = ("node", "tokens", "ends", "errors", "reference", "weights_of")


@dataclass(frozen=True)
class Pairs:
    node: np.ndarray
    """[P] int64: whose prompt it is; each once."""
    tokens: np.ndarray
    """Tokens of all answers, one behind the other."""
    ends: np.ndarray
    """[P, 2] int64: where each answer ends in `tokens`."""
    errors: np.ndarray
    """[P, 2] float64."""
    reference: np.ndarray
    """[P, 2] float64: log-probabilities under the weights that training starts from."""
    weights_of: str
    """Digest of those weights."""

    def __len__(self) -> int:
        return len(self.node)

    def answers(self, pair: int) -> list[np.ndarray]:
        """Tokens of the chosen and of the rejected answer, ends of turns among them."""
        begin = int(self.ends[pair - 1, 1]) if pair else 0
        middle, end = (int(one) for one in self.ends[pair])
        return [self.tokens[begin:middle], self.tokens[middle:end]]

    def weights(self, config: PreferConfig) -> np.ndarray:
        """Weight of each pair's penalty: [P] float64. TrainerError where there is none."""
        if config.loss != "idpop":
            return np.full(len(self), config.lam)
        try:
            return pair_weights(
                self.errors[:, 0],
                self.errors[:, 1],
                lam=config.lam,
                alpha=config.alpha,
                delta=config.delta,
                mu_max=config.mu_max,
            )
        except ValueError as error:
            raise TrainerError(f"prefer.loss: idpop: {error}") from None

    @staticmethod
    def of(node: np.ndarray, answers: Sequence[Sequence[np.ndarray]], errors: np.ndarray) -> Pairs:
        """Without a reference yet."""
        flat = [one for pair in answers for one in pair]
        ends = np.cumsum([len(one) for one in flat], dtype=np.int64).reshape(-1, 2)
        tokens = np.concatenate([np.empty(0, np.int64), *flat]).astype(np.int64)
        return Pairs(node, tokens, ends, errors, np.zeros((len(node), 2)), "")

    def save(self, path: Path) -> None:
        arrays = {name: np.asarray(getattr(self, name)) for name in _ARRAYS}
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]  # its typing takes names for options

    @staticmethod
    def load(path: Path) -> Pairs:
        """TrainerError for a file that is not there or none of pairs."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in _ARRAYS}
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise TrainerError(f"{path}: not a file of pairs ({error}); run again: netgpt pairs") from None
        return Pairs(**{**values, "weights_of": str(values["weights_of"])})
