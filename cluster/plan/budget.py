"""The largest token budget that fits the GPUs, or what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from netgpt.cluster.config import RunConfig
from netgpt.cluster.plan.memory import LanguageCase, language_memory
from netgpt.cluster.plan.request import PlanRequest
from netgpt.cluster.plan.shapes import LanguageShape
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of

BUDGET_STEP, BUDGET_MOST = 256, 1 << 20
"""Token budgets that are tried: multiples, up to a million."""
LEAST_TOKENS = 512
"""Shorter samples would be little more than the instruction: not suggested."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """The largest token budget that fits."""

    tokens: int
    """0: not even a sample of `language.max_tokens`."""
    advice: str


def language_stages(config: RunConfig) -> list[LanguageStage]:
    """Stages of a whole run that train the language model with the graph."""
    stages = [stage_of(name) for name in config.stages]
    return [one for one in stages if isinstance(one, LanguageStage) and one.with_graph]


def layers_trained(parts: Sequence[str]) -> int:
    """Decoder layers among the parts that a stage trains."""
    return sum(int(part.partition(":")[2]) for part in parts if part.startswith("last:"))


def language_case(request: PlanRequest, shape: LanguageShape, stage: LanguageStage) -> LanguageCase:
    config = request.config
    settings = stage.config(config)
    return LanguageCase(
        shape=shape,
        stage=stage.name,
        answers=settings.objective != "score",
        token_budget=config.language.token_budget,
        world_size=request.workers,
        accumulation=config.language.packs_per_step // request.workers,
        activation_checkpointing=config.language.activation_checkpointing,
        layers_trained=layers_trained(stage.parts(config)),
        device=request.device,
        epochs=settings.epochs,
    )


def fits(
    request: PlanRequest, shape: LanguageShape, tokens: int, *, checkpointing: bool | None = None
) -> bool:
    """Whether all language stages fit the GPUs with packs of so many tokens."""
    cases = [language_case(request, shape, stage) for stage in language_stages(request.config)]
    if checkpointing is not None:
        cases = [replace(c, activation_checkpointing=checkpointing) for c in cases]
    return all(language_memory(c, tokens).peak_bytes <= request.usable_bytes for c in cases)


def largest_budget(request: PlanRequest, shape: LanguageShape, *, checkpointing: bool | None = None) -> int:
    """The largest multiple of 256 tokens that fits; 0 where none does."""
    low, high = 0, BUDGET_MOST // BUDGET_STEP
    while low < high:
        middle = (low + high + 1) // 2
        if fits(request, shape, middle * BUDGET_STEP, checkpointing=checkpointing):
            low = middle
        else:
            high = middle - 1
    return low * BUDGET_STEP


def suggested(request: PlanRequest, shape: LanguageShape) -> Budget:
    language = request.config.language
    tokens, least = largest_budget(request, shape), language.max_tokens
    if tokens >= least:
        return Budget(tokens=tokens, advice=f"language.token_budget={tokens}")
    ways = []
    if not language.activation_checkpointing:
        with_it = largest_budget(request, shape, checkpointing=True)
        if with_it >= least:
            ways.append(f"language.activation_checkpointing=true language.token_budget={with_it}")
    if tokens >= LEAST_TOKENS:
        ways.append(f"language.max_tokens={tokens} language.token_budget={tokens}")
    more = language_case(request, shape, language_stages(request.config)[-1])
    if (
        language_memory(replace(more, world_size=8 * request.workers), least).peak_bytes
        <= request.usable_bytes
    ):
        ways.append("more GPUs, which share the optimiser's state")
    ways.append("GPUs of more memory, or a smaller language.model")
    return Budget(tokens=0, advice=" or ".join(ways))
