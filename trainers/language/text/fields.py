"""The fields of a record as a prompt has them, and which ones settings leave out. Imports no tokenizer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from netgpt.graphstore.xsvideo.records import (
    AUTHOR,
    COMMENTS,
    COUNTS,
    DESCRIPTION,
    HISTORY,
    POST_TIME,
    SAMPLING_DATE,
    SENTIMENT,
    TEXT_KEYS,
    TITLE,
    URL,
)

FIELDS = TEXT_KEYS
"""A piece's field is its position here."""
FREE_FIELDS = (URL, SENTIMENT, DESCRIPTION, TITLE, AUTHOR, POST_TIME, SAMPLING_DATE, COMMENTS, HISTORY)
"""Fields with a text, an id or a time: what a small training set can be learnt by heart from."""
ABLATED_FIELDS = {"IV": (SAMPLING_DATE, *COUNTS.values()), "CV": (COMMENTS,)}
"""Fields that a prompt is without under an ablation; the others leave out what no prompt has."""


def hidden_fields(names: Iterable[str]) -> np.ndarray:
    """[len(FIELDS)] bool: which fields the names name."""
    wanted = set(names)
    return np.array([name in wanted for name in FIELDS])


def ablated_fields(ablation: str) -> np.ndarray:
    """[len(FIELDS)] bool: which fields prompts are without under an ablation."""
    return hidden_fields(ABLATED_FIELDS.get(ablation, ()))
