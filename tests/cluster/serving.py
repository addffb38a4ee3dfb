"""A service as a client sees it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from netgpt.cluster.workers.session import free_port

TOKEN = "a-token-of-this-test"


@dataclass
class Service:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(
        self, path: str, body: Any = None, token: str = TOKEN, headers: dict[str, str] | None = None
    ) -> tuple[int, str]:
        """Status and text of an answer. body: bytes, JSON, or an iterator of bytes, sent in chunks."""
        given = {"Authorization": f"Bearer {token}"} if token else {}
        data = json.dumps(body).encode() if isinstance(body, dict | list) else body
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers={**given, **(headers or {})}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def answers(self, body: Any) -> Any:
        status, text = self.ask("/predict", body)
        assert status == 200, text
        return json.loads(text)

    @property
    def pids(self) -> list[int]:
        """Of its Ray and all its workers."""
        own = psutil.Process(self.process.pid)
        return [own.pid, *(child.pid for child in own.children(recursive=True))]

    def replicas(self) -> list[psutil.Process]:
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in found if one.name().startswith("ray::ServeRepli")]


@contextmanager
def service(run: Path, log: Path, *options: object, ends: int = 0) -> Iterator[Service]:
    """Ready; it has to end with a status, when it is told to or before."""
    port = free_port("127.0.0.1")
    told = ["serve", run, "--port", port, "--token", TOKEN, *options]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "netgpt", *map(str, told)], stdout=out, stderr=subprocess.STDOUT
        )
    made = Service(process, port, log)
    try:
        end = time.monotonic() + 180
        while True:
            assert process.poll() is None and time.monotonic() < end, log.read_text()[-3000:]
            try:
                if made.ask("/healthz", token="")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.5)
        yield made
        process.terminate()
        assert process.wait(60) == ends, log.read_text()[-3000:]
    finally:
        process.kill()
        process.wait()
