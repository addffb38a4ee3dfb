"""The contract of a task. It knows no model, no data set's names beyond its settings, and no Ray.

Legend: N nodes of the target type, n examples of some, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.graphstore import Document, Graph
from netgpt.graphstore.files import Json
from netgpt.trainers.errors import require
from netgpt.trainers.tasks.baselines import Baseline, Measures
from netgpt.trainers.tasks.split import SplitConfig, number_column, split

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

    from netgpt.trainers.config import EvaluationConfig
    from netgpt.trainers.tasks.evaluate import Judging


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
    """Share that is held out for validation: by time of the train period, the latest; at random of all
    examples; by a column that names no validation part, of train."""
    split: SplitConfig = field(default_factory=SplitConfig)
    words: WordsConfig = field(default_factory=WordsConfig)

    def __post_init__(self) -> None:
        require(0 < self.val_share < 1, "task.val_share", self.val_share, "a share between 0 and 1")

    def to_dict(self) -> Json:
        """What a stage is made from."""
        return {**asdict(self), "split": self.split.to_dict()}


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


TINY = 1e-300
"""A chance of zero, where its logarithm is asked for."""


def log_chances(scores: np.ndarray) -> np.ndarray:
    """Logarithms of a softmax: [n, answers] → the same, float64."""
    scores = scores.astype(np.float64)
    scores = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(scores - np.log(np.exp(scores).sum(axis=1, keepdims=True)))


class Task:
    """What is asked of the nodes of one type. Subclasses are the tasks of the table, and any guest.

    A model's scores are [n] numbers, or of a task of some `width` [n, width]: a number for each answer, whose
    softmax are their chances. What a text states is a number in either case, the value of a choice.
    """

    Config: ClassVar[type[TaskConfig]] = TaskConfig
    noun: ClassVar[str] = "answer"
    """What an answer is called: level, class, …"""
    metrics: tuple[Metric, ...] = ()
    chooses: str = ""
    """Name of the metric by which the best epoch is chosen."""
    has_means: ClassVar[bool] = False
    """Whether a mean of labels is an answer."""
    unparsed_said: ClassVar[str] = "they count as wrong, and have no error"
    """What becomes of examples whose text states no answer."""
    ranks: ClassVar[bool] = False
    """Whether it is asked of pairs what comes next, and not of nodes."""

    def __init__(self, config: TaskConfig) -> None:
        self.config = config

    @property
    def prompted(self) -> Task:
        """The task as prompts ask it: itself, or of pairs one whose choices are the items of a list."""
        return self

    @property
    def width(self) -> int:
        """Numbers in the score of one example: 1, or one for each of the choices."""
        return 1

    @property
    def also(self) -> Mapping[str, str]:
        """Further parts of the test that tables show below it: name, and what it is."""
        return {}

    @property
    def said_train(self) -> str:
        """Which examples a model was trained on, as a report says it."""
        split = self.config.split
        if split.by == "time":
            return f"examples up to {split.until}"
        how = f"drawn at random (seed {split.seed})" if split.by == "random" else f"that {split.column} names"
        return f"examples {how}"

    @property
    def said_test(self) -> str:
        """What the others were that it was measured on."""
        split = self.config.split
        if split.by != "time":
            return "others"
        return f"later ones up to {split.test_until}" if split.test_until else "later ones"

    def check(self, graph: Graph) -> None:
        """TrainerError for a graph that has not what it asks of."""
        self.examples(graph)

    def judge(self, graph: Graph, config: EvaluationConfig, document: Document | None = None) -> Judging:
        """What measures the scores of a run on a graph. document: what prompts say, where it is not the
        target's. TrainerError for groups that there are not."""
        from netgpt.trainers.tasks.evaluate import Judge

        return Judge(graph, self, self.examples(graph), config, document)

    # Examples

    def examples(self, graph: Graph) -> Examples:
        """Examples by part. TrainerError where the label or the split's column is not there, or a part would
        be empty."""
        truth = self.truth(graph)
        known = np.flatnonzero(~np.isnan(truth))
        parts = split(graph, known, self.config.split, self.config.val_share)
        return Examples(graph.schema.target, truth, *parts)

    def truth(self, graph: Graph) -> np.ndarray:
        """Label of every node of the target, NaN where it is not known: [N] float64."""
        target, name = graph.schema.target, self.config.label
        values = np.asarray(number_column(graph, target, name, "task.label"), np.float64)
        unknown = next(c.unknown for c in graph.schema.node_type(target).columns if c.name == name)
        return values if unknown is None else np.where(values == unknown, np.nan, values)

    # Learning

    def head(self, width: int) -> nn.Module:
        """What makes scores of a graph model's states: [n, D] → [n], or [n, width]."""
        raise NotImplementedError

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        """Summed over examples. beta: error below which it is quadratic, where it has such."""
        raise NotImplementedError

    def start(self, truth: np.ndarray) -> float | np.ndarray:
        """The constant score that a fresh head starts at, given the train examples' labels [n]: their mean;
        of chances the logarithms of the choices' shares [width], one example added to each."""
        if self.width == 1:
            return float(truth.mean())
        counts = np.bincount([self.choice_of(t) for t in truth.tolist()], minlength=self.width) + 1
        return np.asarray(np.log(counts / counts.sum()))

    # Answers in words

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that there are, as a response says them; none of a task that has no such list."""
        return ()

    def choice_of(self, truth: float) -> int:
        """Which of the choices a label is."""
        raise NotImplementedError

    def choices_said(self, values: np.ndarray) -> np.ndarray:
        """Which choices a column of predictions, or that of the truth, says: [n] int64, −1 for none."""
        return np.array([self.choice_of(v) if v >= 0 else -1 for v in values.tolist()], np.int64)

    @property
    def choice_values(self) -> np.ndarray:
        """The score that each choice stands for: [choices] float64."""
        raise NotImplementedError

    def parse(self, text: str) -> int | None:
        """The choice that a text states, or None. Nothing is guessed."""
        raise NotImplementedError

    # Answers written freely

    @property
    def writes(self) -> bool:
        """Whether a language model may write the answer as a number of its own, of no list."""
        return False

    @property
    def longest_written(self) -> str:
        """An answer that takes as many tokens as any."""
        raise NotImplementedError

    def written(self, truth: float) -> str:
        """A label as a response writes it."""
        raise NotImplementedError

    def read(self, text: str) -> float | None:
        """The number that a text states, or None. Nothing is guessed."""
        raise NotImplementedError

    # Measuring

    def known(self, scores: np.ndarray) -> np.ndarray:
        """Which examples have a score: [n] bool."""
        return ~np.isnan(scores) if scores.ndim == 1 else ~np.isnan(scores).any(axis=1)

    def reported(self, scores: np.ndarray) -> np.ndarray:
        """Scores as they are reported: [n] float64."""
        return scores.astype(np.float64)

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """The answer that a score is read as: [n]."""
        return self.reported(scores)

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> Measures:
        """Metrics of some examples, and `num`, how many they are. [n] or [n, width], and [n]; a score is NaN
        where a generated text states none."""
        raise NotImplementedError

    def errors(self, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """How far each answer is from the truth [n], of known scores [n] or [n, width]: [n] float64."""
        return np.abs(self.reported(scores) - truth)

    def calibration(self, scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What was told and what came of known scores: [n] float64 each, equal in the mean where answers are
        calibrated. Empty where scores tell nothing of that."""
        return self.reported(scores), truth.astype(np.float64)

    @property
    def said_calibration(self) -> tuple[str, str]:
        """What `calibration` has of each, as a chart says it."""
        return f"the {self.noun} that was told", f"the mean {self.noun} that came"

    def columns(self, name: str, scores: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of the predictions' table for the scores [n] of what is called `name`."""
        return {f"{name}_score": self.reported(scores)}

    def scores_from(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores [n] or [n, width] that measure as those that `columns` made columns of. KeyError where they
        are not all there."""
        return np.asarray(columns[f"{name}_score"], np.float64)

    def truth_column(self, truth: np.ndarray) -> tuple[str, np.ndarray]:
        """Name and values of the label in the predictions' table."""
        return "truth", truth

    def said_values(self, scores: np.ndarray, answered: np.ndarray) -> np.ndarray:
        """A number for each score [n] or [n, width] that a change is told in: what is reported. answered: the
        score that an answer was given by."""
        return self.reported(scores)

    def answer(self, score: float | np.ndarray) -> Json:
        """One prediction as JSON."""
        raise NotImplementedError

    def told_numbers(self, graph: Graph) -> Sequence[str]:
        """Number columns of the target that trees are told, beside scalars."""
        return ()

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        """What a model must beat, fitted on `train` and measured on `test` (node numbers)."""
        raise NotImplementedError
