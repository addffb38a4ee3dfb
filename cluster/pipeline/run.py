"""A run: its folder, its store, and what its stages are made from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from netgpt import graphstore
from netgpt.cluster.config import RunConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.features.make import feature_encoders, features_for
from netgpt.cluster.stages import MEASURED, STAGES, num_workers
from netgpt.cluster.stores import build_store
from netgpt.graphstore import BuildConfig, Store
from netgpt.graphstore.files import (
    atomic_file,
    file_digest,
    files_digest,
    read_json,
    value_digest,
    write_json,
)
from netgpt.sampler import GENERATOR
from netgpt.trainers import stage
from netgpt.trainers.config import StageConfig
from netgpt.trainers.evaluate import PREDICTIONS
from netgpt.trainers.language.text import VERSION
from netgpt.trainers.language.text.fields import ABLATED_FIELDS

CONFIG = "config.yaml"
RESOURCES = ("tables_gb", "inference_gb", "checkpoint_steps")
"""Settings of stage 1 that change no weights but for rounding: after them it goes on where it was."""
LANGUAGE_RESOURCES = ("activation_checkpointing",)
"""Those of the language stages."""


@dataclass
class Run:
    """One run folder. `open_` takes what is on disk; `start` makes or continues it."""

    path: Path
    config: RunConfig
    store: Store
    _done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Inputs of the stages that were found done."""

    @staticmethod
    def start(path: Path, config: RunConfig, data: Path | None, store: Path | None) -> Run:
        """Make the folder and the store, or check that what is there is of the same data."""
        if data is not None and store is not None:
            raise ClusterError("found both --data and --store, expected one of them")
        for left in path.glob(".store.*.tmp"):  # of a build that was killed; the caller holds the run
            shutil.rmtree(left, ignore_errors=True)
        note = path / "store.json"
        known: dict[str, Any] | None = read_json(note) if note.exists() else None
        if data is not None:
            if not data.is_file():
                raise ClusterError(f"--data: found no file {data}, expected a JSON file of records")
            wanted = {
                "source_digest": file_digest(data),
                "build": asdict(config.build),
                "features": feature_encoders(config.features),
            }
            where = path / "store"
            if known is not None and known["path"] != "store":
                raise ClusterError(f"{path}: holds a run on the store {known['path']}; choose another --out")
            if not where.exists() and known is None:
                build_store(data, where, config.build, features_for(config, data, path / "features"))
            # The store itself says what it was made of: also where a run was killed right after its build
            made = graphstore.open(str(where)).attributes
            # A store of before a setting was there was made with its default
            found = {**made, "build": {**asdict(BuildConfig()), **made.get("build", {})}}
            if {key: found.get(key, {}) for key in wanted} != wanted:
                raise ClusterError(
                    f"{path}: holds a run on other data, build settings or features; choose another --out"
                )
        elif store is not None:
            where, wanted = store.resolve(), {}
            if known is not None and known["digest"] != graphstore.open(str(where)).digest:
                raise ClusterError(f"{path}: holds a run on another store; choose another --out")
        elif known is not None:
            where, wanted = (
                _store_path(path, known),
                {k: known[k] for k in known if k not in ("path", "digest")},
            )
        else:
            raise ClusterError(f"{path}: a new run, and neither --data nor --store was given")
        opened = graphstore.open(str(where))
        if not opened.has_records:
            raise ClusterError(f"{where}: found a store of edge lists, expected one of released records")
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
        store = graphstore.open(str(_store_path(path, known)))
        if store.digest != known["digest"]:
            raise ClusterError(f"{path}: its store {store.path} has changed since the run")
        return Run(path, load_config(str(path / CONFIG)), store)

    def inputs(self, name: str) -> dict[str, Any]:
        """What a stage is made from: digests of stores, stages and settings that change its result."""
        config, digest = self.config, lambda stage_name: stage.stage_digest(self.path / stage_name)
        workers = {
            "workers": num_workers(name, config.cluster, config.graph),
            "threads": config.cluster.threads,
        }
        common = {"stage": name, "store": self.store.digest, "seed": config.seed, **workers}
        if name == "stage1":
            return {
                **common,
                "graph": {k: v for k, v in asdict(config.graph).items() if k not in RESOURCES},
                "sampler": asdict(config.sampler),
                "generator": GENERATOR,
            }
        if name == "embeddings":
            return {**common, "stage1": digest("stage1")}
        language = config.language
        own = {"stage": name, "store": self.store.digest, "seed": config.seed}
        limits = {"max_tokens": language.max_tokens, "max_comments": language.max_comments}
        if name == "base":
            made_of = {"tiny": asdict(language.tiny), "token_budget": language.token_budget, **limits}
            ablation = config.graph.ablation if config.graph.ablation in ABLATED_FIELDS else "none"
            return {**own, **made_of, "val_share": config.graph.val_share, "ablation": ablation}
        base = digest("base") if language.model == "tiny" else self._base_digest
        if name == "tokens":
            return {**own, **limits, "base": base, "version": VERSION}
        # Not the number of workers: steps are the same at any, and a checkpoint goes on at another
        read = {
            "language": {k: v for k, v in asdict(language).items() if k not in LANGUAGE_RESOURCES},
            "pixels": self._pixels_digest,
            "ablation": config.graph.ablation,
            "val_share": config.graph.val_share,
            "base": base,
            "tokens": digest("tokens"),
        }
        if name == "lora":
            return {**own, **read, "settings": _training(config.lora)}
        read["embeddings"] = digest("embeddings")
        if name == "stage2":
            return {**own, **read, "settings": _training(config.stage2)}
        read["stage2"] = digest("stage2")
        if name == "stage3":
            return {**own, **read, "settings": _training(config.stage3)}
        done = {stage_name: digest(stage_name) for stage_name in MEASURED if self.is_done(stage_name)}
        return {**own, **read, "measured": done, "evaluation": asdict(config.evaluation)}

    @cached_property
    def _pixels_digest(self) -> str:
        """Of the clips' names, sizes and times: they are too many bytes to read for it."""
        folder = self.config.language.pixels
        files = sorted(Path(folder).glob("*.safetensors")) if folder else []
        return value_digest([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files])

    @cached_property
    def _base_digest(self) -> str:
        """Of a base model that the run did not make: its files' digest, or its name on the hub."""
        path = Path(self.config.language.model)
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else []
        return files_digest(path, files) if files else self.config.language.model

    @property
    def stages(self) -> list[str]:
        """Stages that a whole run has, in order: all but the baseline."""
        return [name for name in self.possible_stages if name != "lora"]

    @property
    def possible_stages(self) -> list[str]:
        return [name for name in STAGES if name != "base" or self.config.language.model == "tiny"]

    def needed(self, name: str) -> list[str]:
        """Stages that must be done before one."""
        if name == "evaluation" and not (self.path / "stage3").exists() and self.is_done("lora"):
            return []
        return [stage_name for stage_name in STAGES[name].reads if stage_name in self.possible_stages]

    def is_done(self, name: str) -> bool:
        """Whether a stage is done and matches. Its files are read for that once a run, then remembered."""
        inputs = self.inputs(name)
        if self._done.get(name) != inputs and stage.is_done(self.path / name, inputs):
            self._done[name] = inputs
        return self._done.get(name) == inputs

    def forget(self, name: str) -> None:
        """Look at a stage's files again: it is made anew."""
        self._done.pop(name, None)

    def require_done(self, names: Iterable[str]) -> None:
        """ClusterError unless these stages are done and match."""
        for name in names:
            if not self.is_done(name):
                raise ClusterError(
                    f"{self.path}: {STAGES[name].title} is not done; run first: netgpt {STAGES[name].command}"
                )

    def require_trained(self) -> None:
        """ClusterError unless every stage up to stage 3 is done and matches."""
        self.require_done(name for name in self.stages if name != "evaluation")

    def publish(self) -> None:
        """Metrics of all stages, and the predictions, in the run's own folder."""
        self._write_metrics()
        if self.is_done("evaluation"):
            with atomic_file(self.path / PREDICTIONS) as temporary:
                temporary.write_bytes((self.path / "evaluation" / PREDICTIONS).read_bytes())

    def _write_metrics(self) -> None:
        """metrics.jsonl: a line for each point of the curves and each epoch of each stage, and one for the
        evaluation."""
        lines = []
        for name in self.possible_stages:
            manifest = stage.read_manifest(self.path / name)
            if manifest is None:
                continue
            for kind in ("curve", "history"):
                lines += [{"stage": name, **entry} for entry in manifest["metrics"].get(kind, [])]
            if name == "evaluation":
                lines.append({"stage": name, **manifest["metrics"]})
        with atomic_file(self.path / "metrics.jsonl") as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def metrics(self) -> dict[str, Any]:
        """Metrics of the finished evaluation."""
        manifest = stage.read_manifest(self.path / "evaluation")
        assert manifest is not None
        return dict(manifest["metrics"])


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


def _training(config: StageConfig) -> dict[str, Any]:
    """Settings of a language stage that change its result."""
    found = {k: v for k, v in asdict(config).items() if k not in RESOURCES}
    if not config.max_steps:  # without a limit as before there were any
        del found["max_steps"]
    return found


def _store_path(run: Path, known: dict[str, Any]) -> Path:
    path = Path(known["path"])
    return path if path.is_absolute() else run / path
