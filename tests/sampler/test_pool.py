"""Memory that is lent: never to two at once, and used again when nobody reads it."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import torch
from sampling_reference import as_lists

from netgpt.graphstore import Store
from netgpt.sampler import NeighborSampler
from netgpt.sampler.pool import Arena, MemoryPool, lent, room


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_comes_back_when_the_last_array_is_gone() -> None:
    pool = MemoryPool()
    arena = pool.lend(4096)
    first, second = arena.allocate(100, np.int64), arena.allocate(7, np.int32)
    place = address(first)
    assert address(second) - place == room(800) and first.flags.writeable
    del arena, first
    assert address(pool.lend(4096).allocate(1, np.int8)) != place  # the second array is still read
    view = second[2:5].view(np.uint8)[3:]
    kept = torch.from_numpy(view)
    del second, view
    assert address(pool.lend(4096).allocate(1, np.int8)) != place  # and so are views of views, as tensors
    del kept
    gc.collect()
    assert place in {address(a) for a in [pool.lend(4096).allocate(1, np.int8) for _ in range(4)]}


@pytest.mark.parametrize("buffer", [bytearray(64), np.zeros(64, np.uint8), memoryview(bytearray(64))])
def test_any_buffer_is_lent_until_no_view_is_left(buffer: object) -> None:
    returned = []
    whole = lent(buffer, lambda: returned.append(True))
    view = whole[8:16].view(np.int32)[1:]
    del whole
    gc.collect()
    assert not returned
    del view
    assert returned == [True]


def test_an_arena_without_room_gives_ordinary_memory() -> None:
    memory = np.zeros(256, np.uint8)
    arena = Arena(memory)
    inside, outside, empty = (
        arena.allocate(20, np.int64),
        arena.allocate(20, np.int64),
        arena.allocate(0, int),
    )
    assert np.shares_memory(inside, memory) and not np.shares_memory(outside, memory) and len(empty) == 0
    assert len(outside) == 20 and outside.dtype == np.int64
    assert not np.shares_memory(Arena(None).allocate(3, np.int32), memory)


def test_larger_batches_get_larger_memory_and_smaller_ones_what_there_is() -> None:
    pool, places = MemoryPool(), []
    for num_bytes in (100, 1000, 50, 5000, 5000):
        arena = pool.lend(room(num_bytes))
        array = arena.allocate(num_bytes, np.uint8)
        assert array.base is not None  # of the arena, not memory of its own
        places.append((address(array), len(arena._memory)))
        del arena, array
    sizes = [size for _, size in places]
    assert sizes == [room(100), room(1000), room(1000), room(5000), room(5000)]
    assert places[1] == places[2] and places[3] == places[4]


def test_batches_that_are_kept_are_not_written_again(store: Store) -> None:
    """By threads at once, some batches kept and some dropped at random."""
    sampler = NeighborSampler(store, fanout=4, seed=2)
    requests = [np.random.default_rng(i).permutation(store.num_nodes["video"])[:20] for i in range(30)]
    expected = [as_lists(NeighborSampler(store, fanout=4, seed=2).sample(seeds)) for seeds in requests]
    wrong: list[int] = []

    def work(number: int) -> None:
        rng, kept = np.random.default_rng(number), {}
        for _ in range(60):
            i = int(rng.integers(len(requests)))
            kept[int(rng.integers(6))] = (i, sampler.sample(requests[i]))
            wrong.extend(j for j, batch in kept.values() if as_lists(batch) != expected[j])

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
