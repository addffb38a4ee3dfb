"""Settings of a run as its recipe composes them: those that all share, the task's, and a section a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from functools import lru_cache
from typing import Any, TypeVar, cast, get_type_hints

from netgpt.trainers.config import (
    AblationConfig,
    EvaluationConfig,
    GraphConfig,
    LanguageConfig,
    SamplerConfig,
    StageConfig,
)
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.stages.names import BASELINES, STAGES, stage_of
from netgpt.trainers.tasks.base import TaskConfig
from netgpt.trainers.tasks.names import task_class

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of all stages. One seed: every stage derives its own randomness from it.

    `settings_type` adds a section for each stage that has settings of its own, such as `stage2`.
    """

    seed: int = 0
    """All randomness of a run is a function of it; a whole number from 0."""
    stages: list[str] = field(default_factory=lambda: list(STAGES))
    """Stages of a whole run, in the order in which a single worker would make them."""
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    """Stages that are made only when they are asked for."""
    task: TaskConfig = field(default_factory=TaskConfig)
    ablations: dict[str, AblationConfig] = field(default_factory=dict)
    """What a run can do without, by name."""
    without: str = ""
    """The ablation of this run; empty: none."""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "a whole number from 0")
        known = ", ".join(self.ablations) or "none, since the recipe names no ablations"
        require(not self.without or self.without in self.ablations, "without", self.without, known)
        drops = self.ablation.pixels and bool(self.language.pixels)
        require(
            not drops, "language.pixels", self.language.pixels, f"none with without={self.without} (no clips)"
        )

    @property
    def ablation(self) -> AblationConfig:
        """What this run does without; by default nothing."""
        return self.ablations[self.without] if self.without else AblationConfig()

    def section(self, name: str, kind: type[S]) -> S:
        """The settings of a stage. kind: their class."""
        value = getattr(self, name)
        assert isinstance(value, kind)
        return value

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: Mapping[str, Any]) -> Settings:
        """What `to_dict` gave, with the classes of its task and stages."""
        kind = settings_type(raw["task"]["name"], (*raw["stages"], *raw["baselines"]))
        return cast(Settings, from_values(kind, raw))


@lru_cache
def settings_type(task: str, stages: tuple[str, ...], base: type[Settings] = Settings) -> type[Settings]:
    """Settings with the sections of some stages and of a task, by name; a class of its own for each."""
    sections: dict[str, type] = {}
    taken = {one.name for one in fields(base)}
    for name in stages:
        stage = stage_of(name)
        if stage.Config is not None and stage.name in taken:
            raise TrainerError(f"stages: found the name {stage.name!r}, which other settings have")
        if stage.Config is None:
            continue
        if issubclass(stage.Config, StageConfig) and stage.Config.section != stage.name:
            raise TrainerError(
                f"stages: found {name} with settings of the section {stage.Config.section!r}, expected "
                f"{stage.name!r}"
            )
        sections[stage.name] = stage.Config
    config = task_class(task).Config
    added = [("task", config, field(default_factory=config))]
    added += [(name, kind, field(default_factory=kind)) for name, kind in sections.items()]
    made = make_dataclass(base.__name__, added, bases=(base,), frozen=True, kw_only=True)
    made.__doc__, made.__module__ = base.__doc__, base.__module__
    return cast(type[Settings], made)


def from_values(kind: type, raw: Mapping[str, Any]) -> Any:
    """A dataclass of JSON values, dataclasses in it too."""
    hints = get_type_hints(kind)
    values = {}
    for one in fields(kind):
        if one.name not in raw:
            continue
        hint, value = hints[one.name], raw[one.name]
        if hasattr(hint, "__dataclass_fields__"):
            value = from_values(hint, value)
        elif one.name == "ablations":
            value = {name: AblationConfig(**ablation) for name, ablation in value.items()}
        values[one.name] = value
    return kind(**values)
