"""Guests by name: a table says where each is; any other is given as package.module:Name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

_ADDRESS = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def load(table: Mapping[str, str], name: str, key: str, error: type[ValueError]) -> Any:
    """What a name of the table, or an address package.module:Name, stands for. Nothing is imported before.

    key: the setting, for messages. Raises `error` for a name that there is not, or that cannot be imported.
    """
    address = table.get(name, name)
    if not _ADDRESS.fullmatch(address):
        raise error(f"{key}: found {name!r}, expected one of {', '.join(table)}, or package.module:Name")
    module, _, attribute = address.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as problem:
        reason = str(problem).split("\n")[0]
        raise error(f"{key}: found {name!r}, which cannot be imported ({reason})") from problem
