"""A Ray to run on: the job's own cluster, or one started on this machine's loopback addresses."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from netgpt.cluster.config import ClusterConfig
from netgpt.cluster.signals import end_by_signals_again
from netgpt.cluster.workers.compat import NO_METRICS, init_local, say_on_stderr
from netgpt.cluster.workers.scratch import RAY_TMPDIR, ray_scratch
from netgpt.cluster.workers.waiting import begin_waits

# Ray turns 127.0.0.1 into the machine's own address; 127.0.0.2 stays loopback
LOOPBACK = "127.0.0.2"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
WORKER_ENVIRONMENT = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def local_cpus(cluster: ClusterConfig) -> int:
    """CPUs that a Ray of this machine alone is told it has: at least those that one stage asks for."""
    return max(cluster.workers * cluster.threads, os.cpu_count() or 1)


def free_port(host: str = "") -> int:
    """A port that nobody has at an address of this machine; by default at all of them."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def is_open(host: str, port: int) -> bool:
    """Whether anyone takes connections at an address."""
    try:
        with socket.create_connection((host, port), timeout=2):
            return True
    except OSError:
        return False


def is_local() -> bool:
    """Whether a session is a Ray of this process's own, which ends with it."""
    return "RAY_ADDRESS" not in os.environ


@contextmanager
def ray_session(num_cpus: int) -> Iterator[None]:
    """Connect to the cluster that RAY_ADDRESS names, else start a local one and stop it at the end.

    `num_cpus` is what a local Ray is told it has: workers are counted, and on a small machine they
    share cores. Its ports ask for a token made for this session alone, since some listen on all
    interfaces.
    """
    local = is_local()
    # No second Ray behind our back: a stage that is ended with the session must not start one
    of_local = NO_METRICS | WORKER_ENVIRONMENT if local else {}
    own = {**QUIET, "RAY_ENABLE_AUTO_CONNECT": "0", **of_local}
    for name, value in own.items():
        os.environ.setdefault(name, value)
    if local:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ[RAY_TMPDIR] = ray_scratch()
    import ray  # after the environment is set; and commands that need no Ray start fast

    say_on_stderr()
    options: dict[str, Any] = {
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    if local:  # whose processes inherit this one's environment: one of Ray's making doubles their start
        init_local(LOOPBACK, num_cpus=num_cpus, **options)
    else:
        ray.init(runtime_env={"env_vars": WORKER_ENVIRONMENT}, **options)
    begin_waits()
    end_by_signals_again()  # Ray has its own, which print where its C++ code stands
    try:
        yield
    finally:
        ray.shutdown()
