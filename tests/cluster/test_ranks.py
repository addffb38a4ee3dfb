"""Ranks on Ray: who is which, and that all end when one does."""

from __future__ import annotations

import errno
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from netgpt.cluster.config import ClusterConfig, load_config
from netgpt.cluster.errors import ClusterError, StageFailedError
from netgpt.cluster.workers import failures, training
from netgpt.cluster.workers.failures import NoRoomError, NotStartedError, RanksFailedError
from netgpt.cluster.workers.node_store import NodeStore
from netgpt.cluster.workers.places import Place, environments
from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.session import ray_session
from netgpt.cluster.workers.training import StageWork, run_on_ray, run_ranks
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.stages.base import StageJob

TWO = Resources(workers=2, cpus=1, gpus=0, memory_bytes=0)


def test_ranks_count_through_nodes_and_find_their_own_gpu() -> None:
    draw = random.Random(3)
    for _ in range(200):
        num_nodes = draw.randint(1, 4)
        on_node = [draw.randint(1, 12) for _ in range(num_nodes)]
        gpus = draw.random() < 0.7
        places = [
            Place(f"n{node}", f"10.0.0.{node}", draw.randint(1, 9999), (str(gpu),) if gpus else ())
            for node in range(num_nodes)
            for gpu in draw.sample(range(16), on_node[node])
        ]
        draw.shuffle(places)
        told = environments(places)
        assert sorted(int(one["RANK"]) for one in told) == list(range(len(places)))
        assert {one["WORLD_SIZE"] for one in told} == {str(len(places))}
        master = places[[one["RANK"] for one in told].index("0")]
        by_rank = sorted(zip(places, told, strict=True), key=lambda both: int(both[1]["RANK"]))
        nodes = [place.node for place, _ in by_rank]
        assert all(  # a node's ranks are neighbours
            nodes[i] == nodes[i + 1] or nodes[i] not in nodes[i + 1 :] for i in range(len(nodes) - 1)
        )
        for place, one in by_rank:
            assert (one["MASTER_ADDR"], one["MASTER_PORT"]) == (master.address, str(master.port))
            beside = [(p, o) for p, o in by_rank if p.node == place.node]
            assert int(one["LOCAL_WORLD_SIZE"]) == len(beside)
            assert [int(o["LOCAL_RANK"]) for _, o in beside] == list(range(len(beside)))
            assert {o["NODE_RANK"] for _, o in beside} == {one["NODE_RANK"]}
            if gpus:  # as torch counts devices
                seen = one["CUDA_VISIBLE_DEVICES"].split(",")
                assert seen == sorted(seen, key=int) and seen[int(one["LOCAL_RANK"])] == place.gpus[0]
            else:
                assert "CUDA_VISIBLE_DEVICES" not in one


def test_parts_of_a_gpu_have_names() -> None:
    places = [Place("a", "10.0.0.1", 1, (name,)) for name in ("MIG-b", "MIG-a")]
    told = environments(places)
    assert [one["LOCAL_RANK"] for one in told] == ["1", "0"]
    assert {one["CUDA_VISIBLE_DEVICES"] for one in told} == {"MIG-a,MIG-b"}


@pytest.fixture(scope="module")
def on_ray() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


def is_free(num_cpus: float) -> bool:
    """Whether Ray has so many CPUs again."""
    import ray

    until = time.monotonic() + 30
    while ray.available_resources().get("CPU") != num_cpus:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def is_gone(pid: int) -> bool:
    until = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def meets(folder: Path) -> Callable[[], None]:
    """Work that sums over ranks and leaves what it found. Made here, so that it goes by value."""

    def work() -> None:
        import torch
        import torch.distributed as dist

        from netgpt.trainers import distributed
        from netgpt.trainers.worker import use_process_group

        use_process_group("cpu")
        ranks = distributed.sum_across_ranks(torch.tensor([2 ** dist.get_rank()]))
        (folder / str(dist.get_rank())).write_text(f"{int(ranks)} of {dist.get_world_size()}")

    return work


def fails(folder: Path, how: str) -> Callable[[], None]:
    """Work of which rank 1 fails while rank 0 would work on."""

    def work() -> None:
        rank = os.environ["RANK"]
        (folder / f"{rank}.tmp").write_text(str(os.getpid()))
        os.rename(folder / f"{rank}.tmp", folder / rank)
        while not ((folder / "0").exists() and (folder / "1").exists()):
            time.sleep(0.01)
        if rank == "1" and how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == "1":
            raise KeyError("nothing of that name")
        time.sleep(600)

    return work


def test_ranks_find_each_other_and_one_alone_needs_nobody(on_ray: None, tmp_path: Path) -> None:
    run_ranks(meets(tmp_path), TWO, room_s=30)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"0": "3 of 2", "1": "3 of 2"}
    run_ranks(meets(tmp_path), Resources(1, 2, 0, 0), room_s=30)
    assert (tmp_path / "0").read_text() == "1 of 1"
    assert is_free(2)


@pytest.mark.parametrize("how", ["dies", "raises"])
def test_a_rank_that_fails_ends_the_others(how: str, on_ray: None, tmp_path: Path) -> None:
    from ray.exceptions import RayActorError, RayTaskError

    with pytest.raises(RanksFailedError, match=r"^ranks 1 failed$") as caught:
        run_ranks(fails(tmp_path, how), TWO, room_s=30)
    ((rank, failure),) = caught.value.failures.items()
    assert rank == 1
    if how == "dies":
        assert isinstance(failure, RayActorError)
    else:
        assert isinstance(failure, RayTaskError) and isinstance(failure.cause, KeyError)
    assert all(is_gone(int((tmp_path / rank).read_text())) for rank in ("0", "1"))
    assert is_free(2)


