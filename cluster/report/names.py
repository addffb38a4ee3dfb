"""Names as a report shows them."""

from __future__ import annotations

from netgpt.graphstore.xsvideo.plots import PLATFORM_NAMES

NO_PLATFORM = "no platform"


def platform_title(name: str) -> str:
    """A platform's Latin name where it is one of the data set's, else the name as the data has it."""
    return PLATFORM_NAMES.get(name, name) or NO_PLATFORM
