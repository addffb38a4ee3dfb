"""What the pipeline adds: `netgpt run` beside the same stages called one after the other in one process."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from netgpt.cluster.bench.measure import machine
from netgpt.cluster.errors import FailedError
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.graphstore.files import read_json

ALLOWED_SHARE, ALLOWED_S = 0.10, 30.0
"""Share of the direct time that the pipeline may add, and seconds besides."""
_DIRECT = """
import json, pathlib, sys, time
from netgpt.cluster.config import load_config
from netgpt.cluster.pipeline.run import Run
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.worker import use_process_group
path, data = map(pathlib.Path, sys.argv[1:3])
config = load_config(sys.argv[3], json.loads(sys.argv[4]))
path.mkdir(parents=True)
run = Run.start(path, config, data, None)
use_process_group("cpu")
took = {}
for name in run.stages:
    start = time.perf_counter()
    job = StageJob(
        stage=name, run=run.path.resolve(), store=run.store.path.resolve(), settings=config.settings,
        inputs=run.inputs(name), device="cpu", num_threads=config.cluster.threads,
    )
    job.prepare()
    run_stage(job)
    took[name] = time.perf_counter() - start
run.publish()
(path / "took.json").write_text(json.dumps(took))
"""


def bench_pipeline(
    config: str, data: Path, settings: list[str], workers: list[int], scratch: Path | None
) -> Iterator[dict[str, Any]]:
    """The direct run, then the pipeline with each number of workers: seconds in all and of each stage."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="pipeline-") as folder:
        root = Path(folder)
        one = [*settings, "cluster.workers=1"]
        arguments = [str(root / "direct"), str(data), config, json.dumps(one)]
        direct_s = _timed([sys.executable, "-c", _DIRECT, *arguments])
        yield {
            "bench": "pipeline",
            "what": "direct",
            "wall_s": direct_s,
            "stages": read_json(root / "direct" / "took.json"),
            "machine": machine(),
        }
        for number in workers:
            run = root / f"workers-{number}"
            own = [*settings, f"cluster.workers={number}"]
            line = ["run", "--config", config, "--data", str(data), "--out", str(run), *own]
            wall_s = _timed([sys.executable, "-m", "netgpt", *line])
            same = (run / "metrics.jsonl").read_bytes() == (root / "direct" / "metrics.jsonl").read_bytes()
            limit_s = direct_s * (1 + ALLOWED_SHARE) + ALLOWED_S
            yield {
                "bench": "pipeline",
                "what": f"netgpt run, {number} workers",
                "wall_s": wall_s,
                "over_direct_s": wall_s - direct_s,
                "allowed_s": limit_s - direct_s,
                "within": wall_s <= limit_s,
                "same_metrics": same,
                "stages": {attempt.stage: attempt.seconds for attempt in read_attempts(run)},
            }


def _timed(command: list[str]) -> float:
    start = time.perf_counter()
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
        raise FailedError(f"{command[-1]}: the run failed")
    return time.perf_counter() - start


def line(result: dict[str, Any]) -> str:
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in result["stages"].items())
    over = (
        f" ({result['over_direct_s']:+.0f} s, allowed {result['allowed_s']:.0f})"
        if "within" in result
        else ""
    )
    return f"{result['what']}: {result['wall_s']:.0f} s{over}: {stages}"
