"""The stages by name: those of the reference job in their order, and its baseline."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from netgpt.trainers import names

if TYPE_CHECKING:
    from netgpt.trainers.stages.base import Stage

STAGES = {
    "stage1": "netgpt.trainers.stages.graph:Pretrain",
    "embeddings": "netgpt.trainers.stages.graph:Embed",
    "base": "netgpt.trainers.stages.text:Base",
    "tokens": "netgpt.trainers.stages.text:Tokenize",
    "stage2": "netgpt.trainers.stages.language:Align",
    "stage3": "netgpt.trainers.stages.language:Rate",
    "evaluation": "netgpt.trainers.stages.evaluation:Evaluate",
}
"""In the order in which a single worker would make them."""
OTHERS = {
    "recommender": "netgpt.trainers.stages.recommend:Recommend",
    "rerank": "netgpt.trainers.stages.rerank:Rerank",
    "multimodal": "netgpt.trainers.stages.multimodal:Multimodal",
    "tune": "netgpt.trainers.stages.shots:Tune",
    "pairs": "netgpt.trainers.stages.shots:MakePairs",
    "prefer": "netgpt.trainers.stages.shots:Align",
}
"""Stages of other recipes."""
BASELINES = {
    "lora": "netgpt.trainers.stages.language:Lora",
}
"""Made only when they are asked for."""


@lru_cache
def stage_of(name: str) -> Stage:
    """A stage of the tables, or of package.module:Name."""
    stage: Stage = names.load({**STAGES, **OTHERS, **BASELINES}, name, "stages")()
    return stage


def commands() -> dict[str, Stage]:
    """Commands that make stages alone, and the stage that gives each its name and help."""
    stages = [stage_of(name) for name in (*STAGES, *OTHERS, *BASELINES)]
    return {stage.command: stage for stage in stages if stage.help}
