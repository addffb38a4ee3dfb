"""A run's whole configuration: a named or given YAML file, with KEY=VALUE overrides.

The dataclasses are the schema: a name that they do not have is an error, not a silent default.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from cluster.errors import ClusterError
from graphstore import BuildConfig
from trainers.errors import require
from trainers.settings import Settings


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

    def __post_init__(self) -> None:
        require(self.workers >= 1, "cluster.workers", self.workers, "at least 1")
        require(self.device in ("auto", "cuda", "cpu"), "cluster.device", self.device, "auto, cuda or cpu")
        require(self.threads >= 1, "cluster.threads", self.threads, "at least 1")
        require(self.sampling_workers >= 0, "cluster.sampling_workers", self.sampling_workers, "at least 0")
        require(self.prefetch >= 1, "cluster.prefetch", self.prefetch, "at least 1")
        require(self.max_failures >= 0, "cluster.max_failures", self.max_failures, "at least 0")


@dataclass(frozen=True, kw_only=True)
class RunConfig(Settings):
    """The trainers' settings, and those of the store and of the cluster."""

    build: BuildConfig = field(default_factory=BuildConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)

    def __post_init__(self) -> None:
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

    @property
    def settings(self) -> Settings:
        """The trainers' part alone."""
        return Settings(**{f.name: getattr(self, f.name) for f in fields(Settings)})

    def to_yaml(self) -> str:
        return OmegaConf.to_yaml(OmegaConf.create(asdict(self)))


def config_names() -> list[str]:
    folder = resources.files("cluster") / "configs"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_config(source: str, overrides: list[str] | None = None) -> RunConfig:
    """A configuration by name (demo, sample, xs-video) or file, with `key.sub=value` overrides.

    Raises ClusterError for an unknown name or key, a wrong type, or a value out of range.
    """
    if source in config_names():
        path = Path(str(resources.files("cluster") / "configs" / f"{source}.yaml"))
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
        reason = str(error).split("\n")[0]
        key = getattr(error, "full_key", None)
        raise ClusterError(f"{place}: {f'{key}: ' if key else ''}{reason}") from error
    assert isinstance(config, RunConfig)
    return config
