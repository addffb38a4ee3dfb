"""Classification: one of a list of classes, predicted as a chance of each.

A model gives a number for each class, whose softmax are the chances; the loss is the cross-entropy. F1 is the
plain mean over the classes that there are among the labels, and so is AUROC, each class against the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.graphstore import Graph
from netgpt.graphstore.files import Json
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.tasks.base import TINY, Metric, Task, TaskConfig, log_chances
from netgpt.trainers.tasks.baselines import Baseline, Measures, class_texts, class_trees
from netgpt.trainers.tasks.split import number_column

if TYPE_CHECKING:  # settings are read without torch
    from torch import Tensor, nn

SHOWN_VALUES = 20


@dataclass(frozen=True, kw_only=True)
class ClassificationConfig(TaskConfig):
    classes: list[str] = field(default_factory=list)
    """The label's values, in the order in which they are told; of a number column as texts: ["0", "1"]."""

    def __post_init__(self) -> None:
        super().__post_init__()
        distinct = len({*self.classes}) == len(self.classes) and all(one.strip() for one in self.classes)
        require(distinct, "task.classes", self.classes, "the label's values, each once")


class Classification(Task):
    Config: ClassVar[type[TaskConfig]] = ClassificationConfig
    noun = "class"
    metrics = (
        Metric("acc", "ACC", "examples whose likeliest class is theirs", larger_is_better=True),
        Metric(
            "f1", "F1", "mean over classes of precision and recall's harmonic mean", larger_is_better=True
        ),
        Metric(
            "auroc",
            "AUROC",
            "mean over classes of the chance that one of it is ranked above one of the rest",
            larger_is_better=True,
        ),
        Metric("nll", "NLL", "mean negative logarithm of the chance of the true class"),
    )
    chooses = "nll"

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        assert isinstance(config, ClassificationConfig)
        self.classes = tuple(config.classes)

    @property
    def width(self) -> int:
        return len(self.classes)

    def truth(self, graph: Graph) -> np.ndarray:
        """Number of the class of every node, NaN where it is not known: [N] float64."""
        target, name = graph.schema.target, self.config.label
        column = graph.schema.node_type(target).column_named(name)
        if column is not None and column.kind == "category":
            codes, values = graph.category(target, name)
            codes, values = np.asarray(codes), list(values)
        else:
            known = ", ".join(
                c.name
                for c in graph.schema.node_type(target).columns
                if c.kind in ("category", "number", "time")
            )
            ok = column is not None and column.kind in ("number", "time")
            require(ok, "task.label", name, f"a category or number column of {target}: {known or 'none'}")
            numbers = np.asarray(number_column(graph, target, name, "task.label"), np.float64)
            assert column is not None
            is_known = ~np.isnan(numbers) & (numbers != column.unknown)
            distinct, code = np.unique(numbers[is_known], return_inverse=True)
            codes = np.full(len(numbers), -1)
            codes[is_known] = code
            values = [str(int(v)) if v.is_integer() else repr(v) for v in distinct.tolist()]
        used = np.unique(codes[codes >= 0]).tolist()
        lost = {values[code] for code in used} - set(self.classes)
        if lost or len(self.classes) < 2:
            there = ", ".join(repr(values[code]) for code in used[:SHOWN_VALUES])
            more = ", …" if len(used) > SHOWN_VALUES else ""
            raise TrainerError(
                f"task.classes: found {list(self.classes) or 'none'}, expected the values of {name}: "
                f"{there or 'at least two'}{more}"
            )
        place = {name: i for i, name in enumerate(self.classes)}
        number = np.array([*(place.get(value, -1) for value in values), -1])
        of_node = number[codes]
        return np.where(of_node < 0, np.nan, of_node.astype(np.float64))

    def head(self, width: int) -> nn.Module:
        from netgpt.trainers.tasks.heads import VectorHead

        return VectorHead(width, self.width)

    def loss(self, scores_n: Tensor, truth_n: Tensor, beta: float) -> Tensor:
        from torch.nn.functional import cross_entropy

        return cross_entropy(scores_n, truth_n.long(), reduction="sum")

    @property
    def choices(self) -> tuple[str, ...]:
        return self.classes

    def choice_of(self, truth: float) -> int:
        return int(truth)

    def choices_said(self, values: np.ndarray) -> np.ndarray:
        names = [*self.classes, ""]
        return np.array([(names.index(v) + 1) % len(names) - 1 for v in values.tolist()], np.int64)

    @property
    def choice_values(self) -> np.ndarray:
        return np.arange(self.width, dtype=np.float64)

    def parse(self, text: str) -> int | None:
        """The one class that a text names; a name within a longer one that is there is not named."""
        found = set()
        for name in sorted(self.classes, key=len, reverse=True):
            pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
            text, num = re.subn(pattern, "\0", text, flags=re.IGNORECASE)
            if num:
                found.add(self.classes.index(name))
        return found.pop() if len(found) == 1 else None

    def reported(self, scores: np.ndarray) -> np.ndarray:
        """Number of the likeliest class: [n] float64; of scores [n], which are such numbers, the nearest."""
        if scores.ndim == 2:
            return scores.argmax(1).astype(np.float64)
        return np.clip(np.floor(scores.astype(np.float64) + 0.5), 0, self.width - 1)

    def answers(self, scores: np.ndarray) -> np.ndarray:
        """[n] int64, −1 for NaN."""
        known = self.known(scores)
        filled = np.where(known if scores.ndim == 1 else known[:, None], scores, 0)
        return np.where(known, self.reported(filled), -1).astype(np.int64)

    def measure(self, scores: np.ndarray, truth: np.ndarray) -> Measures:
        """An example whose score is NaN counts as wrong in acc and f1 and not in the others, and their number
        is `unparsed`. auroc and nll are None of scores that are classes and no chances, auroc also where
        there is but one class."""
        known, label = self.known(scores), truth.astype(np.int64)
        unparsed = {"unparsed": int((~known).sum())} if not known.all() else {}
        if len(truth) == 0:
            return {**dict.fromkeys((m.name for m in self.metrics), None), "num": 0}
        said = self.answers(scores)
        there = np.unique(label).tolist()
        f1 = [
            2 * np.sum((said == c) & (label == c)) / (np.sum(said == c) + np.sum(label == c)) for c in there
        ]
        auroc = nll = None
        if scores.ndim == 2 and known.any():
            logs, of = log_chances(scores[known]), label[known]
            nll = float(-logs[np.arange(len(of)), of].mean())
            areas = [area for c in np.unique(of).tolist() if (area := _area(logs[:, c], of == c)) is not None]
            auroc = float(np.mean(areas)) if areas else None
        return {
            "acc": float(np.mean(said == label)),
            "f1": float(np.mean(f1)),
            "auroc": auroc,
            "nll": nll,
            "num": len(truth),
            **unparsed,
        }

    def errors(self, scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """1 less the chance of the true class; of classes alone 1 or 0."""
        if scores.ndim == 1:
            return (self.answers(scores) != truth).astype(np.float64)
        chances = np.exp(log_chances(scores))
        return np.asarray(1 - chances[np.arange(len(chances)), truth.astype(np.int64)])

    def calibration(self, scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The chance of the class that is answered, and whether it is the true one (Guo et al., "On
        Calibration of Modern Neural Networks", section 2)."""
        if scores.ndim == 1:
            return np.empty(0), np.empty(0)
        return np.exp(log_chances(scores)).max(axis=1), (self.answers(scores) == truth).astype(np.float64)

    @property
    def said_calibration(self) -> tuple[str, str]:
        return "the chance of the class that was given", "how often it was right"

    def columns(self, name: str, scores: np.ndarray) -> dict[str, np.ndarray]:
        made = {f"{name}_class": self._named(self.answers(scores))}
        if scores.ndim == 2:
            chances = np.exp(log_chances(scores))
            made |= {f"{name}_chance_{one}": chances[:, i] for i, one in enumerate(self.classes)}
        return made

    def scores_from(self, name: str, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        chances = [columns[key] for one in self.classes if (key := f"{name}_chance_{one}") in columns]
        if chances:
            return np.log(np.maximum(np.stack(chances, axis=1).astype(np.float64), TINY))
        said = self.choices_said(np.asarray(columns[f"{name}_class"]))
        return np.where(said < 0, np.nan, said.astype(np.float64))

    def truth_column(self, truth: np.ndarray) -> tuple[str, np.ndarray]:
        return "class", self._named(truth.astype(np.int64))

    def _named(self, numbers: np.ndarray) -> np.ndarray:
        return np.array([*self.classes, ""], object)[numbers]

    def said_values(self, scores: np.ndarray, answered: np.ndarray) -> np.ndarray:
        """The chance of the class that was answered."""
        if scores.ndim == 1:
            return (self.answers(scores) == self.answers(answered[None])[0]).astype(np.float64)
        return np.exp(log_chances(scores))[:, int(self.answers(answered[None])[0])]

    def answer(self, score: float | np.ndarray) -> Json:
        one = np.asarray(score)[None]
        said: Json = {"class": self.classes[int(self.answers(one)[0])]}
        if one.ndim == 2:
            chances = np.exp(log_chances(one))[0].tolist()
            said["chances"] = {c: round(p, 6) for c, p in zip(self.classes, chances, strict=True)}
        return said

    def baselines(self, graph: Graph, train: np.ndarray, test: np.ndarray) -> Mapping[str, Baseline]:
        truth = self.truth(graph)
        made = {"constant (shares)": Baseline(np.tile(self.start(truth[train]), (len(test), 1)))}
        numbers = class_trees(graph, truth, train, test, self.width, self.config.label)
        if numbers is not None:
            made["trees on the numbers"] = Baseline(numbers)
        if (texts := class_texts(graph, truth, train, test, self.width)) is not None:
            made["logistic on the texts"] = Baseline(texts)
        return made


def _area(scores: np.ndarray, is_one: np.ndarray) -> float | None:
    """Share of pairs of one of a class and one of the rest in which the first is ranked above; ties half."""
    from scipy.stats import rankdata

    num, rest = int(is_one.sum()), int((~is_one).sum())
    if not num or not rest:
        return None
    return float((rankdata(scores)[is_one].sum() - num * (num + 1) / 2) / (num * rest))