def test_room_is_waited_for_and_then_given_up(on_ray: None, tmp_path: Path) -> None:
    with pytest.raises(NoRoomError, match=r"found no room for 3 × \{'CPU': 1.0\} in 1 s"):
        run_ranks(meets(tmp_path), Resources(3, 1, 0, 0), room_s=1)
    assert list(tmp_path.iterdir()) == [] and is_free(2)


def test_processes_that_do_not_come_up_are_given_up(
    on_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "START_S", 0.001)
    with pytest.raises(NotStartedError):
        run_ranks(meets(tmp_path), TWO, room_s=30)
    assert list(tmp_path.iterdir()) == [] and is_free(2)


DIED = "died"


class Tries:
    """A stand-in for ranks: each try ends as listed, and past the list well."""

    def __init__(self, *ends: Exception) -> None:
        self.ends, self.num = list(ends), 0

    def __call__(self, work: Any, need: Resources, *, room_s: float) -> None:
        self.num += 1
        if self.num <= len(self.ends):
            raise self.ends[self.num - 1]


def told_of(error: Exception) -> Exception:
    """An error of the work as Ray tells it."""
    from ray.exceptions import RayTaskError

    return RayTaskError("run", f'Traceback …\n  File "x"\n{type(error).__name__}: {error}', error)


def failed(*errors: Exception | str) -> RanksFailedError:
    """Ranks that failed so; DIED: their process ended."""
    from ray.exceptions import RayActorError

    return RanksFailedError(dict(enumerate(RayActorError() if e == DIED else told_of(e) for e in errors)))  # type: ignore[arg-type]


@pytest.fixture
def stage_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StageWork:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(failures, "worker_logs", list)
    job = StageJob(
        stage="stage2", run=tmp_path, store=tmp_path, settings=load_config("demo").settings, inputs={}
    )
    return StageWork(job, ClusterConfig(max_failures=2), NodeStore(str(tmp_path), "digest"))


@pytest.mark.parametrize("reason", [RuntimeError("gone"), DIED], ids=str)
def test_what_may_pass_is_tried_again(
    reason: Exception | str, stage_work: StageWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    again, restarts = failed(reason), list[int]()
    for ends in range(3):
        tries = Tries(*[again] * ends)
        monkeypatch.setattr(training, "run_ranks", tries)
        restarts.clear()
        run_on_ray(stage_work, TWO, partial(restarts.append, 1))
        assert (tries.num, len(restarts)) == (ends + 1, ends)
    tries = Tries(*[again] * 3)
    monkeypatch.setattr(training, "run_ranks", tries)
    with pytest.raises(StageFailedError, match=r"stage2: workers failed \(ranks 0\): "):
        run_on_ray(stage_work, TWO)
    assert tries.num == 3


@pytest.mark.parametrize(
    ("end", "kind", "words"),
    [
        ([TrainerError("lr: found nan")], TrainerError, r"^lr: found nan$"),
        ([DIED, TrainerError("lr: found nan")], TrainerError, "^lr: found nan"),  # whatever is said beside it
        ([OSError(errno.ENOSPC, "No space left", "f")], OSError, "No space left"),
        ([KeyError("x")], StageFailedError, r"\(ranks 0\): KeyError: 'x'$"),
        ([RuntimeError("y"), KeyError("x")], StageFailedError, r"\(ranks 0, 1\)"),
        (NoRoomError("found no room"), ClusterError, "stage2: its workers found no room; see"),
        (ValueError("a defect"), StageFailedError, r"stage2: workers failed: a defect \(see "),
    ],
)
def test_what_will_not_pass_is_told_at_once(
    end: Exception | list[Exception | str],
    kind: type[Exception],
    words: str,
    stage_work: StageWork,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries = Tries(*[failed(*end) if isinstance(end, list) else end] * 3)
    monkeypatch.setattr(training, "run_ranks", tries)
    with pytest.raises(kind, match=words):
        run_on_ray(stage_work, TWO)
    assert tries.num == 1


def test_of_ranks_that_died_and_those_that_heard_of_it_the_dead_are_quoted(
    stage_work: StageWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = failed(RuntimeError("connection closed by peer"), DIED)
    monkeypatch.setattr(training, "run_ranks", Tries(*[ends] * 3))
    with pytest.raises(StageFailedError, match=r"\(ranks 0, 1\): The actor "):
        run_on_ray(stage_work, TWO)


def test_workers_that_do_not_start_are_tried_again_and_their_words_kept(
    stage_work: StageWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    restarts: list[int] = []
    tries = Tries(NotStartedError("the process died"))
    monkeypatch.setattr(training, "run_ranks", tries)
    run_on_ray(stage_work, TWO, partial(restarts.append, 1))
    assert (tries.num, len(restarts)) == (2, 1)
    kept = stage_work.job.run / "logs" / "stage2-start.log"
    assert "the process died" in kept.read_text()
    monkeypatch.setattr(training, "run_ranks", Tries(*[NotStartedError("the process died")] * 3))
    with pytest.raises(StageFailedError, match=r"workers did not start: the process died \(see .*start\.log"):
        run_on_ray(stage_work, TWO)
