"""Runs beside each other on the same test examples: figures, and paired differences.

Models err on the same examples together, so that the intervals of two say little of what is between them.
Here examples (of a ranking users) are drawn again with replacement, the same for both, and the difference is
measured each time (the paired bootstrap; Efron and Tibshirani, "An Introduction to the Bootstrap", chapter
16). It is of the examples alone: runs of several seeds say what another training would give, and those whose
settings differ by the seed alone are told as a group too.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import CONFIG, EVALUATION, Run
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.base import Metric
from netgpt.trainers.tasks.evaluate import PREDICTIONS, interval_text
from netgpt.trainers.tasks.intervals import SHARE, Interval, drawn_again, interval
from netgpt.trainers.tasks.ranking import RankingConfig

Measured = Callable[[np.ndarray], Mapping[str, float | None]]
"""Metrics of examples that are drawn, by their places among all."""


@dataclass(frozen=True)
class Difference:
    """Of a metric, from the first run."""

    value: float
    within: Interval
    """What 95% of the draws give."""
    chance: float
    """Two-sided: how often as large a difference or a larger one is drawn where there is none."""


@dataclass(frozen=True)
class Row:
    """What one run measures."""

    run: str
    title: str
    settings: str
    """What tells runs of one group alike: the configuration without the seed."""
    seed: int
    figures: Mapping[str, float | None]
    within: Mapping[str, Interval]
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """From the first run; empty for the first."""


@dataclass(frozen=True)
class Compared:
    metrics: tuple[Metric, ...]
    num: int
    unit: str
    """What was drawn: test examples, or users."""
    rows: tuple[Row, ...]

    @property
    def groups(self) -> list[list[Row]]:
        """Rows of settings that runs of two or more seeds share, each seed once."""
        by: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            by.setdefault((row.settings, row.title), []).append(row)
        return [rows for rows in by.values() if len({row.seed for row in rows}) == len(rows) > 1]


@dataclass(frozen=True)
class _Examples:
    """The test examples of one run."""

    ids: list[str]
    truth: list[Any]
    metrics: tuple[Metric, ...]
    unit: str
    measured: Measured


def compare(paths: Sequence[Path], of: str = "") -> Compared:
    """Runs on one test part, the first of which the others are compared with.

    of: what is compared, by its key (stage1, stage3_generated); by default the last of each whole run.
    ClusterError for runs of other test examples, labels or metrics than the first's.
    """
    if len(paths) < 2:
        raise ClusterError(f"compare: found {len(paths)} run, expected two or more")
    runs = [Run.open_(path) for path in paths]
    keys = [result_key(run, of) for run in runs]
    found = [_examples(run, key) for run, key in zip(runs, keys, strict=True)]
    first = found[0]
    for run, other in zip(runs[1:], found[1:], strict=True):
        _require_same(runs[0], run, first, other)
    names = [metric.name for metric in first.metrics]
    draws: list[list[Mapping[str, float | None]]] = [[] for _ in runs]
    for drawn in drawn_again(len(first.ids)):
        for own, one in zip(draws, found, strict=True):
            own.append(one.measured(drawn))
    rows: list[Row] = []
    whole = np.arange(len(first.ids))
    for i, (run, key, one) in enumerate(zip(runs, keys, found, strict=True)):
        tables = {name: _known(draws[i], draws[0], name) for name in names}
        tables = {name: table for name, table in tables.items() if table.size}
        figures = one.measured(whole)
        values = {name: _minus(figures[name], rows[0].figures[name]) for name in tables} if i else {}
        rows.append(
            Row(
                run=str(run.path),
                title=run.titles.get(key, key),
                settings=_without_seed(run),
                seed=run.config.seed,
                figures=figures,
                within={name: interval(own) for name, (own, _) in tables.items()},
                differences={
                    name: _difference(value, tables[name][0] - tables[name][1])
                    for name, value in values.items()
                    if value is not None
                },
            )
        )
    return Compared(first.metrics, len(first.ids), first.unit, tuple(rows))


def result_key(run: Run, of: str = "") -> str:
    """What a run is told by: `of`, or the first answer of its last measured stage. ClusterError where that is
    not measured, or nothing."""
    run.require_done([EVALUATION])
    measured = list(run.metrics()["stages"])
    if of:
        if of not in measured:
            raise ClusterError(f"{run.path}: --of: found {of!r}, expected one of {', '.join(measured)}")
        return of
    last = [
        key for name in run.stages for key in list(stage_of(name).titles(run.config))[:1] if key in measured
    ]
    if not (last or measured):
        raise ClusterError(f"{run.path}: found nothing measured, expected a stage with scores")
    return (last or measured)[-1]


def _examples(run: Run, key: str) -> _Examples:
    path = run.path / EVALUATION / PREDICTIONS
    columns, task = run.test_predictions(), run.task
    if isinstance(task.config, RankingConfig):
        return _users(path, columns, key, task.config, task.metrics)
    label = task.truth_column(np.empty(0))[0]
    try:
        scores = task.scores_from(key, columns)
    except KeyError:
        raise _lacking(path, key, columns) from None
    examples = task.examples(run.store)
    truth = examples.truth[examples.test]
    return _Examples(
        ids=[str(one) for one in columns["id"]],
        truth=columns[label].tolist(),
        metrics=task.metrics,
        unit="test examples",
        measured=lambda drawn: task.measure(scores[drawn], truth[drawn]),
    )


def _lacking(path: Path, key: str, columns: Mapping[str, np.ndarray]) -> ClusterError:
    """For what has no column for every example: texts that were generated of some, or an older version's."""
    found = sorted(
        {m[1] for name in columns if (m := re.fullmatch(r"(.+)_(score|class|rank|chance_0)", name))}
    )
    return ClusterError(
        f"{path}: found no scores of {key}, expected one of {', '.join(found) or 'none'}; where it was "
        f"measured of all examples, remove {path.parent} and run: netgpt evaluate"
    )


