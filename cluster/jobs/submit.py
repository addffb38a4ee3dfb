"""Jobs on a cluster: ship the working tree, follow the log, end as the job ends."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from netgpt.cluster.errors import ClusterError, NodeFailedError
from netgpt.cluster.jobs.nodes import is_up
from netgpt.cluster.jobs.state import STATE, ClusterState, StateFolder
from netgpt.cluster.workers.compat import JOB_FOLDER
from netgpt.trainers.stages.names import commands

CALLED_FROM = "NETGPT_CALLED_FROM"
"""Folder that relative paths of a job's command mean: the job itself runs in a copy of the tree."""
EXCLUDES = [f"/{STATE}", "/.git", "/.venv", "/runs", "/stores", "*.pyc"]
MOST_BYTES = 100 * 2**20
"""What Ray takes as a job's working folder."""
_TRIES = 3
_ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


def enter_callers_folder() -> None:
    """In a job, make relative paths mean what they meant to the caller. Nothing elsewhere.

    A job by plain `ray job submit` leaves its copy of the tree: raylets that share a machine share their
    session's folder too, and unpack the tree again in the same place, under the running job.
    """
    if folder := os.environ.pop(CALLED_FROM, ""):
        os.chdir(folder)
    elif JOB_FOLDER in os.getcwd():
        relative = [a for a in _paths(sys.argv[1:]) if not Path(a).is_absolute()]
        if relative:
            raise ClusterError(
                f"found the relative path {relative[0]}, expected one from the root /: a job runs in a copy "
                f"of the tree (./launch.sh submit sets {CALLED_FROM} in its environment for it)"
            )
        sys.argv[1:] = [_in_tree(argument) for argument in sys.argv[1:]]
        os.chdir("/")


def _in_tree(argument: str) -> str:
    """The argument, or KEY=VALUE, with its path made absolute where it names something of the tree."""
    key, equals, value = argument.rpartition("=")
    # a bare word is a command's name or a configuration's, also where a folder has that name
    if ("/" in value or "." in value) and Path(value).exists():
        return f"{key}{equals}{Path(value).absolute()}"
    return argument


def _paths(arguments: list[str]) -> list[str]:
    """Values of the options that name files, and the place of a run that has none."""
    named = ("--data", "--store", "--out")
    paths = [value for name, value in pairwise(arguments) if name in named]
    paths += [a.split("=", 1)[1] for a in arguments if a.startswith(tuple(f"{name}=" for name in named))]
    writes = bool(arguments) and arguments[0] in ("run", *commands())
    given = any(a == "--out" or a.startswith("--out=") for a in arguments)
    return [*paths, *([] if given or not writes else ["runs (no --out was given)"])]


@dataclass(frozen=True)
class Ended:
    job: str
    status: str
    code: int
    """Exit status of the command; 1 where it has none."""


def connect(folder: StateFolder) -> tuple[ClusterState, Any]:
    """The cluster that is up, and Ray's client for its jobs. ClusterError where none is up."""
    state = folder.read()
    if state is None or not is_up(folder):
        raise ClusterError("no cluster is up; start one: ./launch.sh up")
    return state, _client(folder, state)


def _client(folder: StateFolder, state: ClusterState) -> Any:
    folder.check_token()
    os.environ.update(folder.environment())
    os.environ.pop("RAY_AUTH_TOKEN", None)
    from ray.job_submission import JobSubmissionClient

    logging.disable(logging.WARNING)  # Ray's client says every step; this process does nothing else
    return JobSubmissionClient(state.dashboard)


def submit(folder: StateFolder, tree: Path, called_from: Path, command: list[str], *, follow: bool) -> Ended:
    """Run a command as a job and follow it to its end. The same command, while it runs, is followed and not
    started twice."""
    if not command:
        raise ClusterError("found no command, expected one such as: ./launch.sh submit -- netgpt run …")
    state, client = connect(folder)
    entrypoint = shlex.join(command)
    job = _running(client, entrypoint, called_from)
    if job is None:
        _check_size(tree)
        job = client.submit_job(
            entrypoint=entrypoint,
            runtime_env={
                "working_dir": str(tree),  # Ray leaves out what .gitignore names
                "excludes": EXCLUDES,
                # Nothing of the caller's environment: it may hold secrets
                "env_vars": {CALLED_FROM: str(called_from)},
            },
            metadata={"called_from": str(called_from)},
        )
        print(f"job {job}: {entrypoint}   ({state.dashboard})", file=sys.stderr)
    else:
        print(f"job {job} runs this command already: following it", file=sys.stderr)
    return _followed(folder, client, job) if follow else Ended(job, "PENDING", 0)


