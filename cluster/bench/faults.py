"""Injected faults: what is killed, cut off or filled while a run goes on, and what the run is worth after it.

Every fault is one run of its own, by the command line, from the same small records and settings, and is
compared with a run without faults: its metrics must be the same bytes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netgpt import graphstore
from netgpt.cluster.bench.measure import machine
from netgpt.cluster.bench.reference import largest_within, reference
from netgpt.cluster.errors import ClusterError, FailedError
from netgpt.cluster.jobs.nodes import NodeOptions, end_node, start_node
from netgpt.cluster.jobs.state import ClusterState, StateFolder, marked_processes
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.graphstore.files import file_digest
from netgpt.trainers.logs import log_path
from netgpt.trainers.progress import read_progress

SCALE, SEED = 0.0005, 1
SETTINGS = [
    *("build.encoder=hash:32", "build.time_dim=8", "build.video_dim=4", "sampler.fanout=5", "graph.hidden=8"),
    *("graph.epochs=4", "graph.batch_size=2", "graph.checkpoint_steps=10", "task.val_share=0.3"),
    *("language.max_tokens=700", "language.token_budget=1400", "language.max_comments=2"),
    *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=600"),
    *("language.tiny.warmup_steps=2", "stage2.epochs=1", "stage2.checkpoint_steps=3"),
    *("stage3.epochs=2", "stage3.checkpoint_steps=3"),
]
RESULTS = ("metrics.jsonl", "predictions.parquet", "stage3/netgpt.safetensors")
LIMIT_S = 900.0
_POLL_S = 0.02
TRAINING, SAMPLING, TOKENISING = "ray::Rank", "ray::SamplingWo", "ray::PartMaker"
"""Names of Ray's processes, as far as the kernel keeps them."""


