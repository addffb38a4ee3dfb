"""What `up` leaves in its folder for the other commands: where the cluster is, its token, its processes."""

from __future__ import annotations

import os
import secrets
import shlex
import stat
from dataclasses import asdict, dataclass
from pathlib import Path

from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.files import read_json, write_json

STATE = ".cluster"
MARK = "NETGPT_CLUSTER"
"""Environment variable that every process of a node inherits: the cluster's id and the node's address."""


@dataclass(frozen=True)
class ClusterState:
    id: str
    address: str
    """HOST:PORT that nodes join."""
    dashboard: str
    """http://HOST:PORT that jobs are submitted to."""
    hosts: list[str]
    """Every node, the head first."""
    ssh: str
    """Command that the other hosts are reached by; empty where they join by themselves."""


class StateFolder:
    """`.cluster` in the working tree, which all hosts of a cluster see."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.token = self.path / "token"

    def read(self) -> ClusterState | None:
        try:
            return ClusterState(**read_json(self.path / "cluster.json"))
        except FileNotFoundError:
            return None

    def write(self, state: ClusterState) -> None:
        write_json(self.path / "cluster.json", asdict(state))
        # Ray would take a token itself before the file of one
        lines = ["unset RAY_AUTH_TOKEN"]
        said = {**self.environment(), "RAY_API_SERVER_ADDRESS": state.dashboard}
        lines += [f"export {name}={shlex.quote(value)}" for name, value in said.items()]
        (self.path / "env").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def forget(self) -> None:
        for name in ("cluster.json", "env"):
            (self.path / name).unlink(missing_ok=True)

    def node_file(self, host: str) -> Path:
        return self.path / "nodes" / f"{host}.json"

    def log_file(self, host: str) -> Path:
        return self.path / "logs" / f"{host}.log"

    def make_token(self) -> None:
        """A token that its owner alone can read; the one that is there stays."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.token.exists():
            handle = os.open(self.token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32))
        self.check_token()

    def check_token(self) -> None:
        """ClusterError where the token's file is missing, or open to others."""
        try:
            status = self.token.stat()
        except FileNotFoundError:
            raise ClusterError(f"{self.token}: found no token; start a cluster: ./launch.sh up") from None
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077 or status.st_uid != os.getuid():
            raise ClusterError(
                f"{self.token}: mode {mode:04o} of user {status.st_uid}, expected 0600 of {os.getuid()}; "
                "chmod 600 it, or remove it"
            )

    def environment(self) -> dict[str, str]:
        """Variables that Ray's commands want."""
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.token)}


def mark_of(cluster: str, host: str = "") -> str:
    """What marks the processes of a node; without a host, the beginning of those of all nodes."""
    return f"{cluster}:{host}/" if host else f"{cluster}:"


def marked_processes(cluster: str, host: str = "") -> list[int]:
    """Processes of this machine and user that a cluster, or one node of it, started."""
    mark, pids = f"{MARK}={mark_of(cluster, host)}".encode(), []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if any(one.startswith(mark) for one in (entry / "environ").read_bytes().split(b"\0")):
                pids.append(int(entry.name))
        except OSError:  # ended meanwhile, or another user's
            continue
    return sorted(pids)


def read_hosts(path: Path) -> list[str]:
    """Addresses of a hosts file: one a line, the head first; # starts a comment."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ClusterError(f"--hosts: {path}: {error.strerror}") from error
    hosts = [line.split("#")[0].strip() for line in lines]
    hosts = [host for host in hosts if host]
    for host in hosts:
        if len(host.split()) > 1 or host.startswith("-") or hosts.count(host) > 1:
            raise ClusterError(f"{path}: found {host!r}, expected one address a line, each once")
    if not hosts:
        raise ClusterError(f"{path}: found no addresses, expected one a line, the head's first")
    return hosts
