"""All that is private of Ray, in one place: what is used, why, and what tells when it can go.

Tried with Ray 2.60.0.

- `ray.init(_node_ip_address=…)`: the only way to keep a local Ray on loopback addresses. `test_jobs.py`:
  every port refuses without the token.
- `DASHBOARD_METRIC_PORT`, `AUTOSCALER_METRIC_PORT`: two servers of metrics have no switch, and ask for no
  token; a port that cannot be opened is theirs. `test_jobs.py`: no port answers.
- `python -m ray.scripts.scripts start`, and a line of its log: the command line's own module, so that the
  Python that runs is this one; it says in words alone when it has started. `test_jobs.py`: up and down.
- `/working_dir_files/` in a job's folder: the only sign of a plain job. `test_jobs.py`: a plain job.
- `ray.serve._private.replica.add_port_to_grpc_server`: a replica of Ray Serve has a server for calls between
  deployments, of which there is one here: it listens on all interfaces, asks for no token, and unpickles what
  it is sent. `test_serving.py`: no port of a service answers without a token.
- `ray._private.worker.print_worker_logs`: what Ray itself says of its nodes goes to standard output, where
  commands write JSON. `test_session.py`: it goes to standard error.
- the session's folder of logs: what a worker said that died while it started. `test_session.py`: a worker
  that cannot start.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from netgpt.cluster.errors import ClusterError

NO_METRICS = {
    # Ray serves metrics on all interfaces and asks for no token: off, but where someone asks for them
    "RAY_enable_metrics_collection": "0",
    "DASHBOARD_METRIC_PORT": "-1",
    "AUTOSCALER_METRIC_PORT": "-1",
}
JOB_FOLDER = "/working_dir_files/"
"""In the path of a job's copy of the tree."""
STARTED = b"Ray runtime started"
"""What `start_command` says when a node has started."""


def start_command(arguments: list[str]) -> list[str]:
    """`ray start` by this Python."""
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *arguments]


def init_local(address: str, **options: Any) -> None:
    """Start a Ray of this process's own at a loopback address; never join another of this machine."""
    import ray

    ray.init(address="local", _node_ip_address=address, include_dashboard=False, **options)


def say_on_stderr() -> None:
    """What Ray says in this process goes to standard error, whoever said it."""
    from ray._private import worker

    said = worker.print_worker_logs
    if getattr(said, "is_on_stderr", False):
        return

    def on_stderr(data: Any, print_file: Any, ignore_prefix: bool = False) -> None:
        said(data, sys.stderr, ignore_prefix)

    on_stderr.is_on_stderr = True  # type: ignore[attr-defined]
    worker.print_worker_logs = on_stderr


def close_replica() -> None:
    """In the process of a Ray Serve replica, before it is ready: its server for other deployments gets no
    port."""
    from ray.serve._private import replica

    def no_port(server: Any, address: str) -> int:
        return 0

    if not hasattr(replica, "add_port_to_grpc_server"):  # never a port without a token because a name changed
        import ray

        raise ClusterError(f"serve: found Ray {ray.__version__}, expected one whose replicas can be closed")
    replica.add_port_to_grpc_server = no_port


def worker_logs() -> list[Path]:
    """Files of what workers of the connected Ray said on this node, the newest last; no empty ones."""
    from ray._private.worker import _global_node

    if _global_node is None:
        return []
    logs = Path(_global_node.get_logs_dir_path())
    files = [p for p in logs.glob("worker-*.err") if p.stat().st_size]
    return sorted(files, key=lambda p: p.stat().st_mtime_ns)