@dataclass
class Scene:
    """One run of the command line, and what may happen to it."""

    run: Path
    data: Path
    environment: dict[str, str]
    extra: list[str] = field(default_factory=list)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None
    killed: int = 0
    said: str = ""

    @property
    def _log(self) -> Path:
        return self.data.parent / f"{self.mark}.log"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "netgpt", "run", "--config", "demo"),
                *("--data", str(self.data), "--out", str(self.run), *SETTINGS, *self.extra),
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log.open("w"),
            env={**os.environ, **self.environment, "NETGPT_FAULTS": self.mark},
        )

    def end(self) -> int:
        """Wait for the command; its exit status. What it said is kept."""
        assert self.process is not None
        try:
            self.process.wait(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise FailedError(f"{self.run}: did not end in {LIMIT_S:.0f} s") from None
        self.said = self._log.read_text(errors="replace")
        return self.process.returncode

    def wait_for(self, stage: str, done: int = 0) -> None:
        """Return when a stage works, and has `done` units behind it."""
        assert self.process is not None
        until = time.monotonic() + LIMIT_S
        log = self.log(stage)
        while time.monotonic() < until and self.process.poll() is None:
            works = log.exists() and f"{stage}: " in log.read_text(errors="replace")
            if works and (not done or ((made := read_progress(self.run / stage)) and made.done >= done)):
                return
            time.sleep(_POLL_S)
        raise FailedError(f"{self.run}: {stage} never had {done} units done: {self.process.poll()}")

    def processes(self, name: str) -> list[int]:
        """This scene's processes of a name: those that inherited its mark."""
        pids, mark = [], f"NETGPT_FAULTS={self.mark}".encode()
        for entry in Path("/proc").iterdir():
            try:
                named = entry.name.isdigit() and (entry / "comm").read_text().startswith(name)
                if named and mark in (entry / "environ").read_bytes():
                    pids.append(int(entry.name))
            except OSError:
                continue
        return sorted(pids)

    def kill_rank(self, stage: str) -> None:
        """SIGKILL the last rank that the stage's log names."""
        pids = [
            int(pid) for pid in re.findall(r"INFO rank \d+ \([^,]*, (\d+)\)", self.log(stage).read_text())
        ]
        os.kill(pids[-1], signal.SIGKILL)
        self.killed += 1

    def log(self, stage: str) -> Path:
        return log_path(self.run, stage)

    def kill(self, name: str) -> None:
        """SIGKILL the last process of a name, as soon as there is one."""
        until = time.monotonic() + 60
        while not (pids := self.processes(name)):
            if time.monotonic() > until:
                raise FailedError(f"{self.run}: found no process {name}")
            time.sleep(_POLL_S)
        os.kill(pids[-1], signal.SIGKILL)
        self.killed += 1


@dataclass(frozen=True)
class Fault:
    name: str
    what: str
    inject: Callable[[Scene], None]
    again: bool = False
    """Whether the command is expected to end, and to be given again."""
    expect: int = 0
    """Exit status of the first command."""
    words: str = ""
    """That the first command's error says."""
    repair: Callable[[Scene], None] | None = None
    """Done before the command is given again."""
    cluster: bool = False
    """Runs on a two-node cluster that outlives it."""


def _kill_rank(stage: str, done: int) -> Callable[[Scene], None]:
    def inject(scene: Scene) -> None:
        scene.wait_for(stage, done)
        scene.kill_rank(stage)

    return inject


def _kill_sampling(scene: Scene) -> None:
    """Five times in the second epoch, each time another batch is under way."""
    steps = 0
    scene.wait_for("stage1", 1)
    progress = read_progress(scene.run / "stage1")
    total = progress.total if progress else 4
    for k in range(5):
        steps = total // 4 + 1 + k * max(1, total // 24)
        scene.wait_for("stage1", steps)
        scene.kill(SAMPLING)


def _kill_tokenising(scene: Scene) -> None:
    scene.wait_for("tokens")
    scene.kill(TOKENISING)


def _kill_starting(scene: Scene) -> None:
    """Before the stage's log has a line of it: the workers import and find each other."""
    until = time.monotonic() + LIMIT_S
    while not (scene.run / "stage2" / "job.json").exists() and time.monotonic() < until:
        time.sleep(_POLL_S)
    time.sleep(1.0)
    scene.kill(TRAINING)


def _kill_driver(scene: Scene) -> None:
    scene.wait_for("stage2", 3)
    assert scene.process is not None
    scene.process.kill()
    scene.killed += 1


def _fill(scene: Scene) -> None:
    """The run's folder is a file system of its own: leave 4 kB of it."""
    scene.wait_for("stage1", 20)
    free = os.statvfs(scene.run)
    with (scene.run / "filler").open("wb") as file:
        file.write(b"\0" * (free.f_bavail * free.f_frsize - 4096))
    scene.killed += 1


def _unfill(scene: Scene) -> None:
    (scene.run / "filler").unlink()


def _indices(scene: Scene) -> Path:
    source, name, target = largest_within(graphstore.open(scene.run / "store"))
    (chunk,) = (scene.run / f"store/edges/{source}/{name}/{target}/indices/c").rglob("*")
    return chunk


def _truncate(scene: Scene) -> None:
    scene.wait_for("stage1", 20)
    path = _indices(scene)
    (scene.data.parent / "saved").write_bytes(path.read_bytes())
    os.truncate(path, path.stat().st_size // 2)
    scene.killed += 1


def _restore(scene: Scene) -> None:
    _indices(scene).write_bytes((scene.data.parent / "saved").read_bytes())


FAULTS = [
    Fault("sampling", "sampling worker of stage 1, SIGKILL, 5 times in an epoch", _kill_sampling),
    Fault("stage1", "one of two training ranks in stage 1, SIGKILL", _kill_rank("stage1", 30)),
    Fault("embeddings", "the worker of exact inference, SIGKILL", _kill_rank("embeddings", 0)),
    Fault("base", "the worker that makes the tiny base, SIGKILL", _kill_rank("base", 0)),
    Fault("tokens", "a tokenising actor, SIGKILL", _kill_tokenising),
    Fault("starting", "a training worker of stage 2 while it starts, SIGKILL", _kill_starting),
    Fault("stage2", "one of two training ranks in stage 2, SIGKILL", _kill_rank("stage2", 4)),
    Fault("stage3", "one of two training ranks in stage 3, SIGKILL", _kill_rank("stage3", 4)),
    Fault("evaluation", "one of two ranks in the evaluation, SIGKILL", _kill_rank("evaluation", 0)),
    Fault(
        "driver", "the driver in stage 2, SIGKILL; same command again", _kill_driver, True, -signal.SIGKILL
    ),
    Fault(
        "cluster-driver",
        "the driver in stage 2, SIGKILL, on a cluster that stays; same command again",
        _kill_driver,
        True,
        -signal.SIGKILL,
        cluster=True,
    ),
    Fault(
        "raylet", "a node's raylet in stage 2, SIGKILL; another node joins", lambda scene: None, cluster=True
    ),
    Fault("disk", "the run's disk full in stage 1; emptied, same command", _fill, True, 1, "room", _unfill),
    Fault(
        "truncated",
        "a file of the store cut to its half in stage 1; put back, same command",
        _truncate,
        True,
        2,
        "changed on disk",
        _restore,
    ),
]


def _whole(run: Path, data: Path) -> tuple[float, dict[str, str]]:
    """Seconds of a run without faults, and digests of its results."""
    scene = Scene(run, data, {})
    start = time.perf_counter()
    scene.start()
    if scene.end():
        raise FailedError(f"the run without faults failed: {scene.said[-500:]}")
    return time.perf_counter() - start, {name: file_digest(run / name) for name in RESULTS}


def bench_faults(names: list[str], scratch: Path | None) -> Iterator[dict[str, Any]]:
    """A result for the run without faults, then one for each fault, as they come.

    A checkout's first run compiles kernels and reads libraries into memory: time lost is against its second.
    """
    known = [fault.name for fault in FAULTS]
    for name in names:
        if name not in known:
            raise ClusterError(f"--only: found {name!r}, expected one of {', '.join(known)}")
    with tempfile.TemporaryDirectory(dir=scratch, prefix="faults-") as folder:
        root = Path(folder)
        data = root / "records.json"
        reference().write_synthetic(data, SCALE, SEED)
        cold_s, wanted = _whole(root / "cold", data)
        reference_s, again = _whole(root / "whole", data)
        if again != wanted:
            raise FailedError(f"two runs without faults differ: {again} after {wanted}")
        yield {
            **{"bench": "faults", "fault": "none", "cold_s": cold_s, "wall_s": reference_s},
            "machine": machine(),
        }
        for fault in FAULTS:
            if not names or fault.name in names:
                yield {"bench": "faults", **_tried(fault, root, data, wanted, reference_s)}


def _tried(
    fault: Fault, root: Path, data: Path, wanted: dict[str, str], reference_s: float
) -> dict[str, Any]:
    run = root / fault.name
    result: dict[str, Any] = {"fault": fault.name, "what": fault.what}
    with _own_disk(run, fault.name == "disk"), _nodes(root, fault.cluster) as nodes:
        extra = ["cluster.wait_minutes=5"] if fault.cluster else []
        scene = Scene(run, data, nodes.environment if nodes else {}, extra)
        start = time.perf_counter()
        scene.start()
        try:
            if fault.name == "raylet":
                assert nodes is not None
                nodes.lose_and_replace(scene)
            else:
                fault.inject(scene)
            code = scene.end()
            said = [line for line in scene.said.splitlines() if line.startswith("netgpt: ")]
            result |= {"first_exit": code, "said": said[-1:] and said[-1][:300]}
            as_expected = code == fault.expect and fault.words in " ".join(said)
            if fault.again:
                if fault.repair:
                    fault.repair(scene)
                scene.start()
                code = scene.end()
        except FailedError as error:
            scene.process.kill() if scene.process else None
            return {**result, "same_results": False, "error": str(error)}
        wall_s = time.perf_counter() - start
        same = [name for name in RESULTS if (run / name).exists() and file_digest(run / name) == wanted[name]]
        restarts = sum(attempt.restarts for attempt in read_attempts(run))
        if code:
            result["error"] = scene.said[-500:]
        return {
            **result,
            "as_expected": as_expected,
            "killed": scene.killed,
            "restarts": restarts,
            "commands": 1 + fault.again,
            "exit": code,
            "same_results": same == list(RESULTS),
            "wall_s": wall_s,
            "lost_s": wall_s - reference_s,
        }


def line(outcome: dict[str, Any]) -> str:
    if outcome["fault"] == "none":
        return f"without faults: {outcome['wall_s']:.0f} s"
    if "wall_s" not in outcome:
        return f"{outcome['what']}: FAILED: {outcome['error']}"
    result = "same results" if outcome["same_results"] else "OTHER RESULTS"
    odd = (
        ""
        if outcome["as_expected"]
        else f"; first exit {outcome['first_exit']} UNEXPECTED: {outcome['said']}"
    )
    return (
        f"{outcome['what']}: {result}, {outcome['restarts']} restarts, {outcome['commands']} commands, "
        f"{outcome['lost_s']:+.0f} s{odd}"
    )


@contextmanager
def _own_disk(run: Path, wanted: bool) -> Iterator[None]:
    """A file system of 64 MB for the run, where that is wanted and allowed."""
    if not wanted:
        yield
        return
    run.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(run)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        raise FailedError("the fault `disk` mounts a small file system, which needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(run)], check=True)


@dataclass
class _Nodes:
    """A cluster of two nodes with a CPU each, at loopback addresses."""

    folder: StateFolder
    state: ClusterState
    environment: dict[str, str]

    def lose_and_replace(self, scene: Scene) -> None:
        """Kill the second node's raylet in stage 2; a third node joins some seconds later."""
        scene.wait_for("stage2", 4)
        lost = self.state.hosts[1]
        for pid in marked_processes(self.state.id, lost):
            if (Path("/proc") / str(pid) / "comm").read_text().strip() == "raylet":
                os.kill(pid, signal.SIGKILL)
                scene.killed += 1
        time.sleep(10.0)
        end_node(self.folder, self.state.id, lost)
        start_node(self.folder, self.state.id, NodeOptions("127.0.0.4", cpus=1), join=self.state.address)


@contextmanager
def _nodes(root: Path, wanted: bool) -> Iterator[_Nodes | None]:
    if not wanted:
        yield None
        return
    folder = StateFolder(root / "cluster")
    folder.make_token()
    name, head = uuid.uuid4().hex, NodeOptions("127.0.0.2", 6399, dashboard_port=8299, cpus=1)
    state = ClusterState(name, "127.0.0.2:6399", "http://127.0.0.1:8299", ["127.0.0.2", "127.0.0.3"], "")
    try:
        start_node(folder, name, head)
        start_node(folder, name, NodeOptions("127.0.0.3", cpus=1), join=state.address)
        yield _Nodes(folder, state, {**folder.environment(), "RAY_ADDRESS": state.address})
    finally:
        end_node(folder, name)
