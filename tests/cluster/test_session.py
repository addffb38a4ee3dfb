"""What of Ray is private and used all the same: each test here fails when Ray has it otherwise."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netgpt.cluster.config import load_config
from netgpt.cluster.errors import StageFailedError
from netgpt.cluster.workers import failures
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
