"""Numbers of rows by their keys: a hash table of texts in a few arrays, without an object for each.

A slot is 0 or a key's number + 1 below `_TAG_SHIFT` bits, and above them bits of the key's hash; slots of
one hash are found one after the other (linear probing). The texts lie one behind the other in the order of
their numbers. A key takes 11 to 21 bytes for its slot, 8 for its end and its text: 100 bytes fewer than a
Python dict takes.

Legend: n texts of an Arrow array, N keys.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
from numba import njit

_AT_ONCE = 1 << 16
_TAG_SHIFT = np.uint64(40)
"""Keys are fewer than 2^40."""
_ROW = np.uint64((1 << 40) - 1)
_MIN_SLOTS = 1 << 4
_TOGETHER = 256
"""Lookups whose reads are under way together."""
_ALONE = 1 << 14
"""Fewer lookups are done before other threads have come."""


@njit(cache=True, nogil=True, inline="always")
def _word(data: np.ndarray, i: np.uint64) -> np.uint64:
    """Eight bytes as a number; compilers make one load of it."""
    word = np.uint64(data[i])
    word |= np.uint64(data[i + np.uint64(1)]) << np.uint64(8)
    word |= np.uint64(data[i + np.uint64(2)]) << np.uint64(16)
    word |= np.uint64(data[i + np.uint64(3)]) << np.uint64(24)
    word |= np.uint64(data[i + np.uint64(4)]) << np.uint64(32)
    word |= np.uint64(data[i + np.uint64(5)]) << np.uint64(40)
    word |= np.uint64(data[i + np.uint64(6)]) << np.uint64(48)
    return word | np.uint64(data[i + np.uint64(7)]) << np.uint64(56)


@njit(cache=True, nogil=True)
def _hash(data: np.ndarray, begin: int, end: int) -> np.uint64:
    """FNV-1a by words of eight bytes, the last of which may overlap the one before, or of few bytes by bytes;
    and MurmurHash3's end."""
    num = end - begin
    h = np.uint64(0xCBF29CE484222325) ^ np.uint64(num)
    i, last = np.uint64(begin), np.uint64(end)
    if num >= 8:
        while i + np.uint64(8) < last:
            h = (h ^ _word(data, i)) * np.uint64(0x9E3779B97F4A7C15)
            h ^= h >> np.uint64(32)
            i += np.uint64(8)
        h = (h ^ _word(data, last - np.uint64(8))) * np.uint64(0x9E3779B97F4A7C15)
    else:
        while i < last:
            h = (h ^ np.uint64(data[i])) * np.uint64(0x100000001B3)
            i += np.uint64(1)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return h ^ (h >> np.uint64(33))


@njit(cache=True, nogil=True)
def _are_equal(one: np.ndarray, at: int, other: np.ndarray, begin: int, num: int) -> bool:
    """Of texts of one length."""
    i, j = np.uint64(at), np.uint64(begin)
    if num >= 8:
        last = np.uint64(at + num - 8)
        shift = j - i
        while i < last:
            if _word(one, i) != _word(other, i + shift):
                return False
            i += np.uint64(8)
        return bool(_word(one, last) == _word(other, last + shift))
    while num > 0:
        if one[i] != other[j]:
            return False
        i += np.uint64(1)
        j += np.uint64(1)
        num -= 1
    return True


@njit(cache=True, nogil=True)
def _slot(
    slots: np.ndarray,
    ends: np.ndarray,
    texts: np.ndarray,
    h: np.uint64,
    data: np.ndarray,
    begin: int,
    end: int,
) -> np.uint64:
    """The slot of a key, or the empty one where it would be."""
    mask = np.uint64(len(slots) - 1)
    i = h & mask
    while slots[i] != 0:
        if slots[i] >> _TAG_SHIFT == h >> _TAG_SHIFT:
            row = (slots[i] & _ROW) - np.uint64(1)
            first = ends[row]
            num = ends[row + np.uint64(1)] - first
            if num == end - begin and _are_equal(texts, first, data, begin, num):
                return i
        i = (i + np.uint64(1)) & mask
    return i


@njit(cache=True, nogil=True)
def _find(
    slots: np.ndarray,
    ends: np.ndarray,
    texts: np.ndarray,
    offsets: np.ndarray,
    data: np.ndarray,
    valid: np.ndarray,
    rows: np.ndarray,
) -> int:
    """rows [n] of the keys of valid texts, −1 for others.

    What a lookup reads lies anywhere in memory. Before some are done, all that they will read is read once,
    step by step: reads that do not wait for one another are under way together. Returns what came of those
    reads, of no meaning, so that no compiler leaves them out.
    """
    mask = np.uint64(len(slots) - 1)
    hashes, first = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.uint64)
    touched = np.uint64(0)
    for block in range(0, len(rows), _TOGETHER):
        num = min(_TOGETHER, len(rows) - block)
        for i in range(num):
            hashes[i] = _hash(data, offsets[block + i], offsets[block + i + 1])
        for i in range(num):
            first[i] = slots[hashes[i] & mask] & _ROW
        for i in range(num):
            first[i] = ends[first[i]]  # of the text the end, which is as good as its beginning
        if len(texts):
            for i in range(num):
                touched += np.uint64(texts[max(first[i], np.uint64(1)) - np.uint64(1)])
        for i in range(num):
            k = block + i
            rows[k] = -1
            if valid[k]:
                slot = _slot(slots, ends, texts, hashes[i], data, offsets[k], offsets[k + 1])
                rows[k] = np.int64(slots[slot] & _ROW) - 1
    return np.int64(touched)


