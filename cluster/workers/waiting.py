"""Waits for Ray's workers that can be left: a session is ended by the main thread, while others wait in it.

A thread that asks Ray for something when the session is gone ends the process, from within Ray.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

_ASK_S = 0.5
"""How long a wait lasts before it is asked whether the session is ended."""
_ended = threading.Event()


class SessionEndedError(RuntimeError):
    """The session is being ended; whoever waits in it has to go."""


def begin_waits() -> None:
    """Waits of a new session."""
    _ended.clear()


def end_waits() -> None:
    """Waits raise SessionEndedError from now on, within half a second."""
    _ended.set()


def require_session() -> None:
    """SessionEndedError where the session is being ended."""
    if _ended.is_set():
        raise SessionEndedError("the session is ended")


def wait_any(refs: Sequence[Any], timeout_s: float | None = None) -> list[Any]:
    """The first of some results, as a list of it; empty after `timeout_s`. SessionEndedError."""
    import ray

    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        require_session()
        left = _ASK_S if until is None else min(_ASK_S, max(0.0, until - time.monotonic()))
        done, _ = ray.wait(list(refs), timeout=left)
        if done or (until is not None and time.monotonic() >= until):
            return list(done)


def get_all(refs: Sequence[Any], timeout_s: float) -> list[Any]:
    """All results, in order. Raises their errors as they come, Ray's GetTimeoutError after `timeout_s`, and
    SessionEndedError."""
    import ray

    until, waiting = time.monotonic() + timeout_s, list(refs)
    while waiting:
        done = wait_any(waiting, max(0.0, until - time.monotonic()))
        if not done:
            raise ray.exceptions.GetTimeoutError(f"not there after {timeout_s:.0f} s")
        ray.get(done)
        waiting = [ref for ref in waiting if ref not in done]
    return list(ray.get(list(refs)))
