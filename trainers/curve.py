"""The training curve over the steps as trained: loss, and where scores are known errors by group.

The errors are of the scores that training itself computes, so they cost nothing and see each example as
the step saw it: before its update, with dropout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from netgpt.trainers.tasks.base import Task


@dataclass(frozen=True)
class Groups:
    """A group of examples for each name: codes [N] by node number, −1 for none. key: their name together."""

    codes: np.ndarray
    names: Sequence[str]
    key: str = ""


NO_GROUPS = Groups(np.empty(0, np.int32), [])


def group_sums(
    task: Task, groups: Groups, nodes: np.ndarray, scores: np.ndarray, truth: np.ndarray
) -> np.ndarray:
    """[G, 3] float64: by group the number of examples, of right answers, and the sum of squared errors."""
    code = np.asarray(groups.codes)[nodes]
    known = code >= 0
    error = (task.reported(scores) - truth)[known]
    right = (task.answers(scores) == truth)[known]
    num = len(groups.names)
    columns = (np.ones(len(error)), right.astype(np.float64), error**2)
    return np.stack([np.bincount(code[known], c, num) for c in columns], axis=1)


@dataclass
class Curve:
    """Points so far, and the sums of the point that is being made. All of it is JSON."""

    points: list[dict[str, Any]] = field(default_factory=list)
    num_steps: int = 0
    loss: float = 0.0
    sums: list[list[float]] = field(default_factory=list)
    watched: dict[str, float] = field(default_factory=dict)

    def add(self, loss: float, sums: np.ndarray, watched: Mapping[str, float] | None = None) -> None:
        """One step: its mean loss, the sums of all ranks as `group_sums` gives them, and means that are
        watched, by name."""
        self.num_steps, self.loss = self.num_steps + 1, self.loss + loss
        for name, value in (watched or {}).items():
            self.watched[name] = self.watched.get(name, 0.0) + value
        self.sums = (np.array(self.sums or np.zeros_like(sums)) + sums).tolist()

    def close(self, step: int, lr: float, groups: Groups) -> dict[str, Any] | None:
        """End the point at `step`, the number of steps that were made; the point, if there is one."""
        if not self.num_steps:
            return None
        point: dict[str, Any] = {"step": step, "lr": lr, "loss": self.loss / self.num_steps}
        point |= {name: total / self.num_steps for name, total in self.watched.items()}
        if groups.names:
            table = np.array(self.sums)
            point |= _rates(table.sum(0))
            point[groups.key] = {
                name: _rates(row) for name, row in zip(groups.names, table, strict=True) if row[0]
            }
        self.points.append(point)
        self.num_steps, self.loss, self.sums, self.watched = 0, 0.0, [], {}
        return point


def _rates(row: np.ndarray) -> dict[str, float]:
    num = max(float(row[0]), 1.0)
    return {"train_acc": float(row[1]) / num, "train_mse": float(row[2]) / num, "num": int(row[0])}
