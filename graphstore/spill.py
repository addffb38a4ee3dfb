"""Edges on disk for a while: heads, tails and what edges have of their own, in a file for each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np


class EdgeFile:
    """Arrays of one length, appended to and then read from their beginning in pieces of bounded length."""

    def __init__(self, path: Path, dtypes: Sequence[np.dtype[Any]], *, stays_open: bool = True) -> None:
        """dtypes: of heads, tails, and values of edges. The files begin with `path` and are made here.

        stays_open: not where there are so many that the system would refuse.
        """
        self.dtypes = tuple(dtypes)
        self._paths = [path.with_name(f"{path.name}.{i}") for i in range(len(self.dtypes))]
        self._files = [one.open("wb") for one in self._paths]
        self._stays_open = stays_open
        if not stays_open:
            self.close()

    def append(self, *arrays: np.ndarray) -> None:
        if not self._stays_open:
            self._files = [one.open("ab") for one in self._paths]
        for array, dtype, file in zip(arrays, self.dtypes, self._files, strict=True):
            array.astype(dtype, copy=False).tofile(file)
        if not self._stays_open:
            self.close()

    def close(self) -> None:
        for file in self._files:
            file.close()

    def read(self, num: int) -> Iterator[tuple[np.ndarray, ...]]:
        """At most `num` edges at once."""
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
        for path in self._paths:
            path.unlink()
