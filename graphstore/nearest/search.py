"""The nearest of many vectors by inner product: exact, and the same bits for any block, thread or machine.

A float32 product of blocks (BLAS) says who may be among a tail's first; those candidates are scored again in
float64 by one compiled loop. A row counts as found once no candidate that was dropped can be in it, by the
bound on what float32 rounds away (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1);
else it is looked for again among eight times as many, and in the end among all. Vectors of the bank are in
the order of time, so that "earlier alone" is a beginning of it and half of the work.

Legend: N nodes, Q tails, n distinct vectors, b of them of the bank, D width, k heads of a row, m candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from threadpoolctl import threadpool_limits

from netgpt.graphstore.nearest.kernels import first_heads, keep_best

BLOCK_VECTORS, BLOCK_TAILS = 1024, 4096
"""Of a task at most: distinct vectors of tails, and tails."""
BANK_VECTORS = 2048
"""Of the bank in one product: a block of scores that stays in the cache."""
CANDIDATES = 32
"""Beyond k, at first."""
WIDER = 8
CANDIDATE_BYTES = 1 << 28
"""Of candidates that are held at once."""


@dataclass(frozen=True)
class Bank:
    """Who may be found, and the vectors of all who ask."""

    vectors: np.ndarray
    """[n, D] float32, of length 1 or less, in memory or mapped: the first b are of the bank, by `first`."""
    first: np.ndarray
    """[b] int64: when the first node of a vector came to be; rising."""
    begin: np.ndarray
    """[b + 1] int64: where each vector's nodes begin in `members`."""
    members: np.ndarray
    """[M] int64 node numbers: of a vector the latest first, then by number."""
    time: np.ndarray
    """[N] int64."""
    is_timed: bool
    """Heads are earlier than tails."""
    apart: np.ndarray
    """[N] int64: nodes that share a value are in no row together; −1: with anyone."""

    @property
    def error(self) -> float:
        """What a float32 inner product of two vectors is off by at most."""
        return 1.01 * (self.vectors.shape[1] + 4) * 2.0**-24


@dataclass(frozen=True)
class Rows:
    """Rows of some tails, the best head first."""

    heads: np.ndarray
    """[Q, k] int64, of which the first `num` count."""
    scores: np.ndarray
    """[Q, k] float64."""
    num: np.ndarray
    """[Q] int64."""

    @staticmethod
    def empty(num: int, k: int) -> Rows:
        return Rows(np.empty((num, k), np.int64), np.empty((num, k)), np.empty(num, np.int64))

    def put(self, where: np.ndarray, rows: Rows) -> None:
        """Fill the rows `where` [q]."""
        self.heads[where], self.scores[where], self.num[where] = rows.heads, rows.scores, rows.num


@dataclass(frozen=True)
class Candidates:
    """Who may be among the best of q tails, with float32 scores."""

    value: np.ndarray
    """[q, 2m] float32."""
    place: np.ndarray
    """[q, 2m] int32: vectors of the bank."""
    num: np.ndarray
    """[q] int64: how many there are."""
    least: np.ndarray
    """[q] float32: no score that was dropped is above it."""


