"""`netgpt sweep`: a recipe over some settings and seeds, each a run of its own, in one table.

Runs lie in one folder and are kept: called again, what is done is not done again, and what was cut off goes
on. What they have in common (the store, the tokens, a stage of the same inputs) is made once. Settings are
chosen by validation: its figure is in the table, the test's stands beside it.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from netgpt.cluster.compare import result_key
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError, StageFailedError, is_bad_input
from netgpt.cluster.pipeline import Run, borrow, execute, locked, require_room
from netgpt.cluster.pipeline.run import EVALUATION
from netgpt.cluster.progress import say
from netgpt.trainers.stages.names import stage_of


@dataclass(frozen=True, kw_only=True)
class Sweep:
    config: str
    out: Path
    data: Path | None = None
    store: Path | None = None
    vary: Sequence[str] = ()
    """KEY=V1|V2|…: all combinations are run."""
    seeds: Sequence[int] = (0,)
    of: str = ""
    """What is measured, by its key; by default the last of each whole run."""
    overrides: Sequence[str] = ()

    def axes(self) -> list[tuple[str, list[str]]]:
        """Keys and their values. ClusterError for none of a value, and a key twice."""
        axes: list[tuple[str, list[str]]] = []
        for one in self.vary:
            key, equals, values = one.partition("=")
            if not equals or not values:
                raise ClusterError(f"--vary: found {one!r}, expected KEY=V1|V2 such as graph.lr=0.004|0.008")
            if key == "seed" or key in (known for known, _ in axes):
                raise ClusterError(f"--vary: found {key} again, expected each key once, and --seed for seeds")
            axes.append((key, values.split("|")))
        return axes

    def cells(self) -> list[Cell]:
        """All runs, in order. ClusterError for settings that a recipe refuses, and for two of one name."""
        axes, cells = self.axes(), []
        for values in product(*(values for _, values in axes)):
            settings = tuple(f"{key}={value}" for (key, _), value in zip(axes, values, strict=True))
            for seed in self.seeds:
                overrides = [*self.overrides, *settings, f"seed={seed}"]
                cells.append(Cell(settings, seed, load_config(self.config, overrides)))
        if len(set(self.seeds)) < len(self.seeds):
            raise ClusterError(f"--seed: found {', '.join(map(str, self.seeds))}, expected each once")
        made = [key for key, _ in axes if key.split(".")[0] in ("dataset", "build", "features")]
        if made and self.store is not None:
            raise ClusterError(
                f"--vary: found {made[0]} with --store, expected --data: stores are made of it"
            )
        for cell in cells:
            cell.require_measured(self.of)
        names = [cell.name for cell in cells]
        if len(set(names)) < len(names):
            raise ClusterError(f"--vary: found values of one name ({max(names, key=names.count)})")
        return cells


@dataclass(frozen=True)
class Cell:
    """One run."""

    settings: tuple[str, ...]
    seed: int
    config: RunConfig

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
        words = [re.sub(r"[^\w.=+-]+", "_", one) for one in self.settings]
        return ",".join([*words, f"seed={self.seed}"])


def sweep(asked: Sweep) -> Iterator[dict[str, Any]]:
    """A row for each run as it ends, then one for each setting with the mean and spread over its seeds."""
    cells = asked.cells()  # all that is refused is refused first
    require_room(cells[0].config.cluster)
    runs: list[Run] = []
    rows: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for number, cell in enumerate(cells, start=1):
        path = asked.out / cell.name
        say(f"run {number} of {len(cells)}: {path}")
        try:
            with locked(path):
                run = _started(asked, cell, path, runs)
                borrow(run, runs)
                runs.append(run)
                execute(run, run.stages)
                run.publish()
        except Exception as error:
            if not (isinstance(error, StageFailedError) or is_bad_input(error)):
                raise
            why = " ".join(str(error).split())
            yield {
                "case": "failed",
                "run": str(path),
                "settings": list(cell.settings),
                "seed": cell.seed,
                "why": why,
            }
            continue
        row = {**_measured(run, asked.of), "settings": list(cell.settings), "seed": cell.seed}
        rows.setdefault(cell.settings, []).append(row)
        yield row
    chosen = _chosen({name: own for name, own in rows.items() if len(own) == len(asked.seeds)})
    for settings, own in rows.items():
        yield {
            "case": "setting",
            "settings": list(settings),
            "what": own[0]["what"],
            "seeds": len(own),
            "is_chosen": settings == chosen,
            **{name: own[0][name] for name in ("metrics", "titles")},
            **{part: _spread(own, part) for part in ("val", "test")},
        }


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


def _chosen(rows: dict[tuple[str, ...], list[dict[str, Any]]]) -> tuple[str, ...] | None:
    """The setting with the best mean of validation, of those that are given."""
    first = next((own[0] for own in rows.values()), None)
    if first is None:
        return None
    by, spreads = first["chooses"], {settings: _spread(own, "val") for settings, own in rows.items()}
    means = {settings: one[by][0] for settings, one in spreads.items() if by in one}
    best = max if first["larger_is_better"] else min
    return best(means, key=lambda one: means[one]) if means else None


def _spread(rows: Sequence[dict[str, Any]], part: str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation over seeds, by metric."""
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
        return f"{settings} seed={row['seed']}: {row['what']}: {'; '.join(shown)}"
    shown = []
    for part in ("val", "test"):
        told = [(title, *row[part][name]) for name, title in _known(row, part)]
        shown += [f"{part} " + " ".join(f"{t} {mean:.4f} ± {sd:.4f}" for t, mean, sd in told)] if told else []
    mark = "  <- best by validation" if row["is_chosen"] else ""
    return f"{settings}, {row['seeds']} seeds: {row['what']}: {'; '.join(shown)}{mark}"


def _known(row: dict[str, Any], part: str) -> list[tuple[str, str]]:
    """Metrics that a part has a figure of, and their titles."""
    both = zip(row["metrics"], row["titles"], strict=True)
    return [(name, title) for name, title in both if row[part].get(name) is not None]
