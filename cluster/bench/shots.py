"""`netgpt bench shots`: few-shot prompts by shots, tuning, loss and seed, beside the paper's figures.

Each cell is a run of its own in a folder that is kept: called again, what is done is not done again. What
runs have in common (base model, tokens, tuned weights, pairs) is made once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.bench.measure import spread
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError, StageFailedError
from netgpt.cluster.pipeline import Run, borrow, execute, locked
from netgpt.graphstore import Store
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.language.preference.config import LOSSES
from netgpt.trainers.stages.shots import Align, MakePairs, Tune
from netgpt.trainers.tasks.baselines import Measures
from netgpt.trainers.tasks.evaluate import Judge
from netgpt.trainers.tasks.names import make_task

UNTUNED = "none"
MAIN = "main"
PAPER = {
    "HyFea": ((2.10, 0.59), (1.93, 0.63), (1.78, 0.67)),
    "USTC-CR": ((2.16, 0.62), (2.09, 0.71), (1.71, 0.76)),
    "GPT-4o": ((3.07, None), (2.78, None), (3.05, None)),
    "VisualGLM-6B, LoRA": ((3.77, 0.11), (2.43, 0.09), (4.76, -0.17)),
    "Llama2-7B, LoRA": ((3.24, 0.19), (3.65, -0.10), (2.67, 0.24)),
    "Llama3.2-1B, full": ((3.09, 0.05), (3.34, -0.01), (1.69, 0.75)),
    "MultiSmpLLM, freeze": ((3.12, 0.13), (2.53, 0.34), (2.68, 0.32)),
    "MultiSmpLLM, LoRA": ((1.23, 0.80), (1.33, 0.71), (1.02, 0.89)),
}
"""Table 5: MAE and Spearman on the main set of SMPD, by shots."""


@dataclass(frozen=True)
class ShotsBench:
    config: str
    data: Path
    out: Path
    shots: Sequence[int] = (1, 2, 3)
    methods: Sequence[str] = ("lora",)
    """Of tune, or none: the model as it is."""
    losses: Sequence[str] = ("dpo", "dpop", "idpop")
    seeds: Sequence[int] = (0,)
    overrides: Sequence[str] = ()

    def settings(self, shots: int, method: str, loss: str, seed: int, *, tuned: bool = True) -> RunConfig:
        """tuned: whether what tuning came to is measured too."""
        untuned = method == UNTUNED
        own = [f"build.shots={shots}", f"seed={seed}", f"tune.method={'lora' if untuned else method}"]
        if not untuned:
            own += [f"prefer.loss={loss}"] + ([] if tuned else [f"evaluation.stages=[{Align.name}]"])
            return load_config(self.config, [*self.overrides, *own])
        stages = load_config(self.config, list(self.overrides)).stages
        left = [name for name in stages if name not in (MakePairs.name, Align.name)]
        others = (f"{MakePairs.name}.", f"{Align.name}.")
        given = [one for one in self.overrides if not one.startswith(others)]
        return load_config(self.config, [*given, *own, "tune.epochs=0", f"stages=[{','.join(left)}]"])


def bench_shots(bench: ShotsBench) -> Iterator[dict[str, Any]]:
    """A row for each baseline and for each run's stages, by shots and seed; then of each the mean, the least
    and the most; then the paper's."""
    for loss in bench.losses:
        if loss not in LOSSES:
            raise ClusterError(f"--loss: found {loss!r}, expected some of {', '.join(LOSSES)}")
    for shots in bench.shots:  # all that is refused is refused first
        for method in bench.methods:
            config = bench.settings(shots, method, LOSSES[0], 0)
            if method != UNTUNED and not hasattr(config.settings, Align.name):
                raise ClusterError(
                    f"--config: found {bench.config}, expected a recipe with the stage {Align.name}"
                )
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for shots in bench.shots:
        store: Store | None = None
        for method in bench.methods:
            # Untrained and greedy it is the same with any seed
            for seed in bench.seeds[:1] if method == UNTUNED else bench.seeds:
                for row in _cell(bench, shots, method, seed, store):
                    store = row.pop("store")
                    found.setdefault((row["what"], shots), []).append(row)
                    yield row
        if store is not None:
            for row in _baselines(bench, shots, store):
                found.setdefault((row["what"], shots), []).append(row)
                yield row
    for (what, shots), rows in found.items():
        if done := [row for row in rows if row["case"] != "failed"]:
            yield {"case": "mean", "what": what, "shots": shots, "num": len(done), **_mean(done)}
    for what, figures in PAPER.items():
        for shots, (mae, spearman) in enumerate(figures, start=1):
            if shots in bench.shots:
                yield {"case": "paper", "what": what, "shots": shots, "mae": mae, "spearman": spearman}


