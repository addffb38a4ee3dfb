"""What of Ray is private and used all the same: each test here fails when Ray has it otherwise."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError, StageFailedError
from netgpt.cluster.workers import failures, scratch
from netgpt.cluster.workers.compat import worker_logs
from netgpt.cluster.workers.session import is_local, ray_session
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.stages.base import StageJob


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    with ray_session(num_cpus=1):
        yield


def test_a_ray_of_this_process_is_told_from_a_cluster(
    ray_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_local()  # also while it runs
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.2:6379")
    assert not is_local()


def test_the_last_words_of_a_worker_are_found(ray_here: None) -> None:
    import ray

    def dies() -> None:
        sys.stderr.write('Traceback (most recent call last):\n  File "x"\nImportError: no such thing\n')
        sys.stderr.flush()
        os._exit(1)

    since = time.time_ns()
    with pytest.raises(ray.exceptions.RayError):
        ray.get(ray.remote(max_retries=0)(dies).remote())
    said = [path.read_text() for path in worker_logs() if path.stat().st_mtime_ns >= since]
    assert any("ImportError: no such thing" in text for text in said)


def test_what_ray_says_of_a_dead_worker_is_no_standard_output(
    ray_here: None, capfd: pytest.CaptureFixture[str]
) -> None:
    from ray._private.worker import print_to_stdstream

    lines = {"lines": ["a worker died"], "pid": "raylet", "ip": "", "is_err": False, "job": None}
    print_to_stdstream(lines, ignore_prefix=False)
    found = capfd.readouterr()
    assert "a worker died" in found.err and not found.out


def test_a_worker_that_cannot_start_is_quoted_and_its_log_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, old = tmp_path / "worker-a.err", tmp_path / "worker-b.err"
    old.write_text("Traceback (most recent call last):\nKeyError: of another run\n")
    os.utime(old, ns=(1, 1))
    log.write_text("Traceback (most recent call last):\n  File 'sampler.py'\nImportError: cannot import\n")
    monkeypatch.setattr(failures, "worker_logs", lambda: [old, log])
    job = StageJob(
        stage="stage2", run=tmp_path, store=tmp_path, settings=load_config("demo").settings, inputs={}
    )
    cause = StageFailedError("stage2: workers failed (ranks unknown): died")
    found = failures.with_last_words(cause, RuntimeError("the group did not start"), job, since=2)
    assert type(found) is StageFailedError
    kept = tmp_path / "logs" / "stage2-start.log"
    assert str(found) == f"{cause}; a worker that was started said: ImportError: cannot import (see {kept})"
    text = kept.read_text()
    assert "ImportError: cannot import" in text and "the group did not start" in text
    assert "of another run" not in text
    refused = TrainerError("loss: found nan")  # says all there is
    assert failures.with_last_words(refused, refused, job, since=2) is refused


def test_rays_folder_is_short_and_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR as Slurm gives it, or another user's /tmp/ray, does not matter; what is set by name is said."""
    monkeypatch.delenv(scratch.RAY_TMPDIR, raising=False)
    own, problem = Path(f"/tmp/netgpt-{os.getuid()}"), scratch._problem
    was_there = own.exists()
    shared = {"/tmp": ""}  # which another user may have here
    monkeypatch.setattr(scratch, "_problem", lambda path: shared.get(str(path), problem(path)))
    long = tmp_path / ("n" * 100)
    long.mkdir()
    for folder in (long, tmp_path / "file"):
        (tmp_path / "file").touch()
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        assert scratch.ray_scratch() == "/tmp"
        monkeypatch.setenv(scratch.RAY_TMPDIR, str(folder))
        with pytest.raises(ClusterError, match=f"RAY_TMPDIR: found {folder}, .*set RAY_TMPDIR to another"):
            scratch.ray_scratch()
        monkeypatch.delenv(scratch.RAY_TMPDIR)
    monkeypatch.setattr(tempfile, "tempdir", None)
    shared["/tmp"] = "taken"
    assert scratch.ray_scratch() == str(own) and own.stat().st_mode & 0o777 == 0o700
    if not was_there:
        shutil.rmtree(own)
    name = f"{own}/ray/session_2026-12-01_18-30-00_123456_1234567/sockets/plasma_store"
    assert len(name) <= 107
    monkeypatch.setattr(scratch.os, "getuid", lambda: 12345)
    monkeypatch.setattr(scratch, "_make_ours", lambda path: "which is not this user's alone")
    with pytest.raises(ClusterError, match="set RAY_TMPDIR to a short path"):
        scratch.ray_scratch()


@pytest.mark.all
def test_ray_starts_under_a_long_tmpdir(tmp_path: Path) -> None:
    long = tmp_path / ("n" * 100)
    long.mkdir()
    code = (
        "from netgpt.cluster.workers.session import ray_session\n"
        "with ray_session(1): import ray; print(ray.nodes()[0]['Alive'])"
    )
    environment = {**os.environ, "TMPDIR": str(long)}
    environment.pop("RAY_TMPDIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "True", done.stderr[-2000:]
