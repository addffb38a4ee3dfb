"""`netgpt bench serve`: a run's service under load, beside `netgpt predict` called each time and offline.

Clients send one record at a time, each the next when the last is answered. Records come again and again under
new ids. Offline: the same predictor in a process of its own, batch after batch, without HTTP.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.bench.measure import machine
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.serving.run import ServeOptions, serving
from netgpt.cluster.workers.session import free_port

FIRST_ID = 10**15
"""Ids of records that are sent: no data set's."""
_OFFLINE = """
import json, pathlib, sys, time
import torch
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.serving.predictor import Predictor
run, data, batch = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
predictor = Predictor(Run.open_(run), torch.device("cpu"))
records = [(f"record {i}", json.loads(line)) for i, line in enumerate(data.read_text().strip().split("\\n"))]
parts = [records[i:i + batch] for i in range(0, len(records), batch)]
predictor.answers(parts[0])
start, num = time.perf_counter(), 0
while time.perf_counter() - start < float(sys.argv[4]):
    for part in parts:
        num += len(predictor.answers(part))
print(num / (time.perf_counter() - start))
"""


@dataclass(frozen=True, kw_only=True)
class ServeBench:
    run: Path
    data: Path
    """JSON lines: records as they are sent."""
    clients: Sequence[int] = (1, 8, 64)
    replicas: Sequence[int] = (1,)
    seconds: float = 60.0
    """Of each number of clients."""
    batch: int = 64
    calls: int = 3
    """Of `netgpt predict`; 0: none."""


def bench_serve(bench: ServeBench) -> Iterator[dict[str, Any]]:
    """A row for the peers, then one for each number of replicas and clients."""
    lines = bench.data.read_text(encoding="utf-8").split("\n")
    records = [json.loads(line) for line in lines if line.strip()]
    if not records or not all(isinstance(one, dict) for one in records):
        raise ClusterError(f"{bench.data}: found no records, expected a JSON object a line")
    if bench.calls:
        seconds = [_predicted(bench.run, records[i % len(records)]) for i in range(bench.calls)]
        yield {"case": "predict", "seconds": statistics.median(seconds), "calls": bench.calls}
    told = [sys.executable, "-c", _OFFLINE, bench.run, bench.data, bench.batch, min(20.0, bench.seconds)]
    done = subprocess.run([str(one) for one in told], capture_output=True, text=True, check=True)
    yield {"case": "offline", "rows_s": float(done.stdout), "batch": bench.batch}
    for replicas in bench.replicas:
        options = ServeOptions(
            run=bench.run, port=free_port("127.0.0.1"), replicas=replicas, batch=bench.batch
        )
        with serving(options):
            numbers = count(FIRST_ID)
            asyncio.run(_load(options, records, numbers, 1, 2.0))  # warms
            for clients in bench.clients:
                times, errors = asyncio.run(_load(options, records, numbers, clients, bench.seconds))
                yield {
                    "case": "serve",
                    "replicas": replicas,
                    "clients": clients,
                    "requests": len(times),
                    "rows_s": len(times) / bench.seconds,
                    "p50_ms": 1e3 * float(np.quantile(times, 0.5)) if times else None,
                    "p99_ms": 1e3 * float(np.quantile(times, 0.99)) if times else None,
                    "errors": errors,
                    "replica_bytes": _replica_bytes(),
                    **machine(),
                }


async def _load(
    options: ServeOptions,
    records: Sequence[dict[str, Any]],
    numbers: Iterator[int],
    clients: int,
    seconds: float,
) -> tuple[list[float], int]:
    """Seconds of each request that was answered, and how many were not."""
    import aiohttp

    times: list[float] = []
    errors, end = 0, time.perf_counter() + seconds
    headers = {"Authorization": f"Bearer {options.token}", "Content-Type": "application/json"}
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

        async def client() -> None:
            nonlocal errors
            while time.perf_counter() < end:
                number = next(numbers)
                own = {**records[number % len(records)], "id": str(number)}
                body, start = json.dumps(own, ensure_ascii=False).encode(), time.perf_counter()
                async with session.post(f"{options.url}/predict", data=body) as answer:
                    await answer.read()
                    if answer.status == 200:
                        times.append(time.perf_counter() - start)
                    else:
                        errors += 1

        await asyncio.gather(*(client() for _ in range(clients)))
    return times, errors


def _predicted(run: Path, record: dict[str, Any]) -> float:
    """Seconds that the program takes for one record."""
    from netgpt.cluster.pipeline.run import Run

    with tempfile.TemporaryDirectory() as folder:
        suffix, data = Run.open_(run).store.dataset.record_file(record, "record")
        path = Path(folder) / f"record{suffix}"
        path.write_bytes(data)
        start = time.perf_counter()
        told = [sys.executable, "-m", "netgpt", "predict", str(run), "--data", str(path)]
        subprocess.run(told, capture_output=True, check=True)
        return time.perf_counter() - start


def _replica_bytes() -> int:
    """Resident memory of the replicas, by the kernel's table of processes; the largest."""
    found = [0]
    for path in Path("/proc").glob("[0-9]*/status"):
        try:
            lines = dict(line.split(":", 1) for line in path.read_text().splitlines() if ":" in line)
        except OSError:
            continue
        if lines["Name"].strip().startswith("ray::ServeRepli") and "VmRSS" in lines:
            found.append(int(lines["VmRSS"].split()[0]) * 1024)
    return max(found)


def line(result: dict[str, Any]) -> str:
    if result["case"] == "predict":
        return f"netgpt predict, called for one record: {result['seconds']:.2f} s"
    if result["case"] == "offline":
        return f"offline, batches of {result['batch']}: {result['rows_s']:.1f} rows/s"
    shown = [f"{result[f'{name}_ms']:.0f} ms" if result[f"{name}_ms"] else "–" for name in ("p50", "p99")]
    size = result["replica_bytes"] / 1e9
    return (
        f"{result['replicas']} replicas, {result['clients']} clients: p50 {shown[0]}, p99 {shown[1]}, "
        f"{result['rows_s']:.1f} rows/s, {result['errors']} errors, {size:.2f} GB a replica"
    )