def _cell(
    bench: ShotsBench, shots: int, method: str, seed: int, store: Store | None
) -> Iterator[dict[str, Any]]:
    """The rows of one tuning: its own, and one for each loss. store: of these shots, where there is one."""
    first: Run | None = None
    untuned = method == UNTUNED
    for loss in [UNTUNED] if untuned else bench.losses:
        path = bench.out / f"k{shots}-{method}-{loss}-{seed}"
        with locked(path):
            config = bench.settings(shots, method, loss, seed, tuned=first is None)
            run = _started(path, config, bench.data, store)
            store = run.store
            if first is not None:
                borrow(run, [first])
            failed = ""
            try:
                execute(run, run.stages)
            except StageFailedError as error:
                if not run.is_done(Tune.name):
                    raise
                failed = str(error)
        row = {"shots": shots, "seed": seed, "store": store}
        borrowed, first = first, first or run
        if failed:
            yield {"case": "failed", "what": f"{method} + {loss}", "why": failed, **row}
            continue
        metrics = run.metrics()["stages"]
        if borrowed is None:
            name = "the model as it is" if untuned else method
            yield {"case": "run", "what": name, **row, **_measured(metrics[f"{Tune.name}_generated"])}
        if not untuned:
            measured = _measured(metrics[f"{Align.name}_generated"])
            yield {"case": "run", "what": f"{method} + {loss}", **row, **measured, "chosen": _chosen(path)}


def _started(path: Path, config: RunConfig, data: Path, store: Store | None) -> Run:
    if (path / "store.json").exists():
        return Run.start(path, config, None, None)
    return Run.start(path, config, data, None) if store is None else Run.start(path, config, None, store.path)


def _measured(parts: dict[str, Measures]) -> dict[str, Any]:
    """MAE, Spearman and the share with a number of all of test, and of the main set."""
    test = parts["test"]
    own = test.get("set", {}).get(MAIN, test)
    return {"test": _figures(test), MAIN: _figures(own)}


def _figures(measures: Measures) -> dict[str, Any]:
    parsed = 1 - measures.get("unparsed", 0) / measures["num"]
    return {"mae": measures["mae"], "spearman": measures["spearman"], "parsed": parsed}


def _chosen(path: Path) -> list[float]:
    """By point of the training curve: how much likelier than at the start the chosen answers are, as log."""
    from netgpt.trainers.stages.folder import read_manifest

    manifest = read_manifest(path / Align.name)
    curve = manifest["metrics"]["curve"] if manifest else []
    return [point["chosen"] for point in curve if "chosen" in point]


def _baselines(bench: ShotsBench, shots: int, store: Store) -> Iterator[dict[str, Any]]:
    task = make_task(bench.settings(shots, "lora", LOSSES[0], 0).task)
    examples = task.examples(store)
    codes, values = store.category(store.schema.target, "set")
    main = np.asarray(codes)[examples.test] == list(values).index(MAIN)
    truth = examples.truth[examples.test]
    judge = Judge(store, task, examples, EvaluationConfig())
    for name, baseline in judge.baselines.items():
        if baseline.scores is not None:
            both = {"test": np.ones(len(main), bool), MAIN: main}
            measured = {
                part: _figures(task.measure(baseline.scores[chosen], truth[chosen]))
                for part, chosen in both.items()
            }
            yield {"case": "baseline", "what": name, "shots": shots, **measured}


def _mean(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for part in ("test", MAIN):
        for name in ("mae", "spearman", "parsed"):
            values = [row[part][name] for row in rows if part in row and row[part][name] is not None]
            if values:
                made[f"{part}_{name}"] = spread(values)
    ends = [row["chosen"][-1] for row in rows if row.get("chosen")]
    return made | ({"chosen": spread(ends)} if ends else {})


def line(result: dict[str, Any]) -> str:
    """A row as text."""

    def figures(one: dict[str, Any]) -> str:
        mae = "    –" if one["mae"] is None else f"{one['mae']:5.2f}"
        rho = "    –" if one["spearman"] is None else f"{one['spearman']:5.2f}"
        return f"{mae} {rho}" + (f" {one['parsed']:4.0%}" if "parsed" in one else "")

    head = f"{result['case']:<9}{result['what']:<34}{result['shots']}-shot  "
    if result["case"] == "failed":
        return f"{head}{result['why']}"
    if result["case"] == "paper":
        return f"{head}main {figures(result)}   (published; not run here)"
    if result["case"] == "mean":
        said = [
            f"{part} {name} {mean:.3f} ({low:.3f}…{high:.3f})"
            for part in ("test", MAIN)
            for name in ("mae", "spearman", "parsed")
            if (found := result.get(f"{part}_{name}"))
            for mean, low, high in [found]
        ]
        if chosen := result.get("chosen"):
            said.append(f"chosen {chosen[0]:+.2f} ({chosen[1]:+.2f}…{chosen[2]:+.2f})")
        return f"{head}{result['num']} seeds: {', '.join(said)}"
    chosen_end = f"   chosen {result['chosen'][-1]:+.2f}" if result.get("chosen") else ""
    return f"{head}main {figures(result[MAIN])}   test {figures(result['test'])}{chosen_end}"
