"""Scores of everything that a run measures: metrics by part and group, predictions, and the table.

Legend: N nodes of the target, n examples of some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netgpt.graphstore import Document, Graph
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.errors import require
from netgpt.trainers.tasks.base import Examples, Task
from netgpt.trainers.tasks.baselines import Baseline, Measures, RunMetrics
from netgpt.trainers.tasks.history import history_baselines
from netgpt.trainers.tasks.intervals import SHARE, Interval, Intervals, intervals
from netgpt.trainers.tasks.split import PARTS, number_column

PREDICTIONS = "predictions.parquet"
REST = "rest"
_ALWAYS = 1 << 40
"""Days beyond any."""


@dataclass
class Scores:
    """What is to be measured: scores [N] of all nodes by name, and the parts that they are known of; of a
    task of pairs what gives the scores of a user's items.

    NaN where a generated text states none.
    """

    scores: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def add(self, name: str, scores: Any, parts: tuple[str, ...] = PARTS) -> None:
        self.scores[name], self.parts[name] = scores, parts


class Judging(Protocol):
    """What an evaluation asks of whatever measures a task."""

    def stage_metrics(self, scores: Scores) -> dict[str, dict[str, Measures]]:
        """Metrics by what is measured and part."""
        ...

    def baseline_metrics(self) -> dict[str, dict[str, Measures]]:
        """Metrics of what a model must beat, by its name and part."""
        ...

    def intervals(self, scores: Scores) -> dict[str, dict[str, Interval]]:
        """Of the test part, by what is measured and by baseline."""
        ...

    def write_predictions(self, path: Path, scores: Scores) -> None:
        """A table of what was predicted, as Parquet."""
        ...


class Judge:
    """Metrics of one graph's examples under a task: whole, by group, and those of a flag apart."""

    def __init__(
        self,
        graph: Graph,
        task: Task,
        examples: Examples,
        config: EvaluationConfig,
        document: Document | None = None,
    ) -> None:
        """document: what prompts say; by default the target's. TrainerError for groups that are no columns of
        the target."""
        self.document = graph.schema.document(graph.schema.target) if document is None else document
        self.graph, self.task, self.examples, self.config = graph, task, examples, config
        target = graph.schema.target
        self.groups: dict[str, tuple[np.ndarray, Any]] = {}
        for name in config.by:
            known = [c.name for c in graph.schema.node_type(target).columns if c.kind == "category"]
            require(name in known, "evaluation.by", name, f"categories of {target}: {', '.join(known)}")
            self.groups[name] = graph.category(target, name)
        self._days = (
            number_column(graph, target, config.period, "evaluation.period") if config.period else None
        )
        self._apart = number_column(graph, target, config.apart, "evaluation.apart") if config.apart else None
        self._bounds = [] if self._days is None else periods(self._period_bounds(self._days))

    def _period_bounds(self, days: np.ndarray) -> list[int]:
        """The given bounds, or the quartiles of the labelled nodes' days."""
        if self.config.period_days:
            return list(self.config.period_days)
        known = np.asarray(days)[~np.isnan(self.examples.truth)]
        return sorted({max(0, int(q)) for q in np.quantile(known, (0.25, 0.5, 0.75), method="lower")})

    def is_apart(self, nodes: np.ndarray) -> np.ndarray | None:
        """Which of some nodes [n] the flag `evaluation.apart` is set for: [n] bool; None without a flag."""
        return None if self._apart is None else np.asarray(self._apart)[nodes] != 0

    def parts(self) -> dict[str, np.ndarray]:
        """Node numbers by part; the test examples that are apart, and the rest of them, too."""
        named, test = self.examples.named(), self.examples.test
        apart = self.is_apart(test)
        if apart is None:
            return named
        return {**named, f"test_{self.config.apart}": test[apart], f"test_{REST}": test[~apart]}

    def metrics(self, nodes: np.ndarray, scores: np.ndarray) -> Measures:
        """Metrics of some nodes [n] with scores [n]; and by each group, where there are any nodes of it."""
        truth = self.examples.truth[nodes]

        def measured(part: np.ndarray) -> Measures:
            return self.task.measure(scores[part], truth[part])

        measures = dict(self.task.measure(scores, truth))
        for key, (codes, names) in self.groups.items():
            code = np.asarray(codes)[nodes]
            measures[key] = {
                names[c] if c >= 0 else "": measured(code == c) for c in np.unique(code).tolist()
            }
        if self._days is not None:
            days = np.asarray(self._days)[nodes]
            by_period = {
                name: measured((first <= days) & (days <= last)) for name, first, last in self._bounds
            }
            measures["period"] = {name: one for name, one in by_period.items() if one["num"]}
        return measures

    def stage_metrics(self, scores: Scores) -> dict[str, dict[str, Measures]]:
        """Metrics by what is measured and part."""
        parts = self.parts()
        return {
            name: {
                part: self.metrics(nodes, values[nodes])
                for part, nodes in parts.items()
                if part.split("_")[0] in scores.parts[name]
            }
            for name, values in scores.scores.items()
        }

    def baseline_metrics(self) -> dict[str, dict[str, Measures]]:
        """Metrics of the task's baselines, which are fitted on what the models learn from; by time on the
        whole train period, whose latest examples the models are chosen by.

        The test examples that are apart beside the rest, for those that score an example.
        """
        examples, test = self.examples, self.examples.test
        truth, apart = examples.truth[test], self.is_apart(test)
        measures: dict[str, dict[str, Measures]] = {}
        for name, baseline in self.baselines.items():
            if baseline.scores is None:
                measures[name] = {"test": baseline.metrics or {}}
                continue
            measures[name] = {"test": self.task.measure(baseline.scores, truth)}
            if apart is not None:
                for part, chosen in ((self.config.apart, apart), (REST, ~apart)):
                    measures[name][f"test_{part}"] = self.task.measure(baseline.scores[chosen], truth[chosen])
        return measures

    @cached_property
    def baselines(self) -> Mapping[str, Baseline]:
        fitted = self.examples.train
        if self.task.config.split.by == "time":
            fitted = np.sort(np.concatenate([self.examples.train, self.examples.val]))
        own = self.task.baselines(self.graph, fitted, self.examples.test)
        shown = history_baselines(self.task, self.graph, fitted, self.examples.test, self.document)
        return {**own, **shown}

    def intervals(self, scores: Scores) -> dict[str, dict[str, Interval]]:
        """Of the test part, by what is measured and by baseline."""
        test = self.examples.test
        of_all = {name: values[test] for name, values in scores.scores.items()}
        of_all |= {name: one.scores for name, one in self.baselines.items() if one.scores is not None}
        truth = self.examples.truth[test]
        return {name: intervals(self.task, values, truth) for name, values in of_all.items()}

    def write_predictions(self, path: Path, scores: Scores) -> None:
        """A row for each labelled node: id (of one without its number), part, label, and the task's columns
        of what was measured of all parts."""
        examples, target = self.examples, self.graph.schema.target
        names = np.full(self.graph.num_nodes[target], "", object)
        for name, nodes in examples.named().items():
            names[nodes] = name
        nodes = np.flatnonzero(names != "")
        label, values = self.task.truth_column(examples.truth[nodes])
        columns: dict[str, Any] = {
            "id": self.graph.id_column(target, nodes),
            "split": names[nodes].tolist(),
            label: values,
        }
        if (apart := self.is_apart(nodes)) is not None:
            columns[self.config.apart] = apart
        whole = {name for name, parts in scores.parts.items() if parts == PARTS}
        for name, of_all in scores.scores.items():
            # What was generated alone, of a stage that has no scores of all
            base = re.sub("_(generated|drawn)$", "", name)
            if name in whole or base not in (name, *whole):
                columns |= self.task.columns(name, of_all[nodes])
        pq.write_table(pa.table(columns), path)


