"""`netgpt serve`: starts the replicas of a run, and stays until it is told to end."""

from __future__ import annotations

import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import say
from netgpt.cluster.serving.predictor import require_answers, trained_digest
from netgpt.cluster.serving.records import is_loopback
from netgpt.cluster.serving.watch import Watch, leave
from netgpt.cluster.workers.session import is_local, ray_session

LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 4.0
"""Between two looks at whether the service is there."""
MOST_WAITING = 500
"""Requests that wait for a replica; more are answered with 503."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    run: Path
    host: str = LOOPBACK
    port: int = 8000
    replicas: int = 1
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """That requests show; empty: none is asked for, which is for loopback addresses alone."""
    shows_token: bool = True
    """Whether it is told to whoever starts the service: not where they gave it."""
    text: str | None = None
    """features.text, where the run does not name the encoder of its texts."""
    max_bytes: int = 16_000_000
    max_records: int = 1000
    seconds: float = 60.0
    batch: int = 64

    def __post_init__(self) -> None:
        for name, low, high in (
            ("port", 1, 65535),
            ("replicas", 1, 10_000),
            ("max_bytes", 1, 1 << 32),
            ("max_records", 1, 1_000_000),
            ("batch", 1, 100_000),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ClusterError(f"--{name.replace('_', '-')}: found {value}, expected {low} to {high}")
        if not 0 < self.seconds <= 86_400:
            raise ClusterError(f"--seconds: found {self.seconds:g}, expected above 0, at most 86400")
        if not self.token and not is_loopback(self.host):
            raise ClusterError(f"--host: found {self.host} without a token, expected a loopback address")

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


@contextmanager
def serving(options: ServeOptions) -> Iterator[None]:
    """The replicas, ready. ClusterError for a run that gives new rows no answer, or is not done."""
    run = Run.open_(options.run)
    require_answers(run, options.text)
    cluster = run.config.cluster
    with ray_session(options.replicas * cluster.threads + 1):
        import ray
        from ray import serve

        from netgpt.cluster.serving.counts import Board
        from netgpt.cluster.serving.service import BOARD, Limits, Service, digest_of

        gpus = float(ray.cluster_resources().get("GPU", 0))
        on_gpu = cluster.device == "cuda" or (cluster.device == "auto" and gpus >= options.replicas)
        if not is_local() and _is_serving():
            raise ClusterError("serve: found a service on this cluster, expected none: end it first")
        board: Any = ray.remote(Board).options(name=BOARD, num_cpus=0).remote()
        limits = Limits(
            bytes=options.max_bytes,
            records=options.max_records,
            seconds=options.seconds,
            batch=options.batch,
        )
        service: Any = Service
        bound = service.options(
            num_replicas=options.replicas,
            max_ongoing_requests=max(100, 2 * options.batch),
            max_queued_requests=MOST_WAITING,
            ray_actor_options={"num_cpus": cluster.threads, "num_gpus": float(on_gpu)},
        ).bind(
            str(options.run.absolute()),
            trained_digest(run),
            "cuda" if on_gpu else "cpu",
            options.text,
            digest_of(options.token) if options.token else "",
            limits,
        )
        # On a cluster every node's proxy takes requests; of this machine's own Ray there is one
        where = "HeadOnly" if is_local() else "EveryNode"
        http = {"host": options.host, "port": options.port, "request_timeout_s": 2 * options.seconds}
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        try:
            serve.start(proxy_location=where, http_options=http, logging_config=quiet)
            serve.run(bound, name="netgpt", route_prefix="/", logging_config=quiet)
            yield
        finally:
            serve.shutdown()
            ray.kill(board)


def _is_serving() -> bool:
    """Whether Ray Serve runs on the connected cluster: a second start would take its place, and ending it all
    of it."""
    import ray

    try:
        ray.get_actor("SERVE_CONTROLLER_ACTOR", namespace="serve")
    except ValueError:
        return False
    return True


def stay(options: ServeOptions) -> None:
    """Serve until SIGINT or SIGTERM. ClusterError where the service is gone; where its Ray is, this process
    ends with status 2."""
    ended = threading.Event()
    with serving(options):
        for sign in (signal.SIGINT, signal.SIGTERM):  # behind Ray's own
            signal.signal(sign, lambda *_: ended.set())
        say(f"serving {options.run} at {options.url}/predict with {options.replicas} replicas")
        fragment = ""
        if options.token:
            shown = options.token if options.shows_token else "TOKEN"
            say(f"each request shows the header Authorization: Bearer {shown}")
            fragment = f"#token={quote(shown, safe='')}"
        say(f"a page to try it: {options.url}/{fragment}")
        watch = Watch(options.host, options.port, _head())
        while not ended.wait(LOOK_SECONDS):
            if watch.head_is_gone():
                leave("found no head of Ray", watch.started)
            if why := watch.trouble():
                raise ClusterError(f"serving: {why}, expected the service: start it again")
    say("serving: ended")


def _head() -> str:
    """HOST:PORT of Ray's head."""
    import ray

    return str(ray.get_runtime_context().gcs_address)
