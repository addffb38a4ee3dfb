"""The objectives by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from netgpt.trainers import names

if TYPE_CHECKING:
    from netgpt.trainers.language.objectives.base import Objective

OBJECTIVES = {
    "answer": "netgpt.trainers.language.objectives.answer:Answer",
    "score": "netgpt.trainers.language.objectives.score:Score",
    "number": "netgpt.trainers.language.objectives.number:Number",
    "prefer": "netgpt.trainers.language.objectives.prefer:Prefer",
}


def objective_class(name: str, key: str) -> type[Objective]:
    """The class of an objective of the table, or of package.module:Name. key: the setting that names it."""
    kind: type[Objective] = names.load(OBJECTIVES, name, key)
    return kind