def _running(client: Any, entrypoint: str, called_from: Path) -> str | None:
    for job in client.list_jobs():
        same = job.entrypoint == entrypoint and (job.metadata or {}).get("called_from") == str(called_from)
        if same and str(job.status) not in _ENDED:
            return str(job.submission_id)
    return None


def _check_size(tree: Path) -> None:
    """ClusterError with the largest files where Ray would refuse the tree for its size."""
    import subprocess

    listed = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"], cwd=tree, capture_output=True, check=False
    )
    if listed.returncode:
        return  # no git here: Ray itself says how large the tree is
    names = [tree / name.decode() for name in listed.stdout.split(b"\0") if name]
    sizes = sorted(((p.stat().st_size, p) for p in names if p.is_file()), reverse=True)
    total = sum(size for size, _ in sizes)
    if total > MOST_BYTES:
        largest = ", ".join(f"{p.relative_to(tree)} ({size / 2**20:.0f} MiB)" for size, p in sizes[:3])
        raise ClusterError(
            f"{tree}: found {total / 2**20:.0f} MiB to ship, expected at most {MOST_BYTES >> 20}; "
            f"let .gitignore name what no job needs; largest: {largest}"
        )


def _followed(folder: StateFolder, client: Any, job: str) -> Ended:
    """Write the job's log to standard output until it ends. Interrupted, the job goes on."""
    shown, lost = 0, 0
    again = "./launch.sh submit with the same command"
    try:
        while True:
            try:
                shown = asyncio.run(_tail(client, job, shown))
                info, lost = client.get_job_info(job), 0
                if str(info.status) in _ENDED:
                    break
            except (RuntimeError, OSError):  # the connection broke: the job may go on
                lost += 1
                if lost >= _TRIES and not is_up(folder):
                    raise NodeFailedError(
                        f"job {job}: the cluster went down; when it is up, {again} goes on"
                    ) from None
                time.sleep(1.0)
    except KeyboardInterrupt:
        print(f"job {job} goes on; {again} follows it again", file=sys.stderr)
        return Ended(job, "RUNNING", 130)
    status = str(info.status)
    if status != "SUCCEEDED":
        why = (info.message or "").split(",")[0].strip()
        print(f"job {job}: {status.lower()}: {why}", file=sys.stderr)
    return Ended(job, status, 0 if status == "SUCCEEDED" else info.driver_exit_code or 1)


async def _tail(client: Any, job: str, shown: int) -> int:
    """Write the log behind the first `shown` characters, which Ray sends again; how many are shown now."""
    seen = 0
    async for text in client.tail_job_logs(job):
        sys.stdout.write(text[max(0, shown - seen) :])
        sys.stdout.flush()
        seen += len(text)
    return max(seen, shown)


def status_text(folder: StateFolder) -> str:
    """Nodes and jobs of the cluster that is up."""
    state = folder.read()
    if state is None:
        return "no cluster is up"
    if not is_up(folder):
        return f"the cluster at {state.dashboard} does not answer; ./launch.sh up starts it again"
    client = _client(folder, state)
    from ray.util.state import list_nodes

    lines = [f"dashboard {state.dashboard}   (the token is in {folder.token})"]
    for node in list_nodes(address=state.dashboard):
        has = node.resources_total or {}
        gpus = f", {has['GPU']:g} GPUs" if has.get("GPU") else ""
        memory = f", {has.get('memory', 0) / 1e9:.0f} GB" if has.get("memory") else ""
        head = " (head)" if node.is_head_node else ""
        lines.append(
            f"node {node.node_ip}{head}: {str(node.state).lower()}, {has.get('CPU', 0):g} CPUs{gpus}{memory}"
        )
    for job in sorted(client.list_jobs(), key=lambda job: job.start_time or 0):
        if job.submission_id:
            seconds = ((job.end_time or time.time() * 1000) - (job.start_time or 0)) / 1000
            lines.append(
                f"job {job.submission_id}: {str(job.status).lower()}, {seconds:.0f} s: {job.entrypoint}"
            )
    return "\n".join(lines)
