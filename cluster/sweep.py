"""`netgpt sweep`: a recipe over some settings and seeds, each a run of its own, in one table.

Runs lie in one folder and are kept: called again, what is done is not done again, and what was cut off goes
on. What they have in common (the store, the tokens, a stage of the same inputs) is made once. Settings are
chosen by validation: its figure is in the table, the test's stands beside it.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.compare import result_key
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError, StageFailedError, is_bad_input
from netgpt.cluster.pipeline import Run, borrow, execute, locked, require_room
from netgpt.cluster.pipeline.run import EVALUATION
from netgpt.cluster.progress import say
from netgpt.cluster.search import Axis, questions
from netgpt.cluster.tracking import require_tracking, track
from netgpt.graphstore.files import writing_to
from netgpt.trainers.stages.names import stage_of


@dataclass(frozen=True, kw_only=True)
class Sweep:
    config: str
    out: Path
    data: Path | None = None
    store: Path | None = None
    vary: Sequence[str] = ()
    """KEY=V1|V2|…: all combinations are run; with `trials` those that a search asks for, also of
    KEY=LOW..HIGH. A value may bring others: V1,KEY2=V."""
    seeds: Sequence[int] = (0,)
    of: str = ""
    """What is measured, by its key; by default the last of each whole run."""
    trials: int = 0
    """Settings that a search tries; 0: all combinations are run."""
    forward: int = 0
    """Earlier splits by which settings are chosen, before the chosen one is run on the recipe's own; 0: the
    validation part of each run chooses."""
    overrides: Sequence[str] = ()

    def axes(self) -> list[Axis]:
        """Keys and their values. ClusterError for none of a value, and a key twice."""
        axes: list[Axis] = []
        for one in self.vary:
            axis = Axis.of(one)
            if axis.key == "seed" or axis.key in (known.key for known in axes):
                raise ClusterError(
                    f"--vary: found {axis.key} again, expected each key once, and --seed for seeds"
                )
            if axis.bounds and not self.trials:
                raise ClusterError(f"--vary: found the range {one!r}, expected --trials N, or KEY=V1|V2")
            axes.append(axis)
        return axes

    def cells(self) -> list[Cell]:
        """The runs of all combinations, in order; of ranges their ends. ClusterError for what a recipe
        refuses, as far as it is known before anything is run."""
        axes = self.axes()
        if len(set(self.seeds)) < len(self.seeds):
            raise ClusterError(f"--seed: found {', '.join(map(str, self.seeds))}, expected each once")
        if self.trials < 0 or (self.trials and not axes):
            raise ClusterError(f"--trials: found {self.trials} without --vary, expected what to search")
        made = [a.key for a in axes if a.key.split(".")[0] in ("dataset", "build", "features")]
        if made and self.store is not None:
            raise ClusterError(
                f"--vary: found {made[0]} with --store, expected --data: stores are made of it"
            )
        split = load_config(self.config, [*self.overrides]).task.split
        if self.forward and (split.by != "time" or split.test_until):
            raise ClusterError("--forward: found no split by time with all later rows, expected one")
        ends = product(*(axis.ends for axis in axes))
        cells = [cell for values in ends for cell in self.cells_of(_settings(axes, values))]
        for cell in cells:
            cell.require_measured(self.of)
        names = [cell.name for cell in cells]
        if len(set(names)) < len(names):
            raise ClusterError(f"--vary: found values of one name ({max(names, key=names.count)})")
        return cells

    def cells_of(self, settings: tuple[str, ...], split: tuple[str, ...] = ()) -> list[Cell]:
        """The runs of a setting: one for each seed. split: overrides of an earlier one."""
        return [
            Cell(
                settings,
                seed,
                load_config(self.config, [*self.overrides, *settings, *split, f"seed={seed}"]),
                split,
            )
            for seed in self.seeds
        ]


def _settings(axes: Sequence[Axis], values: Sequence[str]) -> tuple[str, ...]:
    """Overrides: of a value that brings others with it, as `gcn,graph.lr=0.008`, each for itself."""
    told = (f"{axis.key}={value}" for axis, value in zip(axes, values, strict=True))
    return tuple(one for text in told for one in re.split(r",(?=[\w.]+=)", text))


@dataclass(frozen=True)
class Cell:
    """One run."""

    settings: tuple[str, ...]
    seed: int
    config: RunConfig
    split: tuple[str, ...] = ()
    """Overrides of an earlier split; empty: the recipe's own."""

    def require_measured(self, of: str) -> None:
        """ClusterError where its evaluation does not measure `of`, or nothing."""
        if EVALUATION not in self.config.stages:
            raise ClusterError(f"stages: found {self.config.stages}, expected {EVALUATION} among them")
        keys = [key for name in self.config.stages for key in stage_of(name).titles(self.config)]
        if of and of not in keys:
            raise ClusterError(f"--of: found {of!r}, expected one of {', '.join(keys)}")

    @property
    def name(self) -> str:
        """Of its folder."""
        until = [one.rpartition("=")[2] for one in self.split[:1]]
        words = [re.sub(r"[^\w.=+-]+", "_", one) for one in self.settings]
        return ",".join([*words, *(f"until={day}" for day in until), f"seed={self.seed}"])


