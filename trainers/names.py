"""Guests by name: a table says where each is; any other is given as package.module:Name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from netgpt.graphstore import addresses
from netgpt.trainers.errors import TrainerError


def load(table: Mapping[str, str], name: str, key: str) -> Any:
    """What a name of the table, or package.module:Name, stands for. key: the setting, for messages.

    Raises TrainerError for a name that there is not, and for what cannot be imported.
    """
    return addresses.load(table, name, key, TrainerError)
