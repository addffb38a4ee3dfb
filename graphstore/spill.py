"""Edges on disk for a while: heads, tails and what edges have of their own, in a file for each."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np


class EdgeFile:
    """Arrays of one length, appended to and then read from their beginning in pieces of bounded length."""

    def __init__(self, path: Path, dtypes: Sequence[np.dtype[Any]], *, stays_open: bool = True) -> None:
        """dtypes: of heads, tails, and values of edges. The files begin with `path` and are made with
        their first edges.

        stays_open: not where there are so many that the system would refuse: see `may_stay_open`.
        """
        self.dtypes = tuple(dtypes)
        self._paths = [path.with_name(f"{path.name}.{i}") for i in range(len(self.dtypes))]
        self._files: list[BinaryIO] = []
        self._stays_open, self._is_made = stays_open, False

    def append(self, *arrays: np.ndarray) -> None:
        if not len(arrays[0]):
            return
        if not self._files:
            self._files = [one.open("ab") for one in self._paths]
            self._is_made = True
        for array, dtype, file in zip(arrays, self.dtypes, self._files, strict=True):
            array.astype(dtype, copy=False).tofile(file)
        if not self._stays_open:
            self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()
        self._files = []

    def read(self, num: int) -> Iterator[tuple[np.ndarray, ...]]:
        """At most `num` edges at once."""
        if not self._is_made:
            return
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("rb")) for path in self._paths]
            while True:
                arrays = tuple(
                    np.fromfile(file, dtype, num) for file, dtype in zip(files, self.dtypes, strict=True)
                )
                if not len(arrays[0]):
                    return
                yield arrays

    def remove(self) -> None:
        for path in self._paths if self._is_made else ():
            path.unlink()


def may_stay_open(num_files: int) -> bool:
    """Whether so many files may be open at once: half of what the system allows a process, less those
    that are."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return limit == resource.RLIM_INFINITY or num_files <= limit // 2 - len(os.listdir("/proc/self/fd"))