def sweep(asked: Sweep) -> Iterator[dict[str, Any]]:
    """A row for each run as it ends, then one for each setting with the mean and spread over its seeds (and
    earlier splits, if any chose); those of the chosen setting on the recipe's own split are the last."""
    axes = asked.axes()
    cluster = asked.cells()[0].config.cluster  # all that is refused is refused first
    require_room(cluster)
    require_tracking(cluster.mlflow)
    with writing_to(asked.out):
        asked.out.mkdir(parents=True, exist_ok=True)
    sweeping = _Sweeping(asked)
    splits = sweeping.earlier_splits() if asked.forward else [()]
    part = "test" if asked.forward else "val"
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for question in questions(asked, axes):
        settings = _settings(axes, question.values)
        cells = [cell for split in splits for cell in asked.cells_of(settings, split)]
        own = yield from sweeping.rows_of(cells)
        if own:
            rows[settings] = own
        question.answer(_told(own, part) if len(own) == len(cells) else None)
    complete = {name: own for name, own in rows.items() if len(own) == len(splits) * len(asked.seeds)}
    chosen = _chosen(complete, part)
    for settings, own in rows.items():
        yield _setting(settings, own, settings == chosen, bool(asked.forward))
    if asked.forward and chosen is not None:
        last = yield from sweeping.rows_of(asked.cells_of(chosen))
        if last:
            yield _setting(chosen, last, True, False)


def _setting(
    settings: tuple[str, ...], own: Sequence[dict[str, Any]], is_chosen: bool, is_forward: bool
) -> dict[str, Any]:
    parts = {"forward": "test"} if is_forward else {"val": "val", "test": "test"}
    return {
        "case": "setting",
        "settings": list(settings),
        "what": own[0]["what"],
        "seeds": len({row["seed"] for row in own}),
        "is_chosen": is_chosen,
        **{name: own[0][name] for name in ("metrics", "titles")},
        **{name: _spread(own, part) for name, part in parts.items()},
    }


class _Sweeping:
    """The runs of a sweep so far."""

    def __init__(self, asked: Sweep) -> None:
        self.asked = asked
        self.runs: list[Run] = []

    def earlier_splits(self) -> list[tuple[str, ...]]:
        """Overrides of splits of the train period by its own examples: of N, each trains on a part more than
        the one before, the first on two of N + 2 equal ones, and measures on the part that follows.
        ClusterError where they are of too few days."""
        asked = self.asked
        (cell, *_) = asked.cells_of(())
        path = asked.out / "forward"
        with locked(path):
            run = Run.start(path, cell.config, asked.data, asked.store)
        self.runs.append(run)
        examples, split = run.task.examples(run.store), run.config.task.split
        column = run.store.column(run.store.schema.target, split.column)
        times = np.asarray(column)[np.concatenate([examples.train, examples.val])]
        shares = np.arange(2, asked.forward + 3) / (asked.forward + 2)
        ends = np.quantile(times, shares, method="lower").tolist()
        days = [datetime.fromtimestamp(end, split.zone).strftime("%Y-%m-%d") for end in ends]
        if len(set(days)) < len(days):
            raise ClusterError(
                f"--forward: found {len(set(days))} days ({', '.join(dict.fromkeys(days))}), expected "
                f"{len(days)} to part the train period by"
            )
        return [(f"task.split.until={a}", f"task.split.test_until={b}") for a, b in pairwise(days)]

    def rows_of(self, cells: Sequence[Cell]) -> Generator[dict[str, Any], None, list[dict[str, Any]]]:
        """Run them, and tell; the rows of those that did not fail."""
        made = []
        for cell in cells:
            row = self._row(cell)
            yield row
            if row["case"] == "run":
                made.append(row)
        return made

    def _row(self, cell: Cell) -> dict[str, Any]:
        asked, path = self.asked, self.asked.out / cell.name
        say(f"run {path}")
        told = {"settings": list(cell.settings), "seed": cell.seed, "split": list(cell.split)}
        try:
            with locked(path):
                run = _started(asked, cell, path, self.runs)
                borrow(run, self.runs)
                self.runs.append(run)
                execute(run, run.stages)
                run.publish()
                track(run)
        except Exception as error:
            if not (isinstance(error, StageFailedError) or is_bad_input(error)):
                raise
            why = " ".join(str(error).split())
            return {"case": "failed", "run": str(path), **told, "why": why}
        return {**_measured(run, asked.of), **told}


def _told(own: Sequence[dict[str, Any]], part: str) -> float | None:
    """What a search makes as small as it can: the mean of what chooses, or its negative."""
    by = own[0]["chooses"]
    spread = _spread(own, part)
    if by not in spread:
        return None
    return -spread[by][0] if own[0]["larger_is_better"] else spread[by][0]


def _started(asked: Sweep, cell: Cell, path: Path, runs: Sequence[Run]) -> Run:
    """On the store of an earlier run, where that is of the same data and settings of its own. ClusterError
    for a folder that holds a run on other data."""
    config = cell.config
    for run in runs:
        same = (run.config.build, run.config.features) == (config.build, config.features)
        if same and run.config.dataset == config.dataset:
            return Run.start(path, config, None, run.store.path)
    return Run.start(path, config, asked.data, asked.store)


def _measured(run: Run, of: str) -> dict[str, Any]:
    key, stages = result_key(run, of), run.metrics()["stages"]
    metrics = run.task.metrics
    parts = {
        part: {m.name: stages[key][part].get(m.name) for m in metrics if part in stages[key]}
        for part in ("val", "test")
    }
    return {
        "case": "run",
        "run": str(run.path),
        "what": run.titles.get(key, key),
        "metrics": [m.name for m in metrics],
        "titles": [m.title for m in metrics],
        "chooses": run.task.chooses,
        "larger_is_better": next(m.larger_is_better for m in metrics if m.name == run.task.chooses),
        **parts,
    }


def _chosen(rows: dict[tuple[str, ...], list[dict[str, Any]]], part: str) -> tuple[str, ...] | None:
    """The setting with the best mean of a part, of those that are given."""
    means = {settings: told for settings, own in rows.items() if (told := _told(own, part)) is not None}
    return min(means, key=lambda one: means[one]) if means else None


def _spread(rows: Sequence[dict[str, Any]], part: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over runs, by metric."""
    made = {}
    for name in rows[0]["metrics"]:
        values = [value for row in rows if (value := row[part].get(name)) is not None]
        if values:
            made[name] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return made


def line(row: dict[str, Any]) -> str:
    """A row as text."""
    settings = " ".join(row["settings"]) or "the recipe"
    if row["case"] == "failed":
        return f"{settings}: failed: {row['why']}"
    if row["case"] == "run":
        shown = [
            f"{part} " + " ".join(f"{t} {row[part][m]:.4f}" for m, t in _known(row, part))
            for part in ("val", "test")
            if row[part]
        ]
        until = "".join(f" {one.removeprefix('task.split.')}" for one in row["split"])
        return f"{settings}{until} seed={row['seed']}: {row['what']}: {'; '.join(shown)}"
    shown = []
    for part in ("val", "forward", "test"):
        if part not in row:
            continue
        told = [(title, *row[part][name]) for name, title in _known(row, part)]
        shown += [f"{part} " + " ".join(f"{t} {mean:.4f} ± {sd:.4f}" for t, mean, sd in told)] if told else []
    by = "earlier splits" if "forward" in row else "validation"
    mark = f"  <- best by {by}" if row["is_chosen"] else ""
    return f"{settings}, {row['seeds']} seeds: {row['what']}: {'; '.join(shown)}{mark}"


def _known(row: dict[str, Any], part: str) -> list[tuple[str, str]]:
    """Metrics that a part has a figure of, and their titles."""
    both = zip(row["metrics"], row["titles"], strict=True)
    return [(name, title) for name, title in both if row[part].get(name) is not None]
