"""The nearest by an index of faiss, for banks too large to be looked at whole: candidates are the index's,
their scores and order are exact, and the share of the true heads that is found is measured.

Vectors of the bank lie in clusters, in a byte for each number (`IVF,SQ8`); of a tail the clusters with the
nearest centres are looked at. Where heads are earlier than tails, the index is asked for a beginning of the
bank, and what is between that and the tail is looked at whole.

Legend: n distinct vectors, b of them of the bank, D width, q tails, m candidates.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.errors import FormatError, StoreError
from netgpt.graphstore.files import atomic_file
from netgpt.graphstore.nearest.search import Bank, Rows, Search

ADDED_AT_ONCE = 65_536
MOST = 4
"""Candidates for each that an exact search begins with: a byte a number says less than float32."""
SAMPLED = 256
"""Tails whose rows are compared with the true ones."""
_A_CENTRE = 64
"""Vectors of the bank that there are for each cluster at least, and at most for learning its centre."""


@dataclass(frozen=True)
class Approximate:
    """How an index is made and asked."""

    probes: int
    """Clusters that are looked at for a tail."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def require_faiss() -> Any:
    """The library. StoreError where it is not there."""
    try:
        import faiss
    except ImportError as error:
        raise StoreError(f"approximate: faiss cannot be had ({error}); pip install 'netgpt[ann]'") from error
    return faiss


def num_clusters(num: int) -> int:
    """Of a bank of b vectors: 4 √b, where each has vectors enough to learn from."""
    return int(max(1, min(4 * num**0.5, num / _A_CENTRE)))


def make_index(bank: Bank, path: Path) -> None:
    """Write the index of a bank; one core's work for each thread of faiss. StoreError without faiss."""
    faiss = require_faiss()
    num, width = len(bank.first), bank.vectors.shape[1]
    clusters = num_clusters(num)
    index = faiss.index_factory(width, f"IVF{clusters},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid = _A_CENTRE
    index.cp.min_points_per_centroid = 1
    if num:
        # Evenly over time; k-means takes as many
        sample = np.unique(np.linspace(0, num - 1, min(num, _A_CENTRE * clusters)).astype(np.int64))
        index.train(np.ascontiguousarray(bank.vectors[sample]))
        for first in range(0, num, ADDED_AT_ONCE):
            index.add(np.ascontiguousarray(bank.vectors[first : min(first + ADDED_AT_ONCE, num)]))
    with atomic_file(path) as temporary:
        faiss.write_index(index, str(temporary))


class ApproximateSearch(Search):
    """As `Search`, with candidates of an index."""

    def __init__(
        self, bank: Bank, tails: np.ndarray, rows: np.ndarray, k: int, index: Path, asked: Approximate
    ) -> None:
        """index: of this bank, by `make_index`. StoreError without faiss; FormatError for another file."""
        super().__init__(bank, tails, rows, k)
        self._faiss, self._approximate = require_faiss(), asked
        try:
            # Mapped: processes of one machine share its memory
            self._index = self._faiss.read_index(str(index), self._faiss.IO_FLAG_MMAP)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise FormatError(f"{index}: damaged ({reason}); remove it and start again") from None
        if (self._index.ntotal, self._index.d) != (len(bank.first), bank.vectors.shape[1]):
            raise FormatError(f"{index}: found the index of another bank; remove it and start again")

    @staticmethod
    def of(search: Search, index: Path, asked: Approximate) -> ApproximateSearch:
        """The same tails, by an index."""
        return ApproximateSearch(search.bank, *search.asked, search.k, index, asked)

    @property
    def most(self) -> int:
        return MOST * super().most

    def _once(
        self, where: np.ndarray, tails: np.ndarray, rows: np.ndarray, most: int, made: Rows
    ) -> np.ndarray:
        """No row is looked for again: the index is asked once."""
        asked, row_of = np.unique(rows, return_inverse=True)
        limit = self.limits(tails)
        shared = int(limit.min(initial=len(self.bank.first)))
        queries = np.ascontiguousarray(self.bank.vectors[asked])
        best = self.candidates(len(tails), most)
        if shared:
            near, scores = self._ask(queries, most, shared)
            there = near[row_of] >= 0
            best.num[:] = there.sum(axis=1)
            order = np.argsort(~there, axis=1, kind="stable")  # those that are there first
            best.place[:, :most] = np.take_along_axis(near[row_of], order, axis=1)
            best.value[:, :most] = np.take_along_axis(scores[row_of], order, axis=1)
        self.look(queries, row_of, limit, shared, most, best)
        self.take(where, tails, rows, best, made)
        return np.ones(len(tails), bool)

    def _ask(self, queries: np.ndarray, most: int, shared: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the first `shared` vectors of the bank the best: [q, m] their numbers, −1 where there are no
        more, and their float32 scores."""
        faiss = self._faiss
        faiss.omp_set_num_threads(1)  # of this thread: others ask beside it
        probes = min(self._approximate.probes, self._index.nlist)
        selector = None if shared == len(self.bank.first) else faiss.IDSelectorRange(0, shared)
        asked = faiss.SearchParametersIVF(sel=selector, nprobe=probes)
        _, near = self._index.search(queries, most, params=asked)
        vectors = self.bank.vectors
        scores = np.full(near.shape, -np.inf, np.float32)
        for i, row in enumerate(near):
            known = row >= 0
            scores[i, known] = vectors[row[known]] @ queries[i]
        return near, scores


def recall_of(search: Search, rows: Rows) -> tuple[float, int]:
    """The share of the true heads that rows of all tails have, in the order they were asked in, and of how
    many tails that was seen: at most SAMPLED, by an exact search. 1 where there are no heads."""
    num = len(search.order)
    sample = np.sort(np.random.default_rng(0).choice(num, min(SAMPLED, num), replace=False))
    tails, vectors = search.asked
    true = Search(search.bank, tails[sample], vectors[sample], search.k).all()
    hit = total = 0
    for i, row in enumerate(sample):
        heads = true.heads[i, : true.num[i]]
        hit += len(np.intersect1d(heads, rows.heads[row, : rows.num[row]]))
        total += len(heads)
    return (hit / total if total else 1.0), len(sample)
