"""What to set where a pack does not fit a GPU's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from netgpt.trainers.config import LanguageConfig
from netgpt.trainers.errors import TrainerError

SMALLEST_BUDGET_STEP = 256


@contextmanager
def named_out_of_memory(
    what: str, num_tokens: int, budget: int, language: LanguageConfig | None = None
) -> Iterator[None]:
    """Turn a GPU out of memory into a TrainerError that says which token budget to set.

    num_tokens: of the pack at hand. language: where activation checkpointing is a way too, and the budget
    has a least.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        least = language.max_tokens if language else SMALLEST_BUDGET_STEP
        half = min(budget, num_tokens or budget) // 2 // SMALLEST_BUDGET_STEP * SMALLEST_BUDGET_STEP
        ways = [f"language.token_budget={max(least, half)}"] if max(least, half) < budget else []
        if language and not language.activation_checkpointing:
            ways.append("language.activation_checkpointing=true")
        advice = "set " + " or ".join(ways) if ways else "lower language.max_tokens and token_budget"
        raise TrainerError(
            f"{what}: out of GPU memory with a pack of {num_tokens} tokens (language.token_budget {budget}); "
            + advice
        ) from error
