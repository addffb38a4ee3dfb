"""A toy language stage: the last decoder layer alone, after the alignment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from netgpt.trainers.config import StageConfig
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.language import LanguageStage


@dataclass(frozen=True, kw_only=True)
class PolishConfig(StageConfig):
    section: ClassVar[str] = "polish"

    objective: str = "tests.toys.objective:Contrast"


class Polish(LanguageStage):
    name, title, command = "polish", "polish: right before wrong", "polish"
    Config = PolishConfig
    reads = ("stage2",)
    after = "stage2"
    short = "polish"

    def parts(self, settings: Settings) -> tuple[str, ...]:
        return ("last:1",)
