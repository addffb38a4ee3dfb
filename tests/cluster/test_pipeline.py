"""Parts of the pipeline: attempts, status, room for stages, locks, node copies, stages side by side."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netgpt import graphstore
from netgpt.cluster.config import ClusterConfig, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline import driver as executing
from netgpt.cluster.pipeline.attempts import DONE, FAILED, end_attempt, read_attempts, start_attempt
from netgpt.cluster.pipeline.room import Room
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.pipeline.status import run_status, status_json, status_text
from netgpt.cluster.workers import locks
from netgpt.cluster.workers.locks import locked
from netgpt.cluster.workers.node_store import NodeStore, place_store
from netgpt.cluster.workers.resources import Resources, resources
from netgpt.cluster.workers.training import StageWork
from netgpt.graphstore import Store
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.logs import log_path, stage_log
from netgpt.trainers.progress import Progress
from netgpt.trainers.stages import folder as stage_folder
from netgpt.trainers.stages.names import STAGES, stage_of


def test_attempts_are_read_back_also_behind_a_torn_line(tmp_path: Path) -> None:
    first = start_attempt(tmp_path, "stage1", workers=2, device="cpu", threads=1)
    end_attempt(tmp_path, "stage1", first, FAILED, restarts=3, peak_bytes=7)
    with (tmp_path / "attempts.jsonl").open("a") as file:
        file.write('{"event": "start", "stage": "st')  # a driver that died in the middle
    second = start_attempt(tmp_path, "stage1", workers=1, device="cuda", threads=4)
    one, two = read_attempts(tmp_path)
    assert (one.id, one.outcome, one.restarts, one.peak_bytes) == (first, FAILED, 3, 7)
    assert one.seconds is not None and one.seconds >= 0
    assert (two.id, two.outcome, two.workers, two.device, two.threads) == (second, "", 1, "cuda", 4)
    assert two.seconds is None and read_attempts(tmp_path / "none") == []


def make_run(folder: Path, store: Store) -> Run:
    return Run.start(folder, load_config("demo", ["task.val_share=0.3"]), None, store.path)


def finish(run: Run, name: str) -> None:
    """A stage as its worker leaves it."""
    folder, leaves = run.path / name, list(stage_of(name).leaves)
    for wanted in leaves:
        (folder / wanted).parent.mkdir(parents=True, exist_ok=True)
        (folder / wanted).write_text(name)
    stage_folder.finish(folder, run.inputs(name), leaves, {}, {"peak_bytes": 5})


def test_status_tells_done_running_stopped_failed_and_waiting(store: Store, tmp_path: Path) -> None:
    run = make_run(tmp_path, store)
    states = {one.stage: one.state for one in run_status(tmp_path)}
    assert set(states) == {*STAGES} and set(states.values()) == {"waiting"}
    name = start_attempt(tmp_path, "stage1", workers=2, device="cpu", threads=1)
    finish(run, "stage1")
    end_attempt(tmp_path, "stage1", name, DONE, restarts=1, peak_bytes=None)
    failed = start_attempt(tmp_path, "base", workers=1, device="cpu", threads=1)
    end_attempt(tmp_path, "base", failed, FAILED, restarts=0, peak_bytes=None)
    start_attempt(tmp_path, "embeddings", workers=1, device="cpu", threads=1)
    progress = Progress(tmp_path / "embeddings")
    (tmp_path / "embeddings").mkdir()
    progress.update(1, 4, "relation", loss=0.5)
    time.sleep(0.3)
    progress.update(3, 4, "relation", loss=0.25)
    with locked(tmp_path):
        found = {one.stage: one for one in run_status(tmp_path)}
        assert {n: one.state for n, one in found.items() if one.attempts} == {
            **{"stage1": "done", "base": "failed", "embeddings": "running"}
        }
        one = found["embeddings"]
        assert (one.done, one.total, one.unit, one.values) == (3, 4, "relation", {"loss": 0.25})
        assert 0 < one.rate < 2 / 0.3 + 1 and one.remaining_s == pytest.approx(1 / one.rate)
        assert found["stage1"].restarts == 1
        assert "3 of 4 relations," in status_text(tmp_path) and "nobody" not in status_text(tmp_path)
    assert {one.state for one in run_status(tmp_path) if one.stage == "embeddings"} == {"stopped"}
    assert "nobody works on this run" in status_text(tmp_path)
    assert json.loads(json.dumps(status_json(tmp_path)))["worked_on"] is False
    with pytest.raises(ClusterError, match="found no run"):
        run_status(tmp_path / "elsewhere")


NEED = st.builds(Resources, st.integers(1, 4), st.integers(1, 4), st.integers(0, 1), st.just(0))


@given(st.lists(NEED, min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 6))
def test_stages_side_by_side_never_take_more_than_there_is(
    needs: list[Resources], cpus: int, gpus: int
) -> None:
    room = Room(1, cpus, gpus, 0)
    held: dict[str, Resources] = {}
    for i, need in enumerate(needs):
        alone = not held
        taken = room.take(str(i), need)
        fits = (
            sum(r.workers * r.cpus for r in [*held.values(), need]) <= cpus
            and sum(r.workers * r.gpus for r in [*held.values(), need]) <= gpus
        )
        assert taken == (fits or alone)
        if taken:
            held[str(i)] = need
        if len(held) > 2:
            room.give_back(next(iter(held)))
            held.pop(next(iter(held)))


def test_what_a_stage_asks_for() -> None:
    settings = load_config("demo").settings
    cluster = ClusterConfig(workers=4, threads=3, memory_gb=2)

    def of(name: str, gpus: int, cluster: ClusterConfig = cluster) -> Resources:
        return resources(stage_of(name), cluster, settings, gpus)

    assert of("stage2", 4) == Resources(4, 3, 1, 2_000_000_000)
    assert of("stage2", 3).device == "cpu"
    assert of("embeddings", 1) == Resources(1, 3, 1, 2_000_000_000)
    assert of("tokens", 4).gpus == 0
    assert of("base", 4).gpus == 0
    exact = load_config("demo", ["graph.neighbors=all"]).settings
    assert resources(stage_of("stage1"), cluster, exact, 4).workers == 1
    assert of("stage1", 4, ClusterConfig(workers=4, device="cpu")).device == "cpu"
    assert of("stage3", 4).per_worker() == {"CPU": 3.0, "GPU": 1.0, "memory": 2e9}


@pytest.mark.parametrize(
    ("changes", "room", "words"),
    [
        (
            {"workers": 8, "device": "cuda"},
            Room(2, 64, 4, 1e12),
            "found 8 with cluster.device=cuda.*4 GPUs.*2 nodes",
        ),
        ({"workers": 3}, Room(1, 2, 0, 1e12), "found 3 of 1 CPU threads each.*2 CPUs on 1 node"),
        ({"workers": 2, "memory_gb": 8}, Room(1, 2, 0, 9e9), "found 8 for each of 2 workers.*9.0 GB"),
    ],
)
def test_more_than_there_is_is_said_with_what_there_is(
    changes: dict[str, Any], room: Room, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import re

    lack = room.lack(ClusterConfig(**changes))
    assert re.search(words, lack) and "\n" not in lack
    monkeypatch.setattr("netgpt.cluster.pipeline.room._totals", lambda: room)
    with pytest.raises(ClusterError, match=words):
        Room.of_ray(ClusterConfig(**changes))


def test_a_cluster_that_grows_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = [Room(1, 0, 0, 0), Room(2, 1, 0, 0), Room(3, 4, 0, 0)]
    monkeypatch.setattr("netgpt.cluster.pipeline.room._totals", lambda: rooms.pop(0))
    monkeypatch.setattr("netgpt.cluster.pipeline.room._POLL_S", 0.01)
    assert Room.of_ray(ClusterConfig(wait_minutes=1)).nodes == 3


def test_workers_of_a_killed_driver_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from netgpt.cluster.workers.locks import rank_lock\n"
        "with rank_lock(pathlib.Path(sys.argv[1]), 'stage2', 1):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None and worker.stdout.readline() == "held\n"
    locks.wait_for_workers(tmp_path, "stage3")  # another stage's
    monkeypatch.setattr(locks, "WAIT_S", 0.3)
    with pytest.raises(ClusterError, match="still works on stage2"):
        locks.wait_for_workers(tmp_path, "stage2")
    monkeypatch.setattr(locks, "WAIT_S", 60.0)
    threading.Timer(0.5, lambda: os.kill(worker.pid, signal.SIGKILL)).start()
    start = time.monotonic()
    locks.wait_for_workers(tmp_path, "stage2")
    assert worker.wait(10) == -signal.SIGKILL and time.monotonic() - start >= 0.4


def test_a_folder_is_one_commands_and_is_gone_where_nothing_came_into_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainerError), locked(run):
        with pytest.raises(ClusterError, match="another process works on this folder"), locked(run):
            pass
        assert run.exists()
        raise TrainerError("refused")
    assert not run.exists()
    with locked(run):
        (run / "config.yaml").touch()
    with pytest.raises(TrainerError), locked(run):
        raise TrainerError("refused")
    assert (run / "config.yaml").exists()
    (tmp_path / "mine").mkdir()  # was there before
    with locked(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()


def test_a_node_unpacks_the_store_once_and_again_when_it_is_damaged(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert place_store(store, tmp_path, "auto", 1) == NodeStore(str(store.path.resolve()), store.digest)
    assert place_store(store, tmp_path, "off", 5).local() == store.path.resolve()
    cache = tmp_path / "disk"
    placed = place_store(store, tmp_path, str(cache), 1)
    calls = []
    unpack = graphstore.unpack
    monkeypatch.setattr(graphstore, "unpack", lambda *args: calls.append(args) or unpack(*args))
    threads = [threading.Thread(target=placed.local) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    local = placed.local()
    assert len(calls) == 1 and local.parent == cache
    assert graphstore.open(str(local)).digest == store.digest and graphstore.verify(local) == []
    assert cache.stat().st_mode & 0o077 == 0
    victim = max((p for p in local.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    os.truncate(victim, 3)
    assert graphstore.verify(placed.local()) == [] and len(calls) == 2
    # packed once a run, whatever the number of nodes
    assert place_store(store, tmp_path, str(cache), 9).packed == placed.packed


def test_a_stages_log_has_its_lines_its_ranks_and_its_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), stage_log(tmp_path, "stage1", 3) as log:
        log.info("step %d", 7)
        raise RuntimeError("the disk fell off")
    with stage_log(tmp_path, "stage1", 0) as log:
        log.info("again")
    text = log_path(tmp_path, "stage1").read_text()
    assert "INFO rank 3" in text and "step 7" in text and "again" in text
    assert "Traceback" in text and "RuntimeError: the disk fell off" in text


class _Recorded:
    """Stages placed by a stand-in for Ray: it notes when each runs, and leaves what the stage declares."""

    def __init__(self, run: Run, fail: str = "") -> None:
        self.run, self.fail, self.order = run, fail, list[str]()
        self.together = threading.Barrier(2)
        self.ended = threading.Event()

    def place(self, work: StageWork, need: Resources, on_restart: Callable[[], None]) -> None:
        job = work.job
        self.order.append(job.stage)
        if job.stage in ("stage1", "base"):
            self.together.wait(20)  # passes only where both run at once
        if job.stage == self.fail:
            raise TrainerError(f"{job.stage}: found nothing, expected something")
        if self.fail and job.stage == "stage1":
            assert self.ended.wait(20)
            raise RuntimeError("its workers are gone")
        finish(self.run, job.stage)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    monkeypatch.setattr(executing, "ray_session", lambda cpus: nullcontext())
    monkeypatch.setattr(executing, "shown_progress", lambda folder, title: nullcontext())
    monkeypatch.setattr(Room, "of_ray", staticmethod(lambda cluster: Room(1, 8, 0, 0)))


def test_stages_run_side_by_side_in_the_order_of_what_they_read(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ray: None
) -> None:
    run = make_run(tmp_path, store)
    recorded = _Recorded(run)
    monkeypatch.setattr(executing, "run_on_ray", recorded.place)
    executing.execute(run, run.stages)
    assert sorted(recorded.order) == sorted(run.stages)
    for name in run.stages:
        for needed in run.needed(name):
            assert recorded.order.index(needed) < recorded.order.index(name)
    attempts = {one.stage: one for one in read_attempts(tmp_path)}
    assert {one.outcome for one in attempts.values()} == {DONE} and attempts["stage1"].peak_bytes == 5
    assert attempts["base"].start_s < attempts["stage1"].end_s  # type: ignore[operator]
    before = list(recorded.order)
    executing.execute(run, run.stages)
    assert recorded.order == before  # all done


def test_the_first_error_ends_the_stages_beside_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ray: None
) -> None:
    import ray

    run = make_run(tmp_path, store)
    recorded = _Recorded(run, fail="base")
    monkeypatch.setattr(executing, "run_on_ray", recorded.place)
    monkeypatch.setattr(ray, "shutdown", recorded.ended.set)
    with pytest.raises(TrainerError, match="base: found nothing"):
        executing.execute(run, run.stages)
    assert sorted(recorded.order) == ["base", "stage1"]
    assert {one.stage: one.outcome for one in read_attempts(tmp_path)} == {
        "base": "failed",
        "stage1": "interrupted",
    }


def test_a_stage_that_leaves_less_than_it_declares_is_not_done(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_ray: None
) -> None:
    run = make_run(tmp_path, store)

    def place(work: StageWork, need: Resources, on_restart: Callable[[], None]) -> None:
        stage_folder.finish(work.job.folder, work.job.inputs, [], {})

    monkeypatch.setattr(executing, "run_on_ray", place)
    with pytest.raises(RuntimeError, match=r"stage1: left no model\.safetensors"):
        executing.execute(run, ["stage1"])
