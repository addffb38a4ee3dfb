"""Numbers of rows by their keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np

_AT_ONCE = 1 << 16


class Keys:
    """Texts, numbered in the order in which they came."""

    def __init__(self) -> None:
        self._row_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, key: str) -> bool:
        return key in self._row_of

    def add_texts(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._row_of.setdefault(key, len(self._row_of))

    def add(self, keys: Any) -> None:
        """The distinct ones of an Arrow array [n], nulls left out."""
        self.add_texts(keys.drop_null().unique().to_pylist())

    def rows(self, keys: Any) -> np.ndarray:
        """[n] texts in Arrow → [n] int64, −1 for nulls and what is not there."""
        coded = keys.dictionary_encode()
        get = self._row_of.get
        row_of_code = np.array([get(key, -1) for key in coded.dictionary.to_pylist()] or [-1], np.int64)
        codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.where(codes >= 0, row_of_code[codes], -1)

    def batches(self) -> Iterator[list[str]]:
        texts = iter(self._row_of)
        while some := list(islice(texts, _AT_ONCE)):
            yield some
