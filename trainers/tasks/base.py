"""The contract of a task. It knows no model, no data set's names beyond its settings, and no Ray.

Legend: N nodes of the target type, n examples of some, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.graphstore import Graph
from netgpt.graphstore.files import Json
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.tasks.baselines import Baseline, Measures

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

PARTS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Train period and test period, by a time column of the target."""

    column: str = "time"
    """Column of the target with seconds since 1970."""
    until: str = ""
    """Last day of the train period, YYYY-MM-DD; later examples are test."""
    utc_offset_h: float = 0.0
    """Hours that the day's clock is ahead of UTC."""

    def __post_init__(self) -> None:
        require(abs(self.utc_offset_h) <= 14, "task.split.utc_offset_h", self.utc_offset_h, "-14 to 14")
        if self.until:
            self.end_s()

    def end_s(self) -> int:
        """First second behind the train period, seconds since 1970."""
        zone = timezone(timedelta(hours=self.utc_offset_h))
        try:
            day = datetime.strptime(self.until, "%Y-%m-%d").replace(tzinfo=zone)
        except ValueError:
            raise TrainerError(
                f"task.split.until: found {self.until!r}, expected a date YYYY-MM-DD"
            ) from None
        return int((day + timedelta(days=1)).timestamp())


@dataclass(frozen=True, kw_only=True)
class WordsConfig:
    """What a prompt asks and how an answer begins. The answer itself is the task's."""

    request: str = "Please read the following information in JSON and predict its label: "
    """What stands before the document in a prompt."""
    response: str = "The label is "
    """What stands before the answer in a response."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is asked, of which examples, and in which words."""

    name: str = "rating"
    """A task of the table, or package.module:Name."""
    label: str = "label"
    """Number column of the target type that is asked for."""
    val_share: float = 0.15
    """Share of the train examples, the latest by the split's column, that is held out for validation."""
    split: SplitConfig = field(default_factory=SplitConfig)
    words: WordsConfig = field(default_factory=WordsConfig)

    def __post_init__(self) -> None:
        require(0 < self.val_share < 1, "task.val_share", self.val_share, "a share between 0 and 1")


@dataclass(frozen=True)
class Examples:
    """Nodes with a known label by part, and the label of every node."""

    node_type: str
    truth: np.ndarray
    """[N] float64 by node number, NaN where it is not known."""
    train: np.ndarray
    """[n] int64 node numbers, ascending; so are val and test, and the three are disjoint."""
    val: np.ndarray
    test: np.ndarray

    def named(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "val": self.val, "test": self.test}


@dataclass(frozen=True)
class Metric:
    """A figure of a task: its name in metrics, its name for people, what it is, which way is better."""

    name: str
    title: str
    meaning: str
    larger_is_better: bool = False


class Task:
    """What is asked of the nodes of one type. Subclasses are the tasks of the table, and any guest."""

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    noun: ClassVar[str] = "answer"
    """What an answer is called: level, class, …"""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    chooses: ClassVar[str] = ""
    """Name of the metric by which the best epoch is chosen; smaller is better."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    # Examples

    def examples(self, graph: Graph) -> Examples:
        """Examples by part. TrainerError where the label or the split's column is not there, or a part would
        be empty."""
        target, split = graph.schema.target, self.config.split
        truth = self.truth(graph)
        require(bool(split.until), "task.split.until", split.until, "the last day of the train period")
        time = np.asarray(number_column(graph, target, split.column, "task.split.column"))
        known, early = ~np.isnan(truth), time < split.end_s()
        period, test = np.flatnonzero(known & early), np.flatnonzero(known & ~early)
        share = self.config.val_share
        if len(period):
            # Examples of one moment stay together
            cut = np.quantile(time[period], 1 - share, method="lower")
            parts = (period[time[period] < cut], period[time[period] >= cut], test)
            if all(len(part) for part in parts):
                return Examples(target, truth, *parts)
        raise TrainerError(
            f"{getattr(graph, 'path', 'graph')}: found {len(period)} labelled examples in the train "
            f"period and {len(test)} in the test period, expected some for each of train, val (the latest "
            f"{share:.0%} of train) and test"
        )

    def truth(self, graph: Graph) -> np.ndarray:
        """Label of every node of the target, NaN where it is not known: [N] float64."""
        target, name = graph.schema.target, self.config.label
        values = np.asarray(number_column(graph, target, name, "task.label"), np.float64)
        unknown = next(c.unknown for c in graph.schema.node_type(target).columns if c.name == name)
        return values if unknown is None else np.where(values == unknown, np.nan, values)

    # Learning

    def head(self, width: int) -> nn.Module:
        """What makes scores of a graph model's states: [n, D] → [n]."""
        raise NotImplementedError

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        """Summed over examples. beta: error below which it is quadratic, where it has such."""
        raise NotImplementedError

    def start(self, truth: np.ndarray) -> float:
        """The constant score that a fresh head starts at, given the train examples' labels [n]."""
        return float(truth.mean())

    # Answers in words

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that there are, as a response says them; none of a task that has no such list."""
        return ()

    def choice_of(self, truth: float) -> int:
        """Which of the choices a label is."""
        raise NotImplementedError

    @property
    def choice_values(self) -> np.ndarray:
        """The score that each choice stands for: [choices] float64."""
        raise NotImplementedError

    def parse(self, text: str) -> int | None:
        """The choice that a text states, or None. Nothing is guessed."""
        raise NotImplementedError

    # Measuring

    def reported(self, scores: np.ndarray) -> np.ndarray:
        """Scores as they are reported: [n] float64."""
        return scores.astype(np.float64)

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """The answer that a score is read as: [n]."""
        return self.reported(scores)

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> Measures:
        """Metrics of some examples, and `num`, how many they are. [n], [n]; a score is NaN where a generated
        text states none."""
        raise NotImplementedError

    def columns(self, name: str, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the predictions' table for the scores [n] of what is called `name`."""
        return {f"{name}_score": self.reported(scores)}

    def truth_column(self, truth: np.ndarray) -> tuple[str, np.ndarray]:
        """Name and values of the label in the predictions' table."""
        return "truth", truth

    def answer(self, score: float) -> Json:
        """One prediction as JSON."""
        raise NotImplementedError

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        """What a model must beat, fitted on `train` and measured on `test` (node numbers)."""
        raise NotImplementedError


def number_column(graph: Graph, node_type: str, name: str, key: str) -> np.ndarray:
    """A number or time column, or TrainerError with those that there are. key: the setting that names it."""
    columns = [c.name for c in graph.schema.node_type(node_type).columns if c.kind in ("number", "time")]
    known = ", ".join(columns) or "none"
    require(name in columns, key, name, f"a number or time column of {node_type}: {known}")
    return graph.column(node_type, name)