def _users(
    path: Path,
    columns: Mapping[str, np.ndarray],
    key: str,
    config: RankingConfig,
    metrics: tuple[Metric, ...],
) -> _Examples:
    """Of a ranking users are drawn, each with all its test items."""
    from netgpt.trainers.recommend.ranking import Ranks

    user_of, items = (columns[name].astype(str) for name in list(columns)[:2])
    number = {user: i for i, user in enumerate(dict.fromkeys(user_of.tolist()))}  # in the table's order
    where = np.array([number[user] for user in user_of.tolist()], np.int64)
    order = np.argsort(where, kind="stable")
    if f"{key}_rank" not in columns:
        raise _lacking(path, key, columns)
    by_user = Ranks(where[order], order, columns[f"{key}_rank"][order]).by_user(config.k)
    values = {f"{name}@{config.k}": own for name, own in by_user.items()}
    held: list[list[str]] = [[] for _ in number]
    for user, item in zip(where.tolist(), items.tolist(), strict=True):
        held[user].append(item)
    return _Examples(
        ids=list(number),
        truth=[tuple(sorted(one)) for one in held],
        metrics=metrics,
        unit="users",
        measured=lambda drawn: {name: float(own[drawn].mean()) for name, own in values.items()},
    )


def _require_same(first: Run, other: Run, a: _Examples, b: _Examples) -> None:
    def refuse(found: str, expected: str) -> None:
        raise ClusterError(f"{other.path}: found {found}, expected {expected} of {first.path}")

    ours, theirs = (", ".join(m.title for m in one.metrics) for one in (a, b))
    if ours != theirs:
        refuse(f"the metrics {theirs}", f"those ({ours})")
    if a.ids != b.ids:
        odd = sorted(set(a.ids) ^ set(b.ids))[:3]
        what = f"{', '.join(odd)} are in one alone" if odd else "in another order"
        refuse(f"{len(b.ids):,} {b.unit}", f"the {len(a.ids):,} ({what})")
    for name, x, y in zip(a.ids, a.truth, b.truth, strict=True):
        if x != y:
            refuse(f"the label {y} of {name}", f"{x}, as that")


def _without_seed(run: Run) -> str:
    """A run's configuration, but for the seed and what results do not depend on."""
    config = yaml.safe_load((run.path / CONFIG).read_text(encoding="utf-8"))
    for name in ("seed", "cluster"):
        config.pop(name, None)
    return yaml.safe_dump(config, sort_keys=True)


