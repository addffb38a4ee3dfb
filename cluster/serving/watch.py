"""Whether a service is there: its Ray, its address, its replicas. Nobody must wait for one that is not."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import NoReturn

import psutil

from netgpt.cluster.progress import say
from netgpt.cluster.workers.session import is_open

SILENT_SECONDS = 20.0
"""That nobody may be there, as while a proxy is started again."""
REPLICA_SECONDS = 90.0
"""That no replica may run, as while one loads its models again."""


class Watch:
    """Looks at one service again and again."""

    def __init__(self, host: str, port: int, head: str) -> None:
        """head: HOST:PORT of Ray's."""
        loopback = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
        self._place = loopback.get(host, host), port
        name, _, number = head.rpartition(":")
        self._head = name.strip("[]"), int(number)
        self._since: dict[str, float] = {}
        self.started = psutil.Process().children(recursive=True)
        """Processes that this one started, and those. Once Ray is gone nobody knows whose they were."""

    def head_is_gone(self) -> bool:
        is_silent = not is_open(*self._head)
        if not is_silent:
            self.started = psutil.Process().children(recursive=True)
        return self._lasts("head", is_silent, SILENT_SECONDS)

    def trouble(self) -> str | None:
        """What is wrong, once it has been for longer than it may."""
        if "head" in self._since:  # who asks Ray now waits for a minute
            return None
        if self._lasts("address", not is_open(*self._place), SILENT_SECONDS):
            return "found nobody at its address"
        words = _no_replica()
        if self._lasts("replicas", words is not None, REPLICA_SECONDS):
            return f"its replicas do not come back: {words}"
        return None

    def _lasts(self, what: str, is_so: bool, seconds: float) -> bool:
        if not is_so:
            self._since.pop(what, None)
            return False
        return time.monotonic() - self._since.setdefault(what, time.monotonic()) > seconds


def _no_replica() -> str | None:
    """Ray's words on a service of which no replica runs; None where one does."""
    from ray import serve

    for application in serve.status().applications.values():
        for deployment in application.deployments.values():
            states = deployment.replica_states.items()
            if not sum(num for state, num in states if str(state).endswith("RUNNING")):
                return _last_line(deployment.message)
    return None


def _last_line(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    told = [line for line in lines if "Error" in line]
    return (told or lines or ["no reason is known"])[-1][:300]


def leave(why: str, started: list[psutil.Process]) -> NoReturn:
    """End this process and those that it started, at once: what would end them in order is not there."""
    say(f"netgpt: serving: {why}, expected the service: start it again")
    for one in started:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(started, timeout=10)
    os._exit(2)
