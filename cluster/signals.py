"""SIGTERM and SIGHUP as exceptions, so that what cleans up behind itself does so."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType

_AGAIN_S = 5.0
"""A signal that comes so soon after another does not disturb what that one's end cleans up."""
INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C, which the command line's library turns into an exit of its own."""
_last = -math.inf
_are_set = False
_told = threading.Event()


class EndedError(SystemExit):
    """The process was told to end; its status is the one that a shell gives a process of that signal."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name


def _end(number: int, _: FrameType | None) -> None:
    global _last
    _told.set()
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if time.monotonic() - _last > _AGAIN_S:
        _last = time.monotonic()
        raise EndedError(number)


def end_by_signals() -> None:
    """From now on SIGTERM and SIGHUP raise `EndedError` in the main thread, which calls this. One that was
    ignored (nohup) stays ignored."""
    global _are_set
    _told.clear()
    _are_set = threading.current_thread() is threading.main_thread()
    end_by_signals_again()


def end_by_signals_again() -> None:
    """The same where it was so, after a library put its own in place."""
    if not _are_set or threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def ended_by(error: BaseException) -> str | None:
    """The name of the signal that ended a command with this exception; None for other ends."""
    if isinstance(error, EndedError):
        return error.name
    is_interrupt = isinstance(error, SystemExit) and error.code == INTERRUPTED and _told.is_set()
    return "SIGINT" if is_interrupt or isinstance(error, KeyboardInterrupt) else None


def is_told_to_end() -> bool:
    """Whether such a signal came, from a person or a scheduler."""
    return _told.is_set()
