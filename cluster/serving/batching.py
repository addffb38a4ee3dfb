"""Records of requests that are under way together become batches.

While a batch is computed Python's lock is the computing thread's, and requests come no further. So the next
batch waits for those that the last one leads to expect: as many as it answered, and those that waited by
then, but never longer than a moment. One client alone waits for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any


class Batcher:
    """`answer(item)` is what `compute(items)` has for it: at most `most` at once, one batch after another."""

    def __init__(
        self, compute: Callable[[Sequence[Any]], Awaitable[Sequence[Any]]], most: int, wait_s: float
    ) -> None:
        self._compute, self._most, self._wait_s = compute, most, wait_s
        self._waiting: list[tuple[Any, asyncio.Future[Any]]] = []
        self._came = asyncio.Event()
        self._expected = 1
        self._task: asyncio.Task[None] | None = None

    async def answer(self, item: Any) -> Any:
        """Raises what `compute` raises; where it is cancelled its item is left out, if that is not computed
        yet."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        self._came.set()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        while self._waiting:
            await self._wait()
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            batch = [(item, future) for item, future in batch if not future.done()]
            if not batch:
                continue
            try:
                answers = await self._compute([item for item, _ in batch])
                for (_, future), answer in zip(batch, answers, strict=True):
                    if not future.done():
                        future.set_result(answer)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            self._expected = min(self._most, len(batch) + len(self._waiting))
            await asyncio.sleep(0)  # who was answered goes on first

    async def _wait(self) -> None:
        """Until as many are there as are expected, or the moment is over."""
        end = time.perf_counter() + self._wait_s
        while len(self._waiting) < self._expected and (left := end - time.perf_counter()) > 0:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except TimeoutError:
                return
