"""Commands of clusters and jobs; `./launch.sh up | submit | status | down` call them."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.progress import say

app = typer.Typer(help="A Ray cluster to submit jobs to: up, submit, status, down.", no_args_is_help=True)
State = Annotated[Path, typer.Option("--state", help="Folder of the cluster's token and state.")]
Host = Annotated[str | None, typer.Option("--host", help="This node's address.")]
DEFAULT_STATE = Path(".cluster")


@app.command()
def up(
    state: State = DEFAULT_STATE,
    host: Host = None,
    hosts: Annotated[Path | None, typer.Option("--hosts", help="One address a line, this one first.")] = None,
    port: Annotated[int, typer.Option("--port", help="Of the head, for the other nodes.")] = 6379,
    dashboard_host: Annotated[str, typer.Option("--dashboard-host")] = "127.0.0.1",
    dashboard_port: Annotated[int, typer.Option("--dashboard-port")] = 8265,
    cpus: Annotated[int | None, typer.Option("--cpus", help="CPUs that Ray counts on a node.")] = None,
    gpus: Annotated[int | None, typer.Option("--gpus", help="GPUs that Ray counts on a node.")] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", help="Open Ray's Prometheus endpoint there: it asks for no token."),
    ] = None,
    ssh: Annotated[str, typer.Option("--ssh", help="Command that reaches the other hosts.")] = "ssh",
    join: Annotated[bool, typer.Option("--join", help="Take part in the cluster of this tree.")] = False,
    block: Annotated[bool, typer.Option("--block", help="Return when the cluster is down.")] = False,
) -> None:
    """Start or join a cluster: of this machine, a hosts file, or a Slurm step. Idempotent."""
    from netgpt.cluster.jobs.nodes import NodeOptions
    from netgpt.cluster.jobs.state import StateFolder
    from netgpt.cluster.jobs.up import block_until_down, hosts_of, slurm_host
    from netgpt.cluster.jobs.up import join as join_cluster
    from netgpt.cluster.jobs.up import up as start

    folder = StateFolder(state)
    all_hosts, own = hosts_of(hosts, host)
    if (slurm := slurm_host()) is not None and hosts is None:
        rank, own_name = slurm
        own, join, block = host or own_name, rank > 0, True
    if metrics_port is not None:
        say("Ray's metrics endpoint asks for no token, on all interfaces: keep a firewall before it")
    options = NodeOptions(own, port, dashboard_host, dashboard_port, cpus, gpus, metrics_port)
    if join:
        join_cluster(folder, options, say)
    else:
        start(folder, options, all_hosts, ssh if len(all_hosts) > 1 else "", say)
        say(f"plain Ray commands want: source {shlex.quote(str(folder.path / 'env'))}")
    if block:
        block_until_down(folder)


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    command: Annotated[list[str] | None, typer.Argument(metavar="-- COMMAND …")] = None,
    state: State = DEFAULT_STATE,
    tree: Annotated[Path, typer.Option("--tree", help="Working tree to ship.")] = Path("."),
    called_from: Annotated[Path | None, typer.Option("--called-from", help="Where paths start.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Follow the log to the end.")] = True,
) -> None:
    """Ship the working tree, run a command there, follow its log, and exit as it exits."""
    from netgpt.cluster.jobs.state import StateFolder
    from netgpt.cluster.jobs.submit import submit as run

    place = (called_from or Path(os.getcwd())).resolve()
    ended = run(StateFolder(state), tree.resolve(), place, command or [], follow=follow)
    sys.exit(ended.code)


@app.command()
def status(state: State = DEFAULT_STATE) -> None:
    """Nodes and jobs of the cluster."""
    from netgpt.cluster.jobs.state import StateFolder
    from netgpt.cluster.jobs.submit import status_text

    print(status_text(StateFolder(state)))


@app.command()
def down(
    state: State = DEFAULT_STATE,
    here: Annotated[bool, typer.Option("--here", help="This host's part alone.")] = False,
    host: Host = None,
) -> None:
    """End the cluster's processes, and no others. Idempotent."""
    from netgpt.cluster.jobs.state import StateFolder
    from netgpt.cluster.jobs.up import down as end
    from netgpt.cluster.jobs.up import down_here

    if here:
        if host is None:
            raise ClusterError("--here: found no --host, expected this node's address")
        down_here(StateFolder(state), host, say)
    else:
        end(StateFolder(state), say)