@njit(cache=True, nogil=True)
def _insert(
    slots: np.ndarray,
    ends: np.ndarray,
    texts: np.ndarray,
    num: int,
    offsets: np.ndarray,
    data: np.ndarray,
    valid: np.ndarray,
    is_new: np.ndarray,
) -> int:
    """Put valid texts that are not there behind the `num` keys that are; there must be room. Returns N."""
    for i in range(len(is_new)):
        is_new[i] = False
        if valid[i]:
            begin, end = offsets[i], offsets[i + 1]
            h = _hash(data, begin, end)
            slot = _slot(slots, ends, texts, h, data, begin, end)
            if slots[slot] == 0:
                first = ends[num]
                for k in range(end - begin):
                    texts[first + k] = data[begin + k]
                num += 1
                ends[num] = first + end - begin
                slots[slot] = (h >> _TAG_SHIFT << _TAG_SHIFT) | np.uint64(num)
                is_new[i] = True
    return num


@njit(cache=True, nogil=True)
def _fill(slots: np.ndarray, ends: np.ndarray, texts: np.ndarray, num: int) -> None:
    """Put the first `num` keys, all different, into empty slots."""
    mask = np.uint64(len(slots) - 1)
    for row in range(num):
        h = _hash(texts, ends[row], ends[row + 1])
        i = h & mask
        while slots[i] != 0:
            i = (i + np.uint64(1)) & mask
        slots[i] = (h >> _TAG_SHIFT << _TAG_SHIFT) | np.uint64(row + 1)


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_num_threads(), "keys")


def _num_threads() -> int:
    return min(4, len(os.sched_getaffinity(0)))


class Keys:
    """Texts, numbered in the order in which they came."""

    def __init__(self) -> None:
        self._num = 0
        self._slots = np.zeros(_MIN_SLOTS, np.uint64)
        self._ends = np.zeros(1, np.int64)
        self._texts = np.empty(0, np.uint8)

    def __len__(self) -> int:
        return self._num

    @property
    def nbytes(self) -> int:
        return self._slots.nbytes + self._ends.nbytes + self._texts.nbytes

    def add(self, keys: Any, where: np.ndarray | None = None) -> np.ndarray:
        """Number the texts of an Arrow array [n] that are not there yet; nulls are none. Returns where the
        new ones are, [n] bool: of equal ones the first.

        where [n] bool: take those texts alone.
        """
        offsets, data, valid = _buffers(keys)
        if where is not None:
            valid &= where
        num = int(valid.sum())
        is_new = np.empty(len(valid), bool)
        self._make_room(num, int((offsets[1:] - offsets[:-1])[valid].sum()))
        self._num = _insert(self._slots, self._ends, self._texts, self._num, offsets, data, valid, is_new)
        return is_new

    def add_texts(self, texts: Sequence[str]) -> None:
        import pyarrow as pa

        self.add(pa.array(texts, pa.large_string()))

    def rows(self, keys: Any) -> np.ndarray:
        """[n] texts in Arrow → [n] int64, −1 for nulls and what is not there."""
        offsets, data, valid = _buffers(keys)
        rows = np.empty(len(valid), np.int64)
        table = (self._slots, self._ends, self._texts)

        def find(part: slice) -> None:
            _find(*table, offsets[part.start : part.stop + 1], data, valid[part], rows[part])

        step = max(_TOGETHER, -(-len(rows) // _num_threads()))
        parts = [slice(first, min(first + step, len(rows))) for first in range(0, len(rows), step)]
        if len(rows) < _ALONE:
            find(slice(0, len(rows)))
        else:
            list(_threads().map(find, parts))
        return rows

    def batches(self) -> Iterator[list[str]]:
        """All keys in the order of their numbers, some at once."""
        for first in range(0, self._num, _AT_ONCE):
            ends = self._ends[first : min(first + _AT_ONCE, self._num) + 1]
            data = self._texts[ends[0] : ends[-1]].tobytes()
            at = (ends - ends[0]).tolist()
            yield [data[a:b].decode() for a, b in pairwise(at)]

    def _make_room(self, num: int, num_bytes: int) -> None:
        """For so many more keys and bytes of their texts."""
        most = self._num + num
        if most + 1 > len(self._ends):
            self._ends = _grown(self._ends, most + 1)
        if (used := int(self._ends[self._num])) + num_bytes > len(self._texts):
            self._texts = _grown(self._texts, used + num_bytes)
        if 4 * most > 3 * len(self._slots):
            size = len(self._slots)
            while 4 * most > 3 * size:
                size *= 2
            self._slots = np.zeros(1, np.uint64)  # the old ones need not be there beside the new
            self._slots = np.zeros(size, np.uint64)
            _fill(self._slots, self._ends, self._texts, self._num)


def _grown(array: np.ndarray, num: int) -> np.ndarray:
    """At least `num` places, by a fourth more than there were, so that growing costs little in all."""
    array.resize(max(num, len(array) + len(array) // 4), refcheck=False)
    return array


def _buffers(keys: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An Arrow array of texts as what it lies in: offsets [n + 1] into data, and which are valid [n]."""
    import pyarrow as pa

    if keys.type != pa.large_string():
        keys = keys.cast(pa.large_string())
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.combine_chunks()
    _, ends, data = keys.buffers()
    # What comes from buffers is read-only: the empty ones too, so that kernels are compiled once
    texts = np.frombuffer(b"" if data is None else data, np.uint8)
    if not len(keys):
        return np.frombuffer(bytes(8), np.int64), texts, np.zeros(0, bool)
    offsets = np.frombuffer(ends, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    if keys.null_count:
        return offsets, texts, np.array(keys.is_valid().to_numpy(zero_copy_only=False))
    return offsets, texts, np.ones(len(keys), bool)
