"""Batches of a service, by a clock of their own kind: what is answered together, and to whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from netgpt.cluster.serving.batching import Batcher


def recorded(batches: list[list[int]], seconds: float = 0.0) -> Any:
    async def compute(items: Sequence[int]) -> list[int]:
        batches.append(list(items))
        await asyncio.sleep(seconds)
        if -1 in items:
            raise ValueError("minus one")
        return [10 * item for item in items]

    return compute


def test_each_has_its_own_answer_and_no_batch_is_too_large() -> None:
    batches: list[list[int]] = []

    async def main() -> list[int]:
        batcher = Batcher(recorded(batches), 4, 0.01)
        return list(await asyncio.gather(*(batcher.answer(i) for i in range(11))))

    assert asyncio.run(main()) == [10 * i for i in range(11)]
    assert [i for batch in batches for i in batch] == list(range(11))
    assert max(map(len, batches)) == 4


def test_who_asks_again_and_again_is_waited_for() -> None:
    """Clients that come back one after the other, a moment behind each other, stay together."""
    batches: list[list[int]] = []

    async def main() -> None:
        batcher = Batcher(recorded(batches, 0.01), 64, 0.2)

        async def client(number: int) -> None:
            for _ in range(4):
                await batcher.answer(number)
                await asyncio.sleep(0.002 * number)

        await asyncio.gather(*(client(number) for number in range(8)))

    asyncio.run(main())
    assert len(batches) <= 6 and sum(map(len, batches)) == 32


def test_one_alone_waits_for_nobody_and_nobody_for_those_who_left() -> None:
    async def main() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        batcher = Batcher(recorded([]), 64, 0.5)
        start = loop.time()
        for i in range(20):
            await batcher.answer(i)
        alone = loop.time() - start
        await asyncio.gather(*(batcher.answer(i) for i in range(8)))
        start = loop.time()
        await batcher.answer(1)  # eight were there before: a moment, and no longer
        return alone, loop.time() - start

    alone, after = asyncio.run(main())
    assert alone < 5 and after > 0.4  # twenty moments would be ten seconds


def test_an_error_is_of_its_batch_and_who_left_is_not_computed() -> None:
    batches: list[list[int]] = []

    async def main() -> None:
        batcher = Batcher(recorded(batches, 0.05), 2, 0.0)
        first = [asyncio.create_task(batcher.answer(i)) for i in (1, -1, 5, 6, 7)]
        await asyncio.sleep(0.01)
        first[3].cancel()
        done = await asyncio.gather(*first, return_exceptions=True)
        assert isinstance(done[0], ValueError) and isinstance(done[1], ValueError)
        assert done[2] == 50 and isinstance(done[3], asyncio.CancelledError) and done[4] == 70
        assert await batcher.answer(8) == 80

    asyncio.run(main())
    assert 6 not in [i for batch in batches for i in batch]


@pytest.mark.parametrize("most", [1, 3])
def test_it_begins_again_once_it_was_idle(most: int) -> None:
    async def main() -> list[int]:
        batcher = Batcher(recorded([]), most, 0.001)
        made = []
        for i in range(3):
            made += await asyncio.gather(*(batcher.answer(10 * i + j) for j in range(3)))
            await asyncio.sleep(0.01)
        return made

    assert asyncio.run(main()) == [10 * (10 * i + j) for i in range(3) for j in range(3)]