def periods(days: list[int]) -> list[tuple[str, int, int]]:
    """Periods by bounds in days: name, first and last day."""
    edges = [-1, *days]
    between = [
        (f"{a + 1} to {b} days" if a >= 0 else f"up to {b} days", a + 1 if a >= 0 else -_ALWAYS, b)
        for a, b in pairwise(edges)
    ]
    return [*between, (f"over {days[-1]} days", days[-1] + 1, _ALWAYS)]


def metrics_table(
    metrics: RunMetrics,
    task: Task,
    titles: Mapping[str, str],
    apart: tuple[str, str],
    within: Intervals | None = None,
) -> str:
    """The test part as text: baselines, then what was measured. apart: the flag's name and title, if any.
    within: what `Judge.intervals` found."""
    within = within or {}
    chosen = next(m for m in task.metrics if m.name == task.chooses)
    flag, title = apart
    heads = [m.title for m in task.metrics]
    heads += [f"{chosen.title} {flag.replace('_', ' ')}", f"{chosen.title} {REST}"] if flag else []
    least = 17 if within else 8  # of two figures and what is between them
    widths = [max(least if i < len(task.metrics) else 8, 2 + len(head)) for i, head in enumerate(heads)]
    names = [*metrics["baselines"], *(titles.get(name, name) for name in metrics["stages"])]
    of_all = [*metrics["baselines"].items(), *metrics["stages"].items()]
    first = max(26, 2 + max(map(len, names), default=0))
    head = f"{'test split':<{first}}" + "".join(f"{h:>{w}}" for h, w in zip(heads, widths, strict=True))
    lines = [head, "-" * len(head)]

    def row(name: str, measures: Mapping[str, Measures]) -> str:
        values = [measures["test"][m.name] for m in task.metrics]
        if flag:
            values += [measures.get(f"test_{part}", {}).get(chosen.name) for part in (flag, REST)]
        cells = zip(values, widths, strict=True)
        return f"{name:<{first}}" + "".join(" " * w if v is None else f"{v:>{w}.4f}" for v, w in cells)

    def around(name: str) -> list[str]:
        """The row of its intervals."""
        found = within.get(name, {})
        texts = [interval_text(found[m.name]) if m.name in found else "" for m in task.metrics]
        cells = "".join(f"{text:>{w}}" for text, w in zip(texts, widths, strict=False))
        return [f"{'':<{first}}{cells}"] if found else []

    for name, measures in metrics["baselines"].items():
        lines += [row(name, measures), *around(name)]
    lines.append("-" * len(head))
    for name, measures in metrics["stages"].items():
        lines += [row(titles.get(name, name), measures), *around(name)]
    for part, said in task.also.items():
        shown = {name: measures[part] for name, measures in of_all if part in measures}
        num = max((one["num"] for one in shown.values()), default=0)
        if num:
            lines += ["", f"{said} ({num:,})"]
            lines += [row(titles.get(name, name), {"test": one}) for name, one in shown.items()]
    for name, measures in metrics["stages"].items():
        if num := (test := measures["test"]).get("unparsed"):
            lines.append(
                f"{titles.get(name, name)}: {num} of {test['num']} texts state no {task.noun}; "
                f"{task.unparsed_said}"
            )
    if metrics["stages"]:
        one = next(iter(metrics["stages"].values()))
        said = f"{one['test']['num']} test examples"
        lines.append(f"{said}; {one[f'test_{flag}']['num']} of them {title}" if flag else said)
    if within:
        lines.append(f"below each figure: {SHARE:.0%} of what examples drawn again give")
    return "\n".join(lines)


def interval_text(interval: Interval) -> str:
    low, high = interval
    return f"{low:.4f}…{high:.4f}"
