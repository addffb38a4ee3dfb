"""A run's whole configuration: a named or given YAML file, with KEY=VALUE overrides.

The dataclasses are the schema: a name that they do not have is an error, not a silent default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from netgpt.cluster.errors import ClusterError
from netgpt.graphstore import BuildConfig
from netgpt.trainers.errors import require
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.settings import Settings

AUTO, OFF = "auto", "off"


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
        drops = self.graph.ablation == "V" and bool(self.language.pixels)
        require(
            not drops,
            "language.pixels",
            self.language.pixels,
            "none with graph.ablation=V (no video features)",
        )

    @property
    def settings(self) -> Settings:
        """The trainers' part alone."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


def config_names() -> list[str]:
    folder = resources.files("netgpt.cluster") / "configs"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_config(source: str, overrides: list[str] | None = None) -> RunConfig:
    """A configuration by name (demo, sample, xs-video) or file, with `key.sub=value` overrides.

    Raises ClusterError for an unknown name or key, a wrong type, or a value out of range.
    """
    if source in config_names():
        path = Path(str(resources.files("netgpt.cluster") / "configs" / f"{source}.yaml"))
    elif Path(source).is_file():
        path = Path(source)
    else:
        raise ClusterError(
            f"--config: found {source!r}, expected a YAML file or one of {', '.join(config_names())}"
        )
    for item in overrides or []:
        if "=" not in item:
            raise ClusterError(f"override: found {item!r}, expected KEY=VALUE such as graph.epochs=5")
    place = source
    try:
        merged: Any = OmegaConf.merge(
            OmegaConf.structured(RunConfig), OmegaConf.create(path.read_text(encoding="utf-8"))
        )
        place = "override"
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(overrides or []))
        config = OmegaConf.to_object(merged)
    except (OmegaConfBaseException, YAMLError, ValueError, TypeError, OSError) as error:
        key = getattr(error, "full_key", None)
        if isinstance(error, ConfigKeyError) and key:
            raise ClusterError(f"{place}: {_unknown(key)}") from error
        reason = str(error).split("\n")[0]
        raise ClusterError(f"{place}: {f'{key}: ' if key else ''}{reason}") from error
    assert isinstance(config, RunConfig)
    return config


def config_keys() -> list[str]:
    """All keys of a configuration, such as graph.epochs."""
    return list(_keys(RunConfig(), ""))


def _keys(config: Any, prefix: str) -> Iterator[str]:
    for one in fields(config):
        value = getattr(config, one.name)
        if is_dataclass(value):
            yield from _keys(value, f"{prefix}{one.name}.")
        else:
            yield prefix + one.name


def _unknown(key: str) -> str:
    """What to say of a key that there is not, with the nearest that there is."""
    keys = config_keys()
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
