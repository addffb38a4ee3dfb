"""The order of one epoch after the other: ids cut into batches and ranks, resumable at the exact batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from netgpt.sampler.errors import SamplerError

Batch = TypeVar("Batch")


class Epochs(Generic[Batch]):
    """Batches of ids in an order that depends on the seed and the epoch alone.

    `batch_size` is global: with `world_size` ranks each batch's ids are cut into that many contiguous parts
    (as equal as can be) and this one gives part `rank`. Iterating gives what is left of the current epoch and
    moves on to the next.
    """

    def __init__(
        self,
        ids: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        rank: int,
        world_size: int,
    ) -> None:
        """ids [n] int64: what the batches are of."""
        if not 0 <= rank < world_size:
            raise SamplerError(f"rank: found {rank}, expected 0 to {world_size - 1}")
        if batch_size < world_size:
            raise SamplerError(f"batch_size: found {batch_size}, expected at least one seed a rank")
        self.ids, self.batch_size, self.seed = ids, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world_size = rank, world_size
        self.epoch, self.next_batch = 0, 0
        self._order, self._order_of = ids, -1
        self._stream = ""

    def _set_meaning(self, *meaning: object) -> None:
        """Note all that decides which batches come besides: not who samples them, nor the world size."""
        what = (*meaning, self.batch_size, self.shuffle, self.drop_last)
        digest = hashlib.blake2b(repr(what).encode(), digest_size=16)
        digest.update(np.ascontiguousarray(self.ids).data)
        self._stream = digest.hexdigest()

    def __len__(self) -> int:
        """Batches of an epoch."""
        full, rest = divmod(len(self.ids), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def global_seeds(self, epoch: int, batch: int) -> np.ndarray:
        """Ids of a batch over all ranks: [≤ batch_size]."""
        if self.shuffle and self._order_of != epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.ids)
            self._order_of = epoch
        return self._order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _own_parts(self, epoch: int, first: int) -> Iterator[np.ndarray]:
        """This rank's ids of the batches from `first` on."""
        for batch in range(first, len(self)):
            yield np.array_split(self.global_seeds(epoch, batch), self.world_size)[self.rank]

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """This rank's batches from `first` on."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        for batch in self._batches(epoch, self.next_batch):
            self.next_batch += 1
            yield batch
        self.epoch, self.next_batch = epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch is, and a digest of what the batches are made from.

        What was sampled ahead is not counted, so a run resumes at the batch after the last one it got.
        """
        return {"epoch": self.epoch, "next_batch": self.next_batch, "stream": self._stream}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on there. Raises SamplerError for the state of a loader of other batches."""
        epoch, next_batch = state["epoch"], state["next_batch"]
        if state.get("stream", self._stream) != self._stream:
            raise SamplerError(
                "state: found one of a loader with other seeds, batch size or options, expected the same"
            )
        if epoch < 0 or not 0 <= next_batch <= len(self):
            raise SamplerError(
                f"state: found epoch {epoch}, batch {next_batch}, expected batches from 0 to {len(self)}"
            )
        self.epoch, self.next_batch = epoch, next_batch
