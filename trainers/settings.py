"""What the trainers need to know about a run, and where its parts lie."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from netgpt.graphstore.files import value_digest, write_json
from netgpt.trainers import stage
from netgpt.trainers.config import (
    EvaluationConfig,
    GraphConfig,
    LanguageConfig,
    LoraConfig,
    RateConfig,
    SamplerConfig,
    StageConfig,
    TinyConfig,
)
from netgpt.trainers.errors import require

JOB = "job.json"
SINGLE_WORKER_STAGES = ("embeddings", "base", "tokens")
"""Those that one process makes; several are refused."""
RESUMABLE = ("stage1", "stage2", "stage3", "lora")
"""Those with checkpoints; the others are short, and start anew."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of all stages. One seed: every stage derives its own randomness from it."""

    seed: int = 0
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    language: LanguageConfig = field(default_factory=LanguageConfig)
    stage2: StageConfig = field(default_factory=StageConfig)
    stage3: RateConfig = field(default_factory=RateConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "a whole number from 0")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Settings:
        language = dict(raw["language"])
        return Settings(
            seed=raw["seed"],
            sampler=SamplerConfig(**raw["sampler"]),
            graph=GraphConfig(**raw["graph"]),
            language=LanguageConfig(**{**language, "tiny": TinyConfig(**language["tiny"])}),
            stage2=StageConfig(**raw["stage2"]),
            stage3=RateConfig(**raw["stage3"]),
            lora=LoraConfig(**raw["lora"]),
            evaluation=EvaluationConfig(**raw["evaluation"]),
        )


@dataclass(frozen=True, kw_only=True)
class StageJob:
    """One stage of a run, for any process that can see the run's folder and the store."""

    stage: str
    run: Path
    store: Path
    settings: Settings
    inputs: dict[str, Any]
    """What the stage is made from (digests, settings): goes into its manifest."""
    device: str = "cpu"
    """cpu or cuda."""
    num_threads: int = 1
    """CPU threads of a worker: fixed, since the order of float sums depends on it."""

    @property
    def folder(self) -> Path:
        return self.run / self.stage

    @property
    def key(self) -> str:
        """Digest of the inputs: marks the stage's checkpoints."""
        return value_digest(self.inputs)

    def prepare(self) -> bool:
        """Make the folder ready and leave this job in it; True where earlier work is in it."""
        resumed = stage.prepare(self.folder, self.inputs, resumes=self.stage in RESUMABLE)
        write_json(self.folder / JOB, self.to_dict())
        return resumed

    def to_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "run": str(self.run),
            "store": str(self.store),
            "settings": self.settings.to_dict(),
            "inputs": self.inputs,
            "device": self.device,
            "num_threads": self.num_threads,
        }

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> StageJob:
        return StageJob(
            stage=raw["stage"],
            run=Path(raw["run"]),
            store=Path(raw["store"]),
            settings=Settings.from_dict(raw["settings"]),
            inputs=raw["inputs"],
            device=raw["device"],
            num_threads=raw["num_threads"],
        )
