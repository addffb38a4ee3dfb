"""A run: its folder, its store, and what its stages are made from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import numpy as np

from netgpt import graphstore
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.features.make import feature_encoders, features_for
from netgpt.cluster.stores import build_store
from netgpt.graphstore import Store
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.files import Json, atomic_file, read_json, write_json
from netgpt.graphstore.json_stream import json_text
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.base import Stage, StageJob
from netgpt.trainers.stages.evaluation import INTERVALS
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.base import Task
from netgpt.trainers.tasks.baselines import RunMetrics
from netgpt.trainers.tasks.evaluate import PREDICTIONS
from netgpt.trainers.tasks.intervals import Intervals
from netgpt.trainers.tasks.names import make_task

CONFIG = "config.yaml"
EVALUATION = "evaluation"


@dataclass
class Run:
    """One run folder. `open_` takes what is on disk; `start` makes or continues it."""

    path: Path
    config: RunConfig
    store: Store
    _done: dict[str, Json] = field(default_factory=dict)
    """Inputs of the stages that were found done."""
    _remembered: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def start(path: Path, config: RunConfig, data: Path | None, store: Path | None) -> Run:
        """Make the folder and the store, or check that what is there is of the same data."""
        if data is not None and store is not None:
            raise ClusterError("found both --data and --store, expected one of them")
        for name in (*config.stages, *config.baselines):
            if name in config.stages or stage_of(name).applies(config.settings):
                stage_of(name).check(config.settings)
        for left in path.glob(".store.*.tmp"):  # of a build that was killed; the caller holds the run
            shutil.rmtree(left, ignore_errors=True)
        note = path / "store.json"
        known: Json | None = read_json(note) if note.exists() else None
        if data is not None:
            if not data.exists():
                raise ClusterError(f"--data: found no file {data}, expected a source of {config.dataset}")
            wanted = {
                "dataset": config.dataset,
                "source_digest": datasets.load(config.dataset).open(data, config.build).digest(),
                "build": asdict(config.build),
                "features": feature_encoders(config.features),
            }
            where = path / "store"
            if known is not None and known["path"] != "store":
                raise ClusterError(f"{path}: holds a run on the store {known['path']}; choose another --out")
            if not where.exists() and known is None:
                features = features_for(config, data, path / "features")
                build_store(data, where, config.build, features, dataset=config.dataset)
            if _made_of(graphstore.open(where), config) != wanted:
                raise ClusterError(
                    f"{path}: holds a run on other data, build settings or features; choose another --out"
                )
        elif store is not None:
            where, wanted = store.resolve(), {}
            if known is not None and known["digest"] != graphstore.open(where).digest:
                raise ClusterError(f"{path}: holds a run on another store; choose another --out")
        elif known is not None:
            where, wanted = (
                _store_path(path, known),
                {k: known[k] for k in known if k not in ("path", "digest")},
            )
        else:
            raise ClusterError(f"{path}: a new run, and neither --data nor --store was given")
        opened = graphstore.open(where)
        make_task(config.task).check(opened)  # refused here, and not by a worker
        if known is not None and known["digest"] != opened.digest:
            raise ClusterError(f"{path}: its store {where} has changed; choose another --out")
        if data is None:
            config = _with_features(config, opened, path if known is not None else None)
        with atomic_file(path / CONFIG) as temporary:
            temporary.write_text(config.to_yaml(), encoding="utf-8")
        inside = where == path / "store"
        write_json(note, {"path": "store" if inside else str(where), "digest": opened.digest, **wanted})
        return Run(path, config, opened)

    @staticmethod
    def open_(path: Path) -> Run:
        """A run that was started before, as it is."""
        if not (path / CONFIG).exists() or not (path / "store.json").exists():
            raise ClusterError(f"{path}: found no run, expected a folder made by netgpt run")
        known = read_json(path / "store.json")
        store = graphstore.open(_store_path(path, known))
        if store.digest != known["digest"]:
            raise ClusterError(f"{path}: its store {store.path} has changed since the run")
        return Run(path, load_config(str(path / CONFIG)), store)

    @property
    def settings(self) -> Settings:
        return self.config.settings

    @property
    def threads(self) -> int:
        return self.config.cluster.threads

    @property
    def task(self) -> Task:
        return make_task(self.config.task)

    def workers(self, stage: Stage) -> int:
        """Training workers of a stage."""
        return stage.num_workers(self.config, self.config.cluster.workers)

    def folder(self, name: str) -> Path:
        """Where a stage is."""
        return self.path / stage_of(name).name

    def digest(self, stage: str) -> str:
        """Digest of what a finished stage made; empty where it is not done."""
        return folder.stage_digest(self.folder(stage))

    def remembered(self, key: str, make: Callable[[], str]) -> str:
        """A digest that is made once a run."""
        if key not in self._remembered:
            self._remembered[key] = make()
        return self._remembered[key]

    def inputs(self, name: str) -> Json:
        """What a stage is made from: digests of stores, stages and settings that change its result."""
        return stage_of(name).inputs(self)

    def job(self, name: str, device: str = "cpu") -> StageJob:
        """One of its stages, for any process."""
        return StageJob(
            stage=name,
            run=self.path.resolve(),
            store=self.store.path.resolve(),
            settings=self.settings,
            inputs=self.inputs(name),
            device=device,
            num_threads=self.threads,
        )

    @property
    def stages(self) -> list[str]:
        """Stages that a whole run has, in order."""
        return [name for name in self.config.stages if stage_of(name).applies(self.config)]

    @property
    def possible_stages(self) -> list[str]:
        """Those and the baselines, in an order in which one worker could make them: the evaluation last."""
        baselines = [name for name in self.config.baselines if stage_of(name).applies(self.config)]
        last = [name for name in self.stages if name == EVALUATION]
        return [*(name for name in self.stages if name not in last), *baselines, *last]

    def needed(self, name: str) -> list[str]:
        """Stages that must be done before one."""
        return [needed for needed in stage_of(name).needs(self) if needed in self.possible_stages]

    @property
    def scratch(self) -> Path | None:
        """Where large temporary files of a command are made: in the run's folder; where that cannot be
        written, in the system's (None)."""
        return self.path if os.access(self.path, os.W_OK) else None

    def is_done(self, name: str) -> bool:
        """Whether a stage is done and matches. Its files are read for that once a run, then remembered."""
        inputs = self.inputs(name)
        if self._done.get(name) != inputs and folder.is_done(self.folder(name), inputs):
            self._done[name] = inputs
        return self._done.get(name) == inputs

    def forget(self, name: str) -> None:
        """Look at a stage's files again: it is made anew."""
        self._done.pop(name, None)

    def require_done(self, names: Iterable[str]) -> None:
        """ClusterError unless these stages are done and match."""
        for name in names:
            if not self.is_done(name):
                stage = stage_of(name)
                raise ClusterError(f"{self.path}: not done: {stage.title}; run first: netgpt {stage.command}")

    def require_trained(self) -> None:
        """ClusterError unless every stage before the evaluation is done and matches."""
        self.require_done(name for name in self.stages if name != EVALUATION)

    def test_predictions(self) -> dict[str, np.ndarray]:
        """Columns of what the evaluation predicted, of its test rows in their order."""
        import pyarrow.parquet as pq

        table = pq.read_table(self.path / EVALUATION / PREDICTIONS, filters=[("split", "==", "test")])
        return {name: np.asarray(table[name].to_pylist()) for name in table.column_names}

    def publish(self) -> None:
        """Metrics of all stages, and the predictions, in the run's own folder."""
        self._write_metrics()
        if EVALUATION in self.stages and self.is_done(EVALUATION):
            _write_new(self.path / PREDICTIONS, (self.path / EVALUATION / PREDICTIONS).read_bytes())

    def _write_metrics(self) -> None:
        """metrics.jsonl: a line for each point of the curves and each epoch of each stage, and one for the
        evaluation."""
        lines = []
        for name in self.possible_stages:
            manifest, own = folder.read_manifest(self.folder(name)), stage_of(name).name
            if manifest is None:
                continue
            for kind in ("curve", "history"):
                lines += [{"stage": own, **entry} for entry in manifest["metrics"].get(kind, [])]
            if name == EVALUATION:
                lines.append({"stage": own, **manifest["metrics"]})
        text = "".join(json_text(line) + "\n" for line in lines)
        _write_new(self.path / "metrics.jsonl", text.encode())

    def metrics(self) -> RunMetrics:
        """Metrics of the finished evaluation."""
        manifest = folder.read_manifest(self.path / EVALUATION)
        assert manifest is not None
        return cast(RunMetrics, manifest["metrics"])

    def intervals(self) -> Intervals:
        """Of the finished evaluation; none of one that an older version made."""
        path = self.path / EVALUATION / INTERVALS
        return cast(Intervals, read_json(path)) if path.is_file() else {}

    @property
    def titles(self) -> dict[str, str]:
        """Names for people of all that the evaluation measures."""
        return {
            key: title
            for name in self.possible_stages
            for key, title in stage_of(name).titles(self.settings).items()
        }

    @property
    def apart(self) -> tuple[str, str]:
        """Name and title of the flag whose test examples are measured apart; empty without one."""
        name = self.config.evaluation.apart
        return name, self.store.schema.node_type(self.store.schema.target).title_of(name)


