"""Rows through a pool of Ray Data actors; an actor that dies is replaced, and its row goes to another."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from typing import Any

_MOST_RESTARTS = 8
"""Restarts of an actor, and of a row: Ray Data's own number is without end, also for a row that kills each
actor."""


def map_on_pool(
    rows: list[dict[str, Any]],
    actor: type,
    arguments: tuple[Any, ...],
    *,
    size: int,
    ordered: bool,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Generator[dict[str, Any], None, None]:
    """What `actor(*arguments)` makes of each row, a row at a time, on the connected Ray.

    ordered: in the rows' order, else as they come. Ray's errors come through as they are. Close it where it
    is left before its end: Ray Data's thread would outlive the session.
    """
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = ordered
    context.enable_progress_bars = False
    pool = ray.data.ActorPoolStrategy(size=max(1, min(len(rows), size)))
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    with warnings.catch_warnings():
        # Ray 2.60 deprecates the argument, and has no other place for these two
        warnings.filterwarnings("ignore", "`ray_remote_args_fn` is deprecated")
        made = data.map_batches(
            actor,
            fn_constructor_args=arguments,
            batch_size=1,
            compute=pool,
            num_cpus=cpus,
            num_gpus=gpus or None,
            ray_remote_args_fn=lambda: {"max_restarts": _MOST_RESTARTS, "max_task_retries": _MOST_RESTARTS},
        )
    yield from made.iter_rows()
