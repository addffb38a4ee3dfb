"""Starting and ending the Ray processes of this host."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from dataclasses import dataclass

from netgpt.cluster.errors import ClusterError, NodeFailedError
from netgpt.cluster.jobs.state import MARK, StateFolder, mark_of, marked_processes
from netgpt.cluster.workers.compat import NO_METRICS, STARTED, start_command
from netgpt.cluster.workers.scratch import RAY_TMPDIR, ray_scratch
from netgpt.cluster.workers.session import QUIET, free_port, is_open
from netgpt.graphstore.files import write_json

_SECRET = re.compile("TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
START_S, END_S, _POLL_S = 90.0, 5.0, 0.3


@dataclass(frozen=True)
class NodeOptions:
    """How this host takes part."""

    host: str
    """Its address. Ray turns 127.0.0.1 into the machine's own address, 127.0.0.2 stays loopback."""
    port: int = 6379
    """Port of the head, for nodes that join."""
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int = 8265
    cpus: int | None = None
    """CPUs that Ray counts; None: what the machine has."""
    gpus: int | None = None
    metrics_port: int | None = None
    """Port of Ray's Prometheus endpoint, which asks for no token; None: there is none."""


def check_exposure(options: NodeOptions) -> None:
    """ClusterError for a cluster without tokens, or one that Ray would move off the loopback addresses."""
    mode = os.environ.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        raise ClusterError(
            f"RAY_AUTH_MODE: found {mode!r}, expected token: without one, Ray's dashboard and ports run "
            f"anyone's code (asked for: dashboard on {options.dashboard_host}, node on {options.host})"
        )
    if options.host in ("127.0.0.1", "localhost", "::1"):
        raise ClusterError(
            f"--host: found {options.host}, which Ray replaces by the machine's own address; "
            "expected 127.0.0.2 for this machine alone, or an address that other nodes reach"
        )


def node_environment(folder: StateFolder, mark: str, metrics: bool) -> dict[str, str]:
    """Environment of a node's processes, and so of the jobs that run there: `netgpt` is on the PATH."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    own = {**QUIET, **folder.environment(), **({} if metrics else NO_METRICS), "PATH": path, MARK: mark}
    own[RAY_TMPDIR] = ray_scratch()
    # Jobs inherit it: what looks like a secret of the person who starts the cluster is not theirs
    kept = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS" and not _SECRET.search(k)}
    return {**kept, **own}


def start_node(folder: StateFolder, cluster: str, options: NodeOptions, join: str = "") -> None:
    """Start Ray on this host, as the head or to `join` one (HOST:PORT); returns when it answers."""
    check_exposure(options)
    ports = [] if join else [(options.host, options.port), (options.dashboard_host, options.dashboard_port)]
    for host, port in ports:
        if is_open(host, port):
            raise ClusterError(f"port {port} of {host}: in use; choose others: --port, --dashboard-port")
    arguments = [f"--node-ip-address={options.host}", "--disable-usage-stats", "--block"]
    # Any free port: two nodes of one machine must not meet at the default
    arguments += ["--dashboard-agent-listen-port=0"]
    if join:
        arguments += [f"--address={join}"]
    else:
        arguments += [
            "--head",
            f"--port={options.port}",
            # Ray starts a server that nobody here uses, and refuses to leave it out: anywhere but its default
            f"--ray-client-server-port={free_port(options.host)}",
        ]
        arguments += [
            f"--dashboard-host={options.dashboard_host}",
            f"--dashboard-port={options.dashboard_port}",
        ]
    for name, value in (("cpus", options.cpus), ("gpus", options.gpus)):
        arguments += [] if value is None else [f"--num-{name}={value}"]
    arguments += [] if options.metrics_port is None else [f"--metrics-export-port={options.metrics_port}"]
    log = folder.log_file(options.host)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            start_command(arguments),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=node_environment(folder, mark_of(cluster, options.host), options.metrics_port is not None),
            start_new_session=True,  # lives on when the terminal closes
        )
    node = folder.node_file(options.host)
    node.parent.mkdir(parents=True, exist_ok=True)
    write_json(node, {"host": options.host, "pid": process.pid, "machine": socket.gethostname()})
    until = time.monotonic() + START_S
    while STARTED not in log.read_bytes() or not (
        join or _answers(folder, f"http://{options.dashboard_host}:{options.dashboard_port}")
    ):
        ended = process.poll() is not None
        if ended or time.monotonic() > until:
            end_node(folder, cluster, options.host)
            last = log.read_text(errors="replace").strip().splitlines()[-3:]
            why = "ended" if ended else f"did not answer in {START_S:.0f} s"
            raise NodeFailedError(f"Ray on {options.host} {why}; {log}: {' | '.join(last)}")
        time.sleep(_POLL_S)


def end_node(folder: StateFolder, cluster: str, host: str = "") -> int:
    """End a node's processes, or all that the cluster has on this machine; how many there were."""
    pids = marked_processes(cluster, host)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in marked_processes(cluster, host):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        until = time.monotonic() + END_S
        while marked_processes(cluster, host) and time.monotonic() < until:
            time.sleep(_POLL_S)
    for node in [folder.node_file(host)] if host else (folder.path / "nodes").glob("*.json"):
        node.unlink(missing_ok=True)
    return len(pids)


def _answers(folder: StateFolder, dashboard: str) -> bool:
    """Whether a dashboard serves requests with our token."""
    token = folder.token.read_text(encoding="ascii").strip()
    request = urllib.request.Request(f"{dashboard}/api/version", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def is_up(folder: StateFolder) -> bool:
    """Whether the cluster that the folder tells of answers."""
    state = folder.read()
    return state is not None and folder.token.exists() and _answers(folder, state.dashboard)