def _write_new(path: Path, data: bytes) -> None:
    """Write a file where it is not so already: a run that is whole may lie where nobody can write."""
    if not path.is_file() or path.read_bytes() != data:
        with atomic_file(path) as temporary:
            temporary.write_bytes(data)


def _with_features(config: RunConfig, store: Store, run: Path | None) -> RunConfig:
    """A run without --data: its own features settings where none are given, else those of its store.

    run: the folder of a run that was started before. ClusterError for other encoders than the store's.
    """
    given = feature_encoders(config.features)
    made = store.attributes.get("features", {})
    if any(made.get(kind) != name for kind, name in given.items()):
        raise ClusterError(
            f"{store.path}: found features of {made or 'no encoder'}, but --text and --video ask for {given}"
        )
    if not given and run is not None and (run / CONFIG).exists():
        return replace(config, features=load_config(str(run / CONFIG)).features)
    return config


def _made_of(store: Store, config: RunConfig) -> Json:
    """What a store says that it was made of, in the words of a run's settings."""
    made, build = store.attributes, asdict(config.build)
    # A store of before a setting was there was made with its default
    defaults = asdict(datasets.load(config.dataset).Config())
    known = {**defaults, **made.get("build", {})}
    return {
        "dataset": store.dataset.name if config.dataset in datasets.DATASETS else config.dataset,
        "source_digest": made["source_digest"],
        "build": {key: known[key] for key in build},
        "features": made.get("features", {}),
    }


def _store_path(run: Path, known: Json) -> Path:
    path = Path(known["path"])
    return path if path.is_absolute() else run / path
