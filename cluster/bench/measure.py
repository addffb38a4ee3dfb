"""Commands timed in processes of their own, with their peak resident memory."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Largest resident set, Python and its packages included; 0 where the process was killed."""
    ok: bool


SYNTH = """
import sys, pathlib
from netgpt.cluster.bench.reference import build_synthetic
build_synthetic(pathlib.Path(sys.argv[1]), float(sys.argv[2]), layout=sys.argv[3])
"""
"""Code for `measure`: a synthetic store at a path, of a scale, in a layout."""

SYNTH_RECORDS = """
import sys, pathlib
from netgpt.cluster.bench.reference import reference
reference().write_synthetic(pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
"""
"""The same for synthetic records: a JSON file at a path, of a scale, by a seed."""

# The kernel's ru_maxrss of a child starts at its parent's; VmHWM starts at zero with the new program
_REPORT = """
import atexit, os
def _report(fd={fd}):
    with open("/proc/self/status", encoding="ascii") as file:
        os.write(fd, next(line.split()[1] for line in file if line.startswith("VmHWM")).encode())
atexit.register(_report)
"""


def measure(code: str, *args: object) -> Measured:
    """Run Python code in a fresh process with `args` as sys.argv[1:]; its output goes to standard error."""
    read_fd, write_fd = os.pipe()
    with open(read_fd, encoding="ascii") as peak:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", _REPORT.format(fd=write_fd) + code, *map(str, args)],
            stdout=sys.stderr,
            pass_fds=[write_fd],
        )
        os.close(write_fd)
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        peak_kb = int(peak.read() or 0)
    return Measured(wall_s, usage.ru_utime + usage.ru_stime, peak_kb * 1024, process.returncode == 0)


def spread(values: Sequence[float]) -> list[float]:
    """Mean, least and most."""
    return [statistics.fmean(values), min(values), max(values)]


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    with open("/proc/meminfo", encoding="ascii") as file:
        memory_kb = int(file.readline().split()[1])
    return {
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_kb * 1024,
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }
