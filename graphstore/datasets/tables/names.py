"""Names of columns, tables and relations: they are names of folders in a store."""

from __future__ import annotations

import re


def usable(name: str) -> str:
    """A name with an underscore for what no name may have: `Movie Title` is Movie_Title, `~id` is id.

    Empty where nothing is left of it.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")
