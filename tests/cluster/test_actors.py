"""Rows through a pool of actors: order, faults, what is made ahead."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from netgpt.cluster.workers import pool
from netgpt.cluster.workers.pool import map_on_pool
from netgpt.cluster.workers.session import ray_session


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


def squares() -> type[Any]:
    """Made here, so that it goes to Ray's workers by value: they cannot import this file."""

    class Squares:
        """Notes each row that it makes in a folder; the first to make row `deadly` dies of it."""

        def __init__(self, folder: Path, deadly: int = -1, slow: int = -1) -> None:
            self.folder, self.deadly, self.slow = folder, deadly, slow

        def make(self, row: int) -> tuple[int, int]:
            died = self.folder / "died"
            if row == self.deadly and not died.exists():
                died.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            (self.folder / str(row)).touch()
            if row == self.slow:
                time.sleep(2)
            if row < 0:
                raise ValueError(f"found {row}")
            return row, row * row

    return Squares


def test_in_order_and_each_row_once_though_an_actor_dies(on_ray: None, tmp_path: Path) -> None:
    rows = list(range(40))
    made = map_on_pool(rows, squares(), (tmp_path, 7), size=2, ordered=True)
    assert list(made) == [(row, row * row) for row in rows]
    assert (tmp_path / "died").exists()


def test_as_they_come_a_slow_row_holds_nothing_up(on_ray: None, tmp_path: Path) -> None:
    rows = list(range(20))
    made = [row for row, _ in map_on_pool(rows, squares(), (tmp_path, -1, 0), size=2, ordered=False)]
    assert sorted(made) == rows and made.index(0) > 10


def test_rows_ahead_of_one_that_is_not_made_are_bounded(on_ray: None, tmp_path: Path) -> None:
    rows = list(range(100))
    with closing(map_on_pool(rows, squares(), (tmp_path, -1, 0), size=2, ordered=True)) as made:
        assert next(made) == (0, 0)
        assert len(list(tmp_path.iterdir())) <= 2 * pool._AHEAD
        assert [next(made)[0] for _ in range(3)] == [1, 2, 3]


def test_left_before_its_end_its_actors_are_gone(on_ray: None, tmp_path: Path) -> None:
    import ray

    with closing(map_on_pool([1, 2, 3], squares(), (tmp_path,), size=2, ordered=True)) as made:
        next(made)
    until = time.monotonic() + 30
    while ray.available_resources().get("CPU", 0) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_no_rows_take_no_actors(on_ray: None, tmp_path: Path) -> None:
    assert list(map_on_pool([], squares(), (tmp_path,), size=2, ordered=True)) == []


def test_what_an_actor_raises_comes_through(on_ray: None, tmp_path: Path) -> None:
    import ray

    with pytest.raises(ray.exceptions.RayTaskError, match="found -5"):
        list(map_on_pool([1, -5], squares(), (tmp_path,), size=1, ordered=True))


def test_a_row_that_kills_every_actor_ends_the_work(on_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    class Deadly:
        def make(self, row: int) -> int:
            os.kill(os.getpid(), signal.SIGKILL)
            return row

    monkeypatch.setattr(pool, "_MOST_RESTARTS", 2)
    with pytest.raises(ray.exceptions.RayError, match="died"):
        list(map_on_pool([1], Deadly, (), size=1, ordered=False))


def test_ray_prints_no_error_line_of_its_own(
    on_ray: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    list(map_on_pool([1, 2], squares(), (tmp_path,), size=2, ordered=True))
    said = capfd.readouterr()
    assert " E " not in said.err + said.out