class Search:
    """The rows of tails, in tasks that stand alone: any thread or machine may do any of them."""

    def __init__(self, bank: Bank, tails: np.ndarray, rows: np.ndarray, k: int) -> None:
        """tails [Q]: node numbers, each once. rows [Q]: their vectors' numbers. k: heads of a row, at most;
        no more than there are in the bank."""
        order = np.lexsort((tails, rows))
        self.bank, self.k = bank, max(1, min(k, len(bank.members)))
        self.order = order
        """[Q]: the tails in the order of tasks."""
        self.tails, self.rows = tails[order], rows[order]

    @property
    def asked(self) -> tuple[np.ndarray, np.ndarray]:
        """Tails [Q] and their vectors' numbers [Q], in the order that they were asked in."""
        tails, rows = np.empty_like(self.tails), np.empty_like(self.rows)
        tails[self.order], rows[self.order] = self.tails, self.rows
        return tails, rows

    @cached_property
    def tasks(self) -> Sequence[tuple[int, int]]:
        """Half-open ranges of `order`: tails whose vectors are of one block."""
        new = np.r_[True, self.rows[1:] != self.rows[:-1]] if len(self.rows) else np.empty(0, bool)
        vector, tasks, begin = np.cumsum(new), [], 0
        while begin < len(vector):
            end = int(np.searchsorted(vector, vector[begin] + BLOCK_VECTORS))
            end = min(end, begin + BLOCK_TAILS)
            tasks.append((begin, end))
            begin = end
        return tasks

    def run(self, task: tuple[int, int]) -> Rows:
        """The rows of a task's tails, in their order. BLAS is left with the threads that it has."""
        part = slice(*task)
        num = task[1] - task[0]
        made = Rows.empty(num, self.k)
        self._find(np.arange(num), self.tails[part], self.rows[part], self.most, made)
        return made

    @property
    def most(self) -> int:
        """Candidates at first."""
        return self.k + CANDIDATES

    def _find(self, where: np.ndarray, tails: np.ndarray, rows: np.ndarray, most: int, made: Rows) -> None:
        """Fill the rows `where` [q] of what is made, from `most` candidates and, where those do not do,
        more."""
        bank = self.bank
        most = min(most, max(1, len(bank.first)))
        step = max(1, CANDIDATE_BYTES // (16 * most))
        for begin in range(0, len(tails), step):
            part = slice(begin, begin + step)
            certain = self._once(where[part], tails[part], rows[part], most, made)
            if not certain.all():
                again = np.flatnonzero(~certain) + begin
                self._find(where[again], tails[again], rows[again], most * WIDER, made)

    def _once(
        self, where: np.ndarray, tails: np.ndarray, rows: np.ndarray, most: int, made: Rows
    ) -> np.ndarray:
        asked, row_of = np.unique(rows, return_inverse=True)
        queries = np.ascontiguousarray(self.bank.vectors[asked])
        best = self.candidates(len(tails), most)
        self.look(queries, row_of, self.limits(tails), 0, most, best)
        return self.take(where, tails, rows, best, made)

    def candidates(self, num: int, most: int) -> Candidates:
        """None yet, of so many tails."""
        return Candidates(
            np.empty((num, 2 * most), np.float32),
            np.empty((num, 2 * most), np.int32),
            np.zeros(num, np.int64),
            np.full(num, -np.inf, np.float32),
        )

    def limits(self, tails: np.ndarray) -> np.ndarray:
        """Vectors of the bank that each tail may see, the first ones: [q]."""
        if self.bank.is_timed:
            return np.searchsorted(self.bank.first, self.bank.time[tails])
        return np.full(len(tails), len(self.bank.first))

    def look(
        self,
        queries: np.ndarray,
        row_of: np.ndarray,
        limit: np.ndarray,
        start: int,
        most: int,
        best: Candidates,
    ) -> None:
        """Take from the bank's vectors from `start` on those that may be among the best."""
        vectors, end = self.bank.vectors, int(limit.max(initial=0))
        for first in range(start, end, BANK_VECTORS):
            scores = queries @ vectors[first : first + BANK_VECTORS][: end - first].T
            keep_best(scores, first, row_of, limit, most, best.value, best.place, best.num, best.least)

    def take(
        self, where: np.ndarray, tails: np.ndarray, rows: np.ndarray, best: Candidates, made: Rows
    ) -> np.ndarray:
        """Fill the rows `where` [q] of what is made; which of them are certain: [q] bool."""
        bank, found = self.bank, Rows.empty(len(tails), self.k)
        nodes = (bank.vectors, bank.begin, bank.members, bank.time, bank.is_timed, bank.apart)
        kept = (best.value, best.place, best.num, best.least, bank.error)
        certain = first_heads(*nodes, tails, rows, *kept, found.heads, found.scores, found.num)
        made.put(where, found)
        return certain

    def all(self, threads: int = 1, progress: Callable[[int], None] | None = None) -> Rows:
        """The rows of all tails, in the order that they were asked in. progress: told of tails as they are
        done."""
        made = Rows.empty(len(self.tails), self.k)
        for (begin, end), rows in zip(self.tasks, self._each(threads), strict=True):
            made.put(self.order[begin:end], rows)
            if progress:
                progress(end - begin)
        return made

    def _each(self, threads: int) -> Iterator[Rows]:
        # A product for each thread is faster than threads for each product, and BLAS's own would be beside
        # ours
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
            yield from pool.map(self.run, self.tasks)
