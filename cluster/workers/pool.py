"""Rows through a pool of Ray actors; an actor that dies is started again, and its rows are made again.

Actors of our own and not those of Ray Data: its actors hold their arguments in the object store, for which
Ray's core prints an error line at every start, and a row and what is made of it would have to be columns.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any, Protocol, TypeVar

from netgpt.cluster.workers.waiting import wait_any

_MOST_RESTARTS = 8
"""Restarts of an actor, and of a row: a row that kills each actor must end the work."""
_IN_HAND, _AHEAD = 2, 8
"""Rows that an actor holds, so that it does not wait for who takes what it made; and rows an actor that may
be made while an earlier one is not."""

Row = TypeVar("Row", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Maker(Protocol[Row, Result]):
    """An actor of the pool. An error that belongs to the row is a value of its result: what is raised comes
    as Ray's error."""

    def make(self, row: Row, /) -> Result: ...


def map_on_pool(
    rows: Sequence[Row],
    actor: type[Maker[Row, Result]],
    arguments: tuple[Any, ...],
    *,
    size: int,
    ordered: bool,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Generator[Result, None, None]:
    """What `actor(*arguments).make` returns for each row, on the connected Ray.

    size: actors, at most; ordered: in the rows' order, else as they come; cpus, gpus: of each actor. Rows,
    results and arguments are what pickle takes. Ray's errors come through as they are. Close it where it is
    left before its end: that ends the actors.
    """
    import ray

    num = min(len(rows), size)
    kind: Any = ray.remote(
        num_cpus=cpus, num_gpus=gpus, max_restarts=_MOST_RESTARTS, max_task_retries=_MOST_RESTARTS
    )(actor)
    actors = [kind.remote(*arguments) for _ in range(num)]
    waiting = {one.__ray_ready__.remote(): (one, -1) for one in actors}
    free: deque[Any] = deque()
    made: dict[int, Result] = {}
    given = taken = 0
    try:
        while taken < len(rows):
            while free and given < len(rows) and given - taken < num * _AHEAD:
                one = free.popleft()
                waiting[one.make.remote(rows[given])] = (one, given)
                given += 1
            (ref,) = wait_any(list(waiting))
            one, number = waiting.pop(ref)
            result = ray.get(ref)
            if number < 0:  # it has started
                free.extend([one] * _IN_HAND)
                continue
            free.append(one)
            made[number] = result
            del ref, result  # what is taken need not stay in the object store
            while made and (not ordered or taken in made):
                taken += 1
                yield made.pop(taken - 1 if ordered else next(iter(made)))
    finally:
        if ray.is_initialized():
            for one in actors:
                ray.kill(one)
