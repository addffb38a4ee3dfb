"""What makes something here: the command, versions and the machine."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from functools import cache
from importlib import metadata
from pathlib import Path

VERSIONS = ("netgpt", "torch", "transformers", "deepspeed", "ray", "zarr", "numpy")
"""What results depend on, and what runs them."""


def versions() -> dict[str, str]:
    """Of what results depend on, by name."""
    return {name: metadata.version(name) for name in VERSIONS} | {"python": platform.python_version()}


@cache
def made_by() -> dict[str, str]:
    """Of this process, for people."""
    program = Path(sys.argv[0]).name.replace("__main__.py", "netgpt")
    command = shlex.join([program, *sys.argv[1:]])
    cores = len(os.sched_getaffinity(0))
    bytes_ = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    machine = f"{_processor()}, {cores} cores, {bytes_ / 2**30:.0f} GiB, {platform.system()}"
    said = ", ".join(f"{name} {version}" for name, version in versions().items())
    return {"command": command, "versions": said, "machine": machine}


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()
