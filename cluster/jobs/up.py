"""`up` and `down`: a cluster of this host alone, of a hosts file over ssh, or of a Slurm job."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from netgpt.cluster.errors import ClusterError, NodeFailedError
from netgpt.cluster.jobs.nodes import START_S, NodeOptions, check_exposure, end_node, is_up, start_node
from netgpt.cluster.jobs.state import ClusterState, StateFolder, marked_processes, read_hosts

Say = Callable[[str], None]
_POLL_S = 1.0


def up(folder: StateFolder, options: NodeOptions, hosts: list[str], ssh: str, say: Say) -> ClusterState:
    """Start a cluster, or find it up. `hosts`: every node, this one first; those that do not take part
    yet join. Raises ClusterError for what would expose it, NodeFailedError where Ray does not start."""
    check_exposure(options)
    folder.make_token()
    state = folder.read()
    if state is not None and is_up(folder):
        say(f"up already: {state.dashboard}")
        if hosts and hosts[0] != state.hosts[0]:
            raise ClusterError(
                f"--hosts: found head {hosts[0]}, but a cluster of {state.hosts[0]} is up; down first"
            )
    else:
        if state is not None:
            end_node(folder, state.id)  # what is left of one that died
        dashboard = f"http://{options.dashboard_host}:{options.dashboard_port}"
        address = f"{options.host}:{options.port}"
        state = ClusterState(uuid.uuid4().hex, address, dashboard, [options.host], ssh)
        start_node(folder, state.id, options)
        folder.write(state)
        say(f"up: {state.dashboard} (head {options.host})")
    for host in hosts[1:]:
        state = _join_over_ssh(folder, state, host, options, ssh, say)
    return state


def _join_over_ssh(
    folder: StateFolder, state: ClusterState, host: str, options: NodeOptions, ssh: str, say: Say
) -> ClusterState:
    if host in state.hosts and folder.node_file(host).exists():
        say(f"{host}: takes part already")
        return state
    extra = [] if options.cpus is None else ["--cpus", str(options.cpus)]
    extra += [] if options.gpus is None else ["--gpus", str(options.gpus)]
    _over_ssh(ssh, host, ["up", "--join", "--state", str(folder.path), "--host", host, *extra])
    joined = replace(state, hosts=[*(h for h in state.hosts if h != host), host])
    folder.write(joined)
    say(f"{host}: joined")
    return joined


def _over_ssh(ssh: str, host: str, command: list[str]) -> None:
    """Run `netgpt cluster …` on another host, which sees this tree and Python under the same path."""
    own = [sys.executable, "-m", "netgpt", "cluster"]
    line = f"cd {shlex.quote(os.getcwd())} && {shlex.join([*own, *command])}"
    done = subprocess.run([*shlex.split(ssh), host, line], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NodeFailedError(
            f"{host}: netgpt cluster {shlex.join(command)} ended with {done.returncode}: {' '.join(last)}"
        )


def join(folder: StateFolder, options: NodeOptions, say: Say) -> None:
    """Take part in the cluster that the folder tells of; waits for its head."""
    until = time.monotonic() + START_S
    while (state := folder.read()) is None or not folder.token.exists():
        if time.monotonic() > until:
            raise ClusterError(
                f"{folder.path}: found no cluster to join, expected one made by ./launch.sh up"
            )
        time.sleep(_POLL_S)
    folder.check_token()
    if folder.node_file(options.host).exists() and marked_processes(state.id, options.host):
        say(f"{options.host}: takes part already")
        return
    start_node(folder, state.id, options, join=state.address)
    say(f"{options.host}: joined {state.address}")


def down(folder: StateFolder, say: Say) -> None:
    """End the cluster on all its hosts; nothing to do where none is up."""
    state = folder.read()
    if state is None:
        say("no cluster is up")
        return
    for host in state.hosts[1:]:
        if state.ssh:
            try:
                _over_ssh(state.ssh, host, ["down", "--here", "--state", str(folder.path), "--host", host])
            except NodeFailedError as error:
                say(str(error))
    num = end_node(folder, state.id)
    folder.forget()
    say(f"down: {num} processes ended on this host")


def down_here(folder: StateFolder, host: str, say: Say) -> None:
    """End this host's part alone."""
    state = folder.read()
    num = end_node(folder, state.id, host) if state else 0
    say(f"{host}: {num} processes ended")


def slurm_host() -> tuple[int, str] | None:
    """This task's rank and its node's address in a Slurm job of several tasks; None outside of one."""
    if "SLURM_JOB_ID" not in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) < 2:
        return None
    name = os.environ.get("SLURMD_NODENAME", socket.gethostname())
    return int(os.environ["SLURM_PROCID"]), socket.gethostbyname(name)


def block_until_down(folder: StateFolder) -> None:
    """Return when the cluster is taken down: a Slurm step ends its processes when its command returns."""
    while folder.read() is not None:
        time.sleep(_POLL_S)


def hosts_of(path: Path | None, host: str | None) -> tuple[list[str], str]:
    """(all hosts, this one) from --hosts and --host."""
    if path is None:
        return [], host or "127.0.0.2"
    hosts = read_hosts(path)
    if host is not None and host != hosts[0]:
        raise ClusterError(f"--host: found {host}, expected the first of --hosts ({hosts[0]})")
    return hosts, hosts[0]
