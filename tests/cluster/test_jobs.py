"""A cluster at loopback addresses: up, jobs, what it answers to strangers, down."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from netgpt.cluster.jobs.state import ClusterState, StateFolder, marked_processes, read_hosts
from netgpt.cluster.workers.session import LOOPBACK, free_port


@dataclass
class Cluster:
    """One cluster's state folder and ports, and its commands."""

    state: Path
    port: int
    dashboard_port: int

    @property
    def folder(self) -> StateFolder:
        return StateFolder(self.state)

    @property
    def id(self) -> str:
        state = self.folder.read()
        assert state is not None
        return state.id

    def command(self, name: str, *args: object) -> list[str]:
        words = ["cluster", name, "--state", self.state, *args]
        return [sys.executable, "-m", "netgpt", *map(str, words)]

    def run(self, name: str, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(name, *args),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={**os.environ, **env},
        )

    def up(self, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
        ports = ("--port", self.port, "--dashboard-port", self.dashboard_port)
        return self.run("up", *ports, "--cpus", 1, *args, **env)

    def submit(self, tree: Path, *command: str) -> subprocess.CompletedProcess[str]:
        return self.run("submit", "--tree", tree, "--called-from", tree, "--", *command)


def new_cluster(folder: Path) -> Cluster:
    return Cluster(folder / "state", free_port(LOOPBACK), free_port(LOOPBACK))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = new_cluster(tmp_path_factory.mktemp("cluster"))
    done = made.up(NETGPT_TEST_SECRET="hush", NETGPT_TEST_PLAIN="seen")
    assert done.returncode == 0, done.stderr
    yield made
    done = made.run("down")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A working tree as a person has it, with things that no job needs."""
    (tmp_path / ".gitignore").write_text("secret.txt\n/data/\n")
    (tmp_path / "secret.txt").write_text("hush")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "large.bin").write_text("x")
    (tmp_path / ".cluster").mkdir()
    (tmp_path / ".cluster" / "token").write_text("hush")
    (tmp_path / "code.py").write_text("print('shipped')\n")
    return tmp_path


def test_up_is_idempotent_and_its_token_is_the_owners_alone(cluster: Cluster) -> None:
    before, token = cluster.id, cluster.folder.token.read_text()
    again = cluster.up()
    assert again.returncode == 0 and "up already" in again.stderr
    assert cluster.id == before and cluster.folder.token.read_text() == token
    assert stat.S_IMODE(cluster.folder.token.stat().st_mode) == 0o600 and len(token) == 64
    status = cluster.run("status")
    assert "node 127.0.0.2 (head): alive, 1 CPUs" in status.stdout


def test_a_job_ends_as_its_command_ends(cluster: Cluster, tree: Path) -> None:
    done = cluster.submit(tree, "sh", "-c", "echo said; exit 7")
    assert done.returncode == 7 and "said" in done.stdout and "exit code 7" in done.stderr
    done = cluster.submit(tree, "python", "code.py")
    assert done.returncode == 0 and "shipped" in done.stdout
    assert "Traceback" not in done.stderr and "WARNING" not in done.stderr


def test_a_job_gets_the_tree_without_what_gitignore_names_and_no_secrets(
    cluster: Cluster, tree: Path
) -> None:
    done = cluster.submit(tree, "sh", "-c", "ls -A; env")
    assert done.returncode == 0
    names = done.stdout.splitlines()
    assert "code.py" in names
    assert not {"secret.txt", "data", ".cluster"} & set(names)
    assert "NETGPT_TEST_PLAIN=seen" in names and "hush" not in done.stdout
    assert cluster.folder.token.read_text() not in done.stdout


@pytest.mark.all
def test_relative_paths_of_a_job_mean_the_callers(cluster: Cluster, tree: Path) -> None:
    done = cluster.submit(tree, "python", "-m", "netgpt", "status", "no-such-run")
    assert done.returncode == 2 and "no-such-run: found no run" in done.stdout
    (tree / "records.json").write_text("{}")
    done = cluster.submit(tree, "python", "-m", "netgpt", "build", "records.json", "--out", "made")
    # refused for its content, so the file of the caller's folder was read
    assert "records.json" in done.stdout and "no file" not in done.stdout


@pytest.mark.all
def test_the_same_command_is_followed_and_not_started_twice(
    cluster: Cluster, tree: Path, tmp_path: Path
) -> None:
    """The command ends when the second call has said that it follows it."""
    followed = tmp_path / "followed"
    words = ("sh", "-c", f"echo once; until [ -e {followed} ]; do sleep 0.2; done")
    first = cluster.run("submit", "--tree", tree, "--called-from", tree, "--no-follow", "--", *words)
    assert first.returncode == 0
    line = cluster.command("submit", "--tree", tree, "--called-from", tree, "--", *words)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as second:
        assert second.stderr is not None
        said = next((row for row in second.stderr if "runs this command already" in row), "")
        followed.touch()
        out, _ = second.communicate(timeout=600)
    assert said and second.returncode == 0 and out.count("\nonce\n") == 1


def ray_job_submit(cluster: Cluster, tree: Path, *command: str) -> tuple[int, str]:
    """Exit status and output of Ray's own command with the cluster's env file."""
    line = f". {cluster.state}/env && ray job submit --working-dir {tree} -- {shlex.join(command)}"
    scripts = str(Path(sys.executable).parent)
    path = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, env=path, timeout=400, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.all
def test_plain_ray_commands_work_with_the_env_file(cluster: Cluster, tree: Path) -> None:
    code, said = ray_job_submit(cluster, tree, "python", "code.py")
    assert code == 0 and "shipped" in said


@pytest.mark.all
def test_a_plain_job_reads_the_trees_files_and_writes_none_there(cluster: Cluster, tree: Path) -> None:
    (tree / "records.json").write_text("{}")
    for records in ("records.json", "./records.json"):
        code, said = ray_job_submit(cluster, tree, "python", "-m", "netgpt", "annotate", records)
        # refused for its content, so the file was read
        assert code != 0 and "records.json: found no records" in said and "Traceback" not in said
    code, said = ray_job_submit(
        cluster, tree, "python", "-m", "netgpt", "build", "records.json", "--out", "s"
    )
    assert code != 0 and "found the relative path s, expected one from the root" in said


SPREAD = """
import os, ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from netgpt.cluster.jobs.submit import enter_callers_folder

enter_callers_folder()
ray.init(log_to_driver=False)
for node in ray.nodes():
    there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    ray.get(ray.remote(lambda: os.getcwd()).options(scheduling_strategy=there).remote())
print("still in", os.getcwd(), "of", len(ray.nodes()), "nodes")
"""
"""A job that works on every node: raylets of one machine unpack its tree each, in the same place."""


@pytest.mark.all
@pytest.mark.multinode
def test_a_plain_job_goes_on_when_a_second_raylet_unpacks_its_tree(
    tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("two")
    hosts, shell = loopback_hosts(folder)
    (tree / "spread.py").write_text(SPREAD)
    made = new_cluster(folder)
    try:
        assert made.up("--hosts", hosts, "--ssh", shell).returncode == 0
        code, said = ray_job_submit(made, tree, "python", "spread.py")
        assert code == 0 and "still in / of 2 nodes" in said, said
    finally:
        assert made.run("down").returncode == 0


METHODS = (
    *("JobInfoGcsService/GetAllJobInfo", "NodeInfoGcsService/GetAllNodeInfo"),
    *("InternalKVGcsService/InternalKVKeys", "NodeManagerService/GetNodeStats"),
    *("ObjectManagerService/Pull", "ReporterService/GetTraceback", "LogService/ListLogs"),
    *("RayletDriver/Init", "CoreWorkerService/GetCoreWorkerStats"),
)
"""One method of each of Ray's gRPC services that can be asked for with an empty message."""


def listening(pids: list[int]) -> set[tuple[str, int]]:
    """(address, port) on which processes listen, by the kernel's tables."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if found := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(handle)):
                    inodes.add(found[1])
            except OSError:
                continue
    places = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] != "0A" or fields[9] not in inodes:
                continue
            address, port = fields[1].rsplit(":", 1)
            last = bytes.fromhex(address[-8:])[::-1]  # an IPv4 address, or the end of one mapped to IPv6
            shown = ".".join(map(str, last))
            places.add(("127.0.0.2" if shown == "0.0.0.0" else shown, int(port, 16)))
    return places


def http_status(place: tuple[str, int], path: str, token: str = "") -> int | None:
    """Status of a GET; None where the port speaks no HTTP/1."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{place[0]}:{place[1]}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except (OSError, ValueError, Exception):
        return None


def test_the_environment_can_be_sourced_whatever_the_tree_is_called(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "ein Ort $HOME 'é'" / ".cluster")
    folder.make_token()
    folder.write(ClusterState("id", "h:1", "http://127.0.0.2:8265", ["h"], ""))
    names = ("RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_API_SERVER_ADDRESS")
    script = 'set -eu; . "$1"; ' + "; ".join(f'printf "%s\\n" "${name}"' for name in names)
    said = subprocess.run(
        ["bash", "-c", script, "bash", str(folder.path / "env")], capture_output=True, text=True, check=True
    )
    assert said.stdout.splitlines() == [str(folder.token), "token", "http://127.0.0.2:8265"]


def grpc_codes(place: tuple[str, int]) -> set[str]:
    """What a port says to calls without a token; OK where one is answered."""
    codes = set()
    with grpc.insecure_channel(f"{place[0]}:{place[1]}") as channel:
        for method in METHODS:
            try:
                channel.unary_unary(f"/ray.rpc.{method}")(b"", timeout=5)
                codes.add("OK")
            except grpc.RpcError as error:
                codes.add(error.code().name)
    return codes


def test_every_port_refuses_a_request_without_the_token(cluster: Cluster) -> None:
    places = listening(marked_processes(cluster.id))
    dashboard = ("127.0.0.1", cluster.dashboard_port)
    assert dashboard in places and ("127.0.0.2", cluster.port) in places and len(places) >= 6
    refused_by = {}
    for place in places:
        # The dashboard's page itself is plain text of Ray's that asks for the token; all it shows is refused
        paths = ("/api/jobs/", "/api/version", "/nodes?view=summary", "/metrics")
        paths = paths if place == dashboard else (*paths, "/")
        statuses = {http_status(place, path) for path in paths}
        assert statuses <= {401, 403, None}, (place, statuses)
        if statuses == {None}:
            codes = grpc_codes(place)
            assert "OK" not in codes, place
            refused_by[place] = "UNAUTHENTICATED" in codes
        else:
            refused_by[place] = True
    assert all(refused_by.values()), refused_by
    # and the same requests are answered with it
    assert http_status(dashboard, "/api/version", cluster.folder.token.read_text()) == 200
    assert http_status(dashboard, "/api/version", "0" * 64) in (401, 403)


def test_a_token_that_others_can_read_is_refused(cluster: Cluster) -> None:
    cluster.folder.token.chmod(0o644)
    try:
        done = cluster.submit(cluster.state, "true")
        assert done.returncode == 2 and "mode 0644" in done.stderr and "expected 0600" in done.stderr
    finally:
        cluster.folder.token.chmod(0o600)


@pytest.mark.parametrize(
    ("arguments", "env", "words"),
    [
        (("--dashboard-host", "0.0.0.0"), {"RAY_AUTH_MODE": "disabled"}, "expected token"),
        (("--host", "127.0.0.1"), {}, "expected 127.0.0.2"),
        (("--hosts", "no-such-file"), {}, "no-such-file"),
    ],
)
def test_what_up_refuses_starts_nothing(
    arguments: tuple[str, ...], env: dict[str, str], words: str, tmp_path: Path
) -> None:
    made = new_cluster(tmp_path)
    done = made.up(*arguments, **env)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert made.folder.read() is None and not list(made.state.glob("nodes/*"))


def test_commands_without_a_cluster(tmp_path: Path) -> None:
    made = new_cluster(tmp_path)
    done = made.submit(tmp_path, "true")
    assert done.returncode == 2 and "no cluster is up" in done.stderr
    assert "no cluster is up" in made.run("status").stdout
    for _ in range(2):
        done = made.run("down")
        assert done.returncode == 0 and "no cluster is up" in done.stderr


def test_a_port_in_use_is_named(tmp_path: Path, cluster: Cluster) -> None:
    made = new_cluster(tmp_path)
    made.port = cluster.port
    done = made.up()
    assert done.returncode == 2 and f"port {cluster.port} of 127.0.0.2: in use" in done.stderr


def loopback_hosts(folder: Path) -> tuple[Path, Path]:
    """A hosts file of two nodes, and a command in ssh's place that runs here what the second one should."""
    hosts, shell = folder / "hosts", folder / "shell"
    hosts.write_text("127.0.0.2  # the head\n127.0.0.3\n")
    shell.write_text('#!/bin/sh\nshift\nexec sh -c "$1"\n')
    shell.chmod(0o755)
    return hosts, shell


@pytest.mark.all
@pytest.mark.multinode
def test_a_hosts_file_makes_a_cluster_and_down_ends_all_of_it(tmp_path: Path) -> None:
    hosts, shell = loopback_hosts(tmp_path)
    made = new_cluster(tmp_path)
    for _ in range(2):
        done = made.up("--hosts", hosts, "--ssh", shell)
        assert done.returncode == 0, done.stderr
    assert "takes part already" in done.stderr
    status = made.run("status").stdout
    assert "node 127.0.0.2 (head): alive" in status and "node 127.0.0.3: alive" in status
    name = made.id
    assert len(marked_processes(name, "127.0.0.3")) >= 2
    done = made.run("down")
    assert done.returncode == 0 and marked_processes(name) == []
    assert "no cluster is up" in made.run("down").stderr


@pytest.mark.all
@pytest.mark.multinode
def test_tasks_of_a_slurm_step_find_each_other(tmp_path: Path) -> None:
    made = new_cluster(tmp_path)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}
    ports = ("--port", made.port, "--dashboard-port", made.dashboard_port, "--cpus", 1)
    tasks = [
        subprocess.Popen(
            made.command("up", *ports),
            env={**os.environ, **slurm, "SLURM_PROCID": str(rank), "SLURMD_NODENAME": f"127.0.0.{2 + rank}"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    until = time.monotonic() + 100
    while "node 127.0.0.3: alive" not in made.run("status").stdout:
        assert time.monotonic() < until and all(task.poll() is None for task in tasks)
    name = made.id
    assert made.run("down").returncode == 0
    assert [task.wait(timeout=60) for task in tasks] == [0, 0]
    assert marked_processes(name) == []


def test_hosts_files(tmp_path: Path) -> None:
    from netgpt.cluster.errors import ClusterError

    path = tmp_path / "hosts"
    path.write_text("# all\n10.0.0.1\n\n10.0.0.2 # second\n")
    assert read_hosts(path) == ["10.0.0.1", "10.0.0.2"]
    for text, words in (
        ("", "no addresses"),
        ("a b\n", "'a b'"),
        ("a\na\n", "each once"),
        ("-oX=1\n", "-oX"),
    ):
        path.write_text(text)
        with pytest.raises(ClusterError, match=words):
            read_hosts(path)


def test_the_state_names_no_secret(cluster: Cluster) -> None:
    token = cluster.folder.token.read_text()
    for path in cluster.state.rglob("*"):
        if path.is_file() and path != cluster.folder.token:
            assert token not in path.read_text(errors="replace"), path
    assert json.loads((cluster.state / "cluster.json").read_text())["address"].startswith("127.0.0.2:")
