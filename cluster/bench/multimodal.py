"""`netgpt bench multimodal`: models of modalities and retrieved neighbours, on the same examples of several
splits.

Each figure stands beside the ridge regression on the texts of the same split: what a model gains on it is
taken example by example, since the spread between splits is larger than most differences between models.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.cluster.bench.measure import spread
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import Store
from netgpt.graphstore.datasets import names as datasets
from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.models.names import model_class
from netgpt.trainers.multimodal.peers import PEERS, peer_scores
from netgpt.trainers.multimodal.rows import ModalRows
from netgpt.trainers.multimodal.train import MultimodalTrainer, load_scores
from netgpt.trainers.processor import use_cores
from netgpt.trainers.tasks.base import Examples, Task
from netgpt.trainers.tasks.baselines import RIDGE
from netgpt.trainers.tasks.names import make_task

DRAWS = 1000
"""Bootstrap samples of the test examples."""


@dataclass(frozen=True)
class MultimodalBench:
    config: str
    data: Path
    models: Sequence[str]
    """A name, and settings behind it: `mmra multimodal.without=[RE]`; svr; hyfea."""
    seeds: Sequence[int] = (0,)
    """Of the split and of the training."""
    features: Path | None = None
    overrides: Sequence[str] = ()

    def settings(self, model: str, seed: int) -> RunConfig:
        """The recipe with all that goes over it. ClusterError for a model that there is not."""
        name, *own = model.split() or [""]
        given = [*self.overrides, *own, f"seed={seed}"]
        if name not in PEERS:
            given.append(f"multimodal.model={name}")
        config = load_config(self.config, given)
        known = any(one.name == "split_seed" for one in fields(config.build))
        split = "build.split_seed" if known else "task.split.seed"
        return load_config(self.config, [*given, f"{split}={seed}"])


def bench_multimodal(bench: MultimodalBench, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """Metrics of the baselines and of each model by seed; then of each the mean, the least and the most."""
    for model in bench.models:  # all that is refused is refused first
        for setting in model.split()[1:]:
            if not setting.startswith("multimodal."):
                raise ClusterError(
                    f"--model: found {setting!r} behind {model.split()[0]}, expected keys of multimodal: "
                    "what all models share goes behind the options"
                )
        config = bench.settings(model, bench.seeds[0])
        if not hasattr(config.settings, "multimodal"):
            raise ClusterError(f"--config: found {bench.config}, expected a recipe with the stage multimodal")
        if model.split()[0] not in PEERS:
            model_class(_section(config).model)
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in bench.seeds:
        with TemporaryDirectory(dir=scratch) as folder:
            config = bench.settings("mmra", seed)
            use_cores(config.cluster.threads)
            store = _built(config, bench, Path(folder) / "store")
            task = make_task(config.task)
            examples = task.examples(store)
            start, truth = time.perf_counter(), examples.truth[examples.test]
            baselines = {
                name: one.scores
                for name, one in task.baselines(store, examples.train, examples.test).items()
                if one.scores is not None
            }
            took = (time.perf_counter() - start) / max(1, len(baselines))
            reference = baselines.get(RIDGE)
            for name, scores in baselines.items():
                result: dict[str, Any] = {"test": task.measure(scores, truth), "seconds": took}
                result |= _gain(scores, reference, truth)
                found.setdefault(name, []).append(result)
                yield {"case": "baseline", "model": name, "seed": seed, **result}
            for model in bench.models:
                result = _trained(bench.settings(model, seed), store, task, examples, model, Path(folder))
                result |= _gain(result.pop("scores"), reference, truth)
                found.setdefault(model, []).append(result)
                yield {"case": "model", "model": model, "seed": seed, **result}
    for model, results in found.items():
        yield {"case": "mean", "model": model, "num": len(results), **_mean(results)}


def _section(config: RunConfig) -> MultimodalConfig:
    return config.settings.section("multimodal", MultimodalConfig)


def _built(config: RunConfig, bench: MultimodalBench, out: Path) -> Store:
    dataset = datasets.load(config.dataset)
    graphstore.build(bench.data, out, config.build, dataset=dataset, features=bench.features)
    return graphstore.open(out)


def _trained(
    config: RunConfig, store: Store, task: Task, examples: Examples, model: str, folder: Path
) -> dict[str, Any]:
    """Metrics of val and test, and the scores of test."""
    start, epochs = time.perf_counter(), dict[str, int]()
    section, name = _section(config), model.split()[0]
    if name in PEERS:
        rows = ModalRows(store, section, examples, near=False)
        both = peer_scores(name, rows, examples, np.concatenate([examples.val, examples.test]))
        val, test = np.split(both, [len(examples.val)])
    else:
        with TemporaryDirectory(dir=folder) as own:
            trainer = MultimodalTrainer(section, config.seed, store, task, config.evaluation, Path(own))
            made = trainer.run()
            epochs = {"best_epoch": made["best"]["epoch"], "epochs": made["epochs"]}
            scores = load_scores(Path(own), store)
        val, test = scores[examples.val], scores[examples.test]
    measured = {
        "val": task.measure(val, examples.truth[examples.val]),
        "test": task.measure(test, examples.truth[examples.test]),
    }
    return {**measured, **epochs, "seconds": time.perf_counter() - start, "scores": test}


def _gain(scores: np.ndarray, reference: np.ndarray | None, truth: np.ndarray) -> dict[str, Any]:
    """By how much nMSE and MAE are below the reference's on the same examples, with the standard deviation of
    a bootstrap over examples."""
    if reference is None or scores.ndim > 1 or scores is reference:
        return {}
    rng, made = np.random.default_rng(0), dict[str, list[float]]()
    variance = float(truth.var()) or 1.0
    errors = {"nmse": lambda x: (x - truth) ** 2 / variance, "mae": lambda x: np.abs(x - truth)}
    for name, error in errors.items():
        differences = error(reference) - error(scores)
        draws = [float(rng.choice(differences, len(differences)).mean()) for _ in range(DRAWS)]
        made[name] = [float(differences.mean()), statistics.pstdev(draws)]
    return {"gain": made}


def _mean(results: list[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name in results[0]["test"]:
        values = [one["test"][name] for one in results if one["test"][name] is not None]
        if name != "num" and values:
            made[name] = spread(values)
    gains = [one["gain"] for one in results if "gain" in one]
    if gains:
        gained = {name: spread(values) for name in gains[0] if (values := [one[name][0] for one in gains])}
        return {"test": made, "gain": gained}
    return {"test": made}


def line(result: dict[str, Any]) -> str:
    name = result["model"]
    if result["case"] == "mean":
        parts = [f"{key} {v[0]:.4f} ({v[1]:.4f} to {v[2]:.4f})" for key, v in result["test"].items()]
        gains = [
            f"{key} {v[0]:+.4f} ({v[1]:+.4f} to {v[2]:+.4f}) on the ridge"
            for key, v in result.get("gain", {}).items()
        ]
        return f"mean of {result['num']}: {name}: " + ", ".join([*parts, *gains])
    test = result["test"]
    parts = [f"{key} {value:.4f}" for key, value in test.items() if key != "num" and value is not None]
    gains = [f"{key} {v[0]:+.4f} ± {v[1]:.4f} on the ridge" for key, v in result.get("gain", {}).items()]
    return f"seed {result['seed']}: {name}: " + ", ".join([*parts, *gains, f"{result['seconds']:.0f} s"])
