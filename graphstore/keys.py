"""Numbers of rows by their keys: a hash table of texts in two arrays, without an object for each.

A slot is 0 or, in its low 40 bits, where a key's record is, plus 1, and above them bits of the key's hash;
slots of one hash are found one after the other (linear probing). Records lie one behind the other in the
order of their numbers: number, length and text. So a lookup reads memory at two places, and a key takes 11
to 21 bytes for its slot, 12 and its text: 100 bytes fewer than in a Python dict.

Legend: n texts of an Arrow array, N keys.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from numba import njit

from netgpt.graphstore.arrays import Strings

_AT_ONCE = 1 << 16
_TAG_SHIFT = np.uint64(40)
_PLACE = np.uint64((1 << 40) - 1)
"""Records take less than a terabyte."""
_HEAD = np.uint64(12)
"""Bytes of a record before its text: 8 of the number, 4 of the length."""
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


@njit(cache=True, nogil=True, inline="always")
def _length(records: np.ndarray, at: np.uint64) -> np.int64:
    """Of the text of a record."""
    num = np.int64(records[at + np.uint64(8)])
    num |= np.int64(records[at + np.uint64(9)]) << 8
    num |= np.int64(records[at + np.uint64(10)]) << 16
    num |= np.int64(records[at + np.uint64(11)]) << 24
    return num


@njit(cache=True, nogil=True)
def _write(records: np.ndarray, at: int, row: int, data: np.ndarray, begin: int, num: int) -> None:
    """A record."""
    for k in range(8):
        records[at + k] = np.uint8((row >> (8 * k)) & 255)
    for k in range(4):
        records[at + 8 + k] = np.uint8((num >> (8 * k)) & 255)
    for k in range(num):
        records[at + 12 + k] = data[begin + k]


@njit(cache=True, nogil=True)
def _slot(
    slots: np.ndarray, records: np.ndarray, h: np.uint64, data: np.ndarray, begin: int, num: int
) -> np.uint64:
    """The slot of a key, or the empty one where it would be."""
    mask = np.uint64(len(slots) - 1)
    i = h & mask
    while slots[i] != 0:
        if slots[i] >> _TAG_SHIFT == h >> _TAG_SHIFT:
            at = (slots[i] & _PLACE) - np.uint64(1)
            if _length(records, at) == num and _are_equal(records, at + _HEAD, data, begin, num):
                return i
        i = (i + np.uint64(1)) & mask
    return i


@njit(cache=True, nogil=True)
def _find(
    slots: np.ndarray,
    records: np.ndarray,
    offsets: np.ndarray,
    data: np.ndarray,
    valid: np.ndarray,
    rows: np.ndarray,
) -> np.int64:
    """rows [n] of the keys of valid texts, −1 for others.

    What a lookup reads lies anywhere in memory. Before some are done, all that they will read is read once,
    step by step: reads that do not wait for one another are under way together. Returns what came of those
    reads, of no meaning, so that no compiler leaves them out.
    """
    mask = np.uint64(len(slots) - 1)
    hashes, place = np.empty(_TOGETHER, np.uint64), np.empty(_TOGETHER, np.uint64)
    touched = np.uint64(0)
    for block in range(0, len(rows), _TOGETHER):
        num = min(_TOGETHER, len(rows) - block)
        for i in range(num):
            hashes[i] = _hash(data, offsets[block + i], offsets[block + i + 1])
        for i in range(num):
            place[i] = slots[hashes[i] & mask] & _PLACE
        if len(records):
            for i in range(num):
                touched += np.uint64(records[place[i]])
        for i in range(num):
            k = block + i
            rows[k] = -1
            if valid[k]:
                slot = _slot(slots, records, hashes[i], data, offsets[k], offsets[k + 1] - offsets[k])
                if slots[slot] != 0:
                    rows[k] = np.int64(_word(records, (slots[slot] & _PLACE) - np.uint64(1)))
    return np.int64(touched)


@njit(cache=True, nogil=True)
def _insert(
    slots: np.ndarray,
    records: np.ndarray,
    num: int,
    used: int,
    offsets: np.ndarray,
    data: np.ndarray,
    valid: np.ndarray,
    is_new: np.ndarray,
) -> tuple[int, int]:
    """Put valid texts that are not there behind the `num` keys, of `used` bytes, that are; there must be
    room. Returns both numbers anew."""
    for i in range(len(is_new)):
        is_new[i] = False
        if valid[i]:
            begin, length = offsets[i], offsets[i + 1] - offsets[i]
            h = _hash(data, begin, begin + length)
            slot = _slot(slots, records, h, data, begin, length)
            if slots[slot] == 0:
                _write(records, used, num, data, begin, length)
                slots[slot] = (h >> _TAG_SHIFT << _TAG_SHIFT) | np.uint64(used + 1)
                num += 1
                used += 12 + length
                is_new[i] = True
    return num, used


@njit(cache=True, nogil=True)
def _fill(slots: np.ndarray, records: np.ndarray, used: int) -> None:
    """Put all keys, which are different, into empty slots."""
    mask = np.uint64(len(slots) - 1)
    at = 0
    while at < used:
        num = int(_length(records, np.uint64(at)))
        h = _hash(records, at + 12, at + 12 + num)
        i = h & mask
        while slots[i] != 0:
            i = (i + np.uint64(1)) & mask
        slots[i] = (h >> _TAG_SHIFT << _TAG_SHIFT) | np.uint64(at + 1)
        at += 12 + num


@njit(cache=True, nogil=True)
def _texts(records: np.ndarray, at: int, begin: np.ndarray, end: np.ndarray) -> int:
    """Where the next texts begin and end in the records; returns where the record behind them is."""
    for i in range(len(begin)):
        begin[i] = at + 12
        at = at + 12 + int(_length(records, np.uint64(at)))
        end[i] = at
    return at


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_num_threads(), "keys")


def _num_threads() -> int:
    return min(4, len(os.sched_getaffinity(0)))


class Keys:
    """Texts, numbered in the order in which they came."""

    def __init__(self) -> None:
        self._num = self._used = 0
        self._slots = np.zeros(_MIN_SLOTS, np.uint64)
        self._records = np.empty(0, np.uint8)

    def __len__(self) -> int:
        return self._num

    @property
    def nbytes(self) -> int:
        return self._slots.nbytes + self._records.nbytes

    def add(self, keys: Any, where: np.ndarray | None = None) -> np.ndarray:
        """Number the texts of an Arrow array [n] that are not there yet; nulls are none. Returns where the
        new ones are, [n] bool: of equal ones the first.

        where [n] bool: take those texts alone.
        """
        offsets, data, valid = _buffers(keys)
        if where is not None:
            valid &= where
        is_new = np.empty(len(valid), bool)
        self._make_room(int(valid.sum()), int((offsets[1:] - offsets[:-1])[valid].sum()))
        self._num, self._used = _insert(
            self._slots, self._records, self._num, self._used, offsets, data, valid, is_new
        )
        return is_new

    def add_texts(self, texts: Sequence[str]) -> None:
        import pyarrow as pa

        self.add(texts.to_arrow() if isinstance(texts, Strings) else pa.array(texts, pa.large_string()))

    def texts_rows(self, texts: Sequence[str]) -> np.ndarray:
        """[n] int64, −1 for what is not there."""
        import pyarrow as pa

        return self.rows(pa.array(texts, pa.large_string()))

    def rows(self, keys: Any) -> np.ndarray:
        """[n] texts in Arrow → [n] int64, −1 for nulls and what is not there."""
        offsets, data, valid = _buffers(keys)
        rows = np.empty(len(valid), np.int64)
        slots, records = self._slots, self._records

        def find(part: slice) -> None:
            _find(slots, records, offsets[part.start : part.stop + 1], data, valid[part], rows[part])

        if len(rows) < _ALONE:
            find(slice(0, len(rows)))
        else:
            step = -(-len(rows) // _num_threads())
            list(
                _threads().map(find, (slice(a, min(a + step, len(rows))) for a in range(0, len(rows), step)))
            )
        return rows

    def batches(self) -> Iterator[list[str]]:
        """All keys in the order of their numbers, some at once."""
        at = 0
        for first in range(0, self._num, _AT_ONCE):
            begin, end = (np.empty(min(_AT_ONCE, self._num - first), np.int64) for _ in range(2))
            before, at = at, _texts(self._records, at, begin, end)
            data = self._records[before:at].tobytes()
            places = zip((begin - before).tolist(), (end - before).tolist(), strict=True)
            yield [data[a:b].decode() for a, b in places]

    def _make_room(self, num: int, num_bytes: int) -> None:
        """For so many more keys and bytes of their texts."""
        if (needed := self._used + num_bytes + 12 * num) > len(self._records):
            # By a fourth more than there were, so that growing costs little in all. Copied into an array of
            # its own: numpy asks for large pages for those, and not for one that is resized
            grown = np.empty(max(needed, len(self._records) + len(self._records) // 4), np.uint8)
            grown[: self._used] = self._records[: self._used]
            self._records = grown
        if 4 * (most := self._num + num) > 3 * len(self._slots):
            size = len(self._slots)
            while 4 * most > 3 * size:
                size *= 2
            self._slots = np.zeros(1, np.uint64)  # the old ones need not be there beside the new
            self._slots = np.zeros(size, np.uint64)
            _fill(self._slots, self._records, self._used)


class AddedKeys(Keys):
    """Keys that follow others, which stay as they are."""

    def __init__(self, before: Keys) -> None:
        super().__init__()
        self._before = before

    def __len__(self) -> int:
        return len(self._before) + super().__len__()

    def add(self, keys: Any, where: np.ndarray | None = None) -> np.ndarray:
        is_other = self._before.rows(keys) < 0
        return super().add(keys, is_other if where is None else is_other & where)

    def rows(self, keys: Any) -> np.ndarray:
        rows, added = self._before.rows(keys), super().rows(keys)
        return np.where(added < 0, rows, len(self._before) + added)

    def batches(self) -> Iterator[list[str]]:
        yield from self._before.batches()
        yield from super().batches()


class KnownTexts(Collection[str]):
    """Keys as a set of texts, to look up in."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Iterator[str]:
        return (text for texts in self._keys.batches() for text in texts)

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and bool(self._keys.texts_rows([text])[0] >= 0)


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
