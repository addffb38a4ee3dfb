"""A run's whole configuration: a recipe by name or file, with KEY=VALUE overrides.

The dataclasses are the schema: a name that they do not have is an error, not a silent default. Which ones
there are a recipe says itself: its data set, its task and its stages each bring a section.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass, make_dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, cast, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import BuildConfig
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.errors import StoreError, UnknownNameError
from netgpt.graphstore.yaml_text import OtherValueError, load_yaml, require_as_written
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.stages.names import BASELINES, OTHERS, STAGES
from netgpt.trainers.tasks.base import TaskConfig

AUTO, OFF = "auto", "off"
MOVED = {
    "graph.ablation": "without",
    "graph.val_share": "task.val_share",
    "build.train_until": "task.split.until",
}
"""Keys of before, and what says the same now."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    workers: int = 2
    """Training workers of each stage."""
    device: str = "auto"
    """auto: one GPU a worker where the cluster has that many, else CPUs; cuda, cpu: no other."""
    threads: int = 1
    """CPU threads of a training worker."""
    sampling_workers: int = 1
    """Ray actors that sample for each training worker of stage 1; 0: the worker samples itself."""
    prefetch: int = 4
    """Mini-batches in flight a training worker."""
    max_failures: int = 2
    """Times that a stage's workers are started again after a failure before the run gives up."""
    memory_gb: float = 0.0
    """Memory (10^9 bytes) that Ray keeps free for each training worker; 0: none is reserved."""
    wait_minutes: float = 0.0
    """How long to wait for a cluster that grows, or that lost a node, to have what a stage asks for."""
    store_cache: str = "auto"
    """Folder on each node's own disk that the store is unpacked into once; auto: one under the temporary
    folder, where the cluster has several nodes; off: all nodes map the store where it is."""

    mlflow: str = ""
    """MLflow's server (http://…) or database (sqlite:///FILE) that a run is told to when it is done."""

    def __post_init__(self) -> None:
        require(self.workers >= 1, "cluster.workers", self.workers, "at least 1")
        require(self.device in ("auto", "cuda", "cpu"), "cluster.device", self.device, "auto, cuda or cpu")
        require(self.threads >= 1, "cluster.threads", self.threads, "at least 1")
        require(self.sampling_workers >= 0, "cluster.sampling_workers", self.sampling_workers, "at least 0")
        require(self.prefetch >= 1, "cluster.prefetch", self.prefetch, "at least 1")
        require(self.max_failures >= 0, "cluster.max_failures", self.max_failures, "at least 0")
        require(0 <= self.memory_gb < math.inf, "cluster.memory_gb", self.memory_gb, "at least 0")
        require(0 <= self.wait_minutes < math.inf, "cluster.wait_minutes", self.wait_minutes, "at least 0")
        absolute = self.store_cache in (AUTO, OFF) or Path(self.store_cache).is_absolute()
        require(absolute, "cluster.store_cache", self.store_cache, "auto, off, or a folder from the root /")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """The trainers' settings, and those of the store and of the cluster."""

    dataset: str = next(iter(datasets.DATASETS))
    """A data set of the table, or package.module:Name."""
    build: BuildConfig = field(default_factory=BuildConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
        """Also refuses settings that contradict each other: one would silently not count."""
        super().__post_init__()
        require(
            self.language.packs_per_step % self.cluster.workers == 0,
            "language.packs_per_step",
            self.language.packs_per_step,
            f"a multiple of cluster.workers ({self.cluster.workers})",
        )
        require(
            self.graph.batch_size >= self.cluster.workers,
            "graph.batch_size",
            self.graph.batch_size,
            f"at least cluster.workers ({self.cluster.workers})",
        )
        bfloat16 = self.graph.precision == "bfloat16" and self.cluster.device == "cpu"
        require(not bfloat16, "graph.precision", "bfloat16", "auto or float32 with cluster.device=cpu")

    @property
    def settings(self) -> Settings:
        """The trainers' part alone."""
        kind = settings_type(self.task.name, (*self.stages, *self.baselines))
        return kind(**{f.name: getattr(self, f.name) for f in fields(kind)})

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


@lru_cache
def config_type(dataset: str, task: str, stages: tuple[str, ...]) -> type[RunConfig]:
    """The configuration of a data set, a task and stages, by their names."""
    kind = settings_type(task, stages, base=RunConfig)
    build = datasets.load(dataset).Config
    added = [("build", build, field(default_factory=build))]
    made = make_dataclass("RunConfig", added, bases=(kind,), frozen=True, kw_only=True)
    made.__doc__, made.__module__ = RunConfig.__doc__, RunConfig.__module__
    return cast(type[RunConfig], made)


def config_names() -> list[str]:
    """Recipes that come with the program; those that begin with _ are parts of others."""
    folder = resources.files("netgpt.cluster") / "configs"
    names = [p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml")]
    return sorted(name for name in names if not name.startswith("_"))


def recipe_file(source: str, place: str = "--config") -> Path:
    """The file of a recipe, given by name or path."""
    ours = Path(str(resources.files("netgpt.cluster") / "configs" / f"{source}.yaml"))
    if "/" not in source and ours.is_file():
        return ours
    if Path(source).is_file():
        return Path(source)
    raise ClusterError(
        f"{place}: found {source!r}, expected a YAML file or one of {', '.join(config_names())}"
    )


def _read(source: str, place: str, seen: tuple[Path, ...] = ()) -> Any:
    """A recipe over the one that its `base` names."""
    path = recipe_file(source, place)
    if path in seen:
        raise ClusterError(f"{source}: base: found {path.name} again, expected recipes that end")
    try:
        raw = load_yaml(path.read_text(encoding="utf-8"))
    except (OtherValueError, UnicodeDecodeError) as error:
        raise ClusterError(f"{path}: {error}") from error
    if not OmegaConf.is_dict(raw):
        raise ClusterError(f"{source}: found no keys, expected a recipe in YAML")
    base = raw.pop("base", None)
    if base is None:
        return raw
    beside = path.parent / str(base)
    below = _read(str(beside if beside.is_file() else base), f"{source}: base", (*seen, path))
    return OmegaConf.merge(_left_of(below, raw), raw)


def _left_of(below: Any, above: Any) -> Any:
    """A recipe without what another that goes over it makes void: settings of a data set or task that it
    replaces."""
    below = below.copy()
    if (dataset := above.get("dataset")) and dataset != below.get("dataset"):
        below.pop("build", None)
    task = OmegaConf.select(above, "task.name")
    if task and task != OmegaConf.select(below, "task.name") and below.get("task"):
        common = [one.name for one in fields(TaskConfig)]
        below.task = {key: value for key, value in below.task.items() if key in common}
    return below


def load_config(source: str, overrides: list[str] | None = None) -> RunConfig:
    """A configuration by name (demo, sample, …) or file, with `key.sub=value` overrides.

    Raises ClusterError for an unknown name or key, a wrong type, or a value out of range.
    """
    for item in overrides or []:
        if "=" not in item:
            raise ClusterError(f"override: found {item!r}, expected KEY=VALUE such as graph.epochs=5")
    place, kind = source, RunConfig
    try:
        recipe = _read(source, "--config")
        given = OmegaConf.from_dotlist(overrides or [])
        recipe = _left_of(recipe, given)
        kind, sections = _kind(OmegaConf.merge(recipe, given)), {one.name for one in fields(RunConfig)}
        _keep_texts(given, kind, overrides or [])
        _require_texts(source, kind, OmegaConf.to_container(recipe))
        for name in {*STAGES, *OTHERS, *BASELINES} - {one.name for one in fields(kind)} - sections:
            recipe.pop(name, None)  # of a stage that the run is without
        merged: Any = OmegaConf.merge(OmegaConf.structured(kind), recipe)
        place = "override"
        config = OmegaConf.to_object(OmegaConf.merge(merged, given))
    except ClusterError:
        raise
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, OSError) as error:
        key = getattr(error, "full_key", None)
        if isinstance(error, ConfigKeyError) and key:
            raise ClusterError(f"{place}: {_unknown(key, kind)}") from error
        reason = str(error).split("\n")[0]
        if isinstance(error, StoreError) and not isinstance(error, UnknownNameError):
            reason = f"build.{reason}"  # which a data set's own settings do not know they are
        own = isinstance(error, (TrainerError, StoreError))
        raise ClusterError(f"{place}: {f'{key}: ' if key and not own else ''}{reason}") from error
    assert isinstance(config, RunConfig)
    return config


def _require_texts(source: str, hints: Any, values: Any, at: str = "") -> None:
    """ClusterError for a text of a recipe that YAML took for a number or a truth value: it would be written
    another way."""
    if is_dataclass(hints) and isinstance(values, dict):
        kinds = get_type_hints(hints)
        for name, value in values.items():
            _require_texts(source, kinds.get(name), value, f"{at}.{name}" if at else str(name))
    elif hints in (str, str | None) and isinstance(values, bool | int | float):
        raise ClusterError(f"{source}: {at}: found {values!r}, expected a text; write it in quotes")


def _keep_texts(given: Any, kind: type[RunConfig], overrides: list[str]) -> None:
    """Overrides of texts as they are written: `off` and 010 are no truth value and no 8 there.
    ClusterError for others that YAML reads as something else."""
    for item in overrides:
        key, _, text = item.partition("=")
        hints: Any = kind
        for part in key.split("."):
            hints = get_type_hints(hints).get(part) if is_dataclass(hints) else None
        if hints in (str, str | None):
            if isinstance(OmegaConf.select(given, key), bool | int | float):
                OmegaConf.update(given, key, text)
        elif hints is not bool:
            try:
                require_as_written(text)
            except OtherValueError as error:
                raise ClusterError(f"override: {item}: {error}") from None


def _kind(raw: Any) -> type[RunConfig]:
    """The class of what a recipe with its overrides names. Raises TrainerError and StoreError for guests that
    there are not."""
    defaults = RunConfig()
    task = OmegaConf.select(raw, "task.name") or TaskConfig().name
    stages: list[str] = []
    for key in ("stages", "baselines"):
        named = raw.get(key) or getattr(defaults, key)
        require(not isinstance(named, str), key, named, "a list of stages")
        stages += map(str, named)
    return config_type(raw.get("dataset") or defaults.dataset, str(task), tuple(stages))


def config_keys(kind: type[RunConfig] | None = None) -> list[str]:
    """All keys of a configuration, such as graph.epochs; by default of the reference job's."""
    return list(_keys((kind or _kind(OmegaConf.create({})))(), ""))


def _keys(config: Any, prefix: str) -> Iterator[str]:
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from _keys(value, f"{prefix}{one.name}.")
        else:
            yield prefix + one.name


def _unknown(key: str, kind: type[RunConfig]) -> str:
    """What to say of a key that there is not, with the nearest that there is."""
    if key in MOVED:
        return f"found the unknown key {key}; it is {MOVED[key]} now"
    keys = config_keys(None if kind is RunConfig else kind)
    last = key.rsplit(".", 1)[-1]
    near = get_close_matches(key, keys, n=1, cutoff=0.75)
    near = near or [k for k in keys if k.rsplit(".", 1)[-1] == last]  # the right name in the wrong section
    sections = sorted({k.split(".")[0] for k in keys if "." in k})
    near = (
        near
        or get_close_matches(key, sections, n=1, cutoff=0.6)
        or get_close_matches(key, keys, n=1, cutoff=0.3)
    )
    return f"found the unknown key {key}; did you mean {near[0]}?" if near else f"found the unknown key {key}"