def _known(
    own: Sequence[Mapping[str, float | None]], first: Sequence[Mapping[str, float | None]], name: str
) -> np.ndarray:
    """A metric in each draw of a run and of the first, where both have it: [2, draws]."""
    pairs = [(a[name], b[name]) for a, b in zip(own, first, strict=True)]
    return np.array([pair for pair in pairs if None not in pair], np.float64).reshape(-1, 2).T


def _minus(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def _difference(value: float, values: np.ndarray) -> Difference:
    num = len(values)
    beyond = min(int((values <= 0).sum()), int((values >= 0).sum()))
    # With one more draw, so that a chance is never 0 (Davison and Hinkley 1997, section 4.2.5)
    return Difference(value, interval(values), min(1.0, 2 * (beyond + 1) / (num + 1)))


def to_json(compared: Compared) -> dict[str, Any]:
    rows = [
        {
            "run": row.run,
            "what": row.title,
            "figures": {m.name: row.figures.get(m.name) for m in compared.metrics},
            "within": dict(row.within),
            "differences": {name: vars(one) for name, one in row.differences.items()},
        }
        for row in compared.rows
    ]
    groups = [
        {"runs": [row.run for row in rows], "what": rows[0].title, "figures": _spreads(compared, rows)}
        for rows in compared.groups
    ]
    return {"num": compared.num, "unit": compared.unit, "rows": rows, "groups": groups}


def _spreads(compared: Compared, rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of a group's runs, by metric."""
    made = {}
    for metric in compared.metrics:
        values = [v for row in rows if (v := row.figures.get(metric.name)) is not None]
        if len(values) > 1:
            made[metric.name] = (statistics.fmean(values), statistics.stdev(values))
    return made


def text_of(compared: Compared) -> str:
    """A table: each run's figures, below them what 95% of the draws give, below that the difference."""
    names = [Path(row.run).name for row in compared.rows]
    names = names if len(set(names)) == len(names) else [row.run for row in compared.rows]
    heads = [f"{name}  {row.title}" for name, row in zip(names, compared.rows, strict=True)]
    groups = [f"{rows[0].title}, {len(rows)} seeds" for rows in compared.groups]
    first = max(26, 2 + max(map(len, [*heads, *groups])))
    width = 34

    def line(head: str, cells: Sequence[str]) -> str:
        return (f"{head:<{first}}" + "".join(f"{cell:>{width}}" for cell in cells)).rstrip()

    lines = [line(f"{compared.num:,} {compared.unit}", [m.title for m in compared.metrics])]
    lines.append("-" * (first + width * len(compared.metrics)))
    for head, row in zip(heads, compared.rows, strict=True):
        best = [_is_best(compared, row, metric) for metric in compared.metrics]
        figures = [row.figures.get(m.name) for m in compared.metrics]
        marked = zip(figures, best, strict=True)
        lines.append(line(head, ["–" if v is None else f"{v:.4f}{'*' if b else ' '}" for v, b in marked]))
        within = [row.within.get(m.name) for m in compared.metrics]
        lines.append(line("", [f"{interval_text(w)} " if w else "" for w in within]))
        if row.differences:
            lines.append(
                line("  from the first", [_said(row.differences.get(m.name)) for m in compared.metrics])
            )
    for rows, head in zip(compared.groups, groups, strict=True):
        spreads = _spreads(compared, rows)
        cells = [
            f"{spreads[m.name][0]:.4f} ± {spreads[m.name][1]:.4f} " if m.name in spreads else "–"
            for m in compared.metrics
        ]
        lines.append(line(head, cells))
    lines.append(
        f"*: the best of its column. Below a figure {SHARE:.0%} of what {compared.unit} drawn again give; the"
        " difference is of the same draws for both, with the chance of one as large where there is none."
    )
    return "\n".join(lines)


def _said(one: Difference | None) -> str:
    if one is None:
        return ""
    low, high = one.within
    return f"{one.value:+.4f} ({low:+.3f}…{high:+.3f}) p {one.chance:.3f}"


def _is_best(compared: Compared, row: Row, metric: Metric) -> bool:
    known = [v for one in compared.rows if (v := one.figures.get(metric.name)) is not None]
    value = row.figures.get(metric.name)
    return value is not None and value == (max if metric.larger_is_better else min)(known)
