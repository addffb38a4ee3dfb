"""How a run's work grows with the graph and with the workers.

Nested parts of one data set, by topic and by time. At each size: records to a store, an epoch of sampling
alone, and by the pipeline itself, with each number of workers, an epoch of stage 1, exact inference,
tokenisation and a fixed number of steps of stage 2. Seconds are those of the stage in its workers, the
start of processes not counted; bytes are resident, pages of mapped files too.
"""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.cluster.bench.measure import SYNTH_RECORDS, machine, measure
from netgpt.cluster.bench.subsample import BY, choose, write_parts
from netgpt.cluster.errors import ClusterError, FailedError
from netgpt.graphstore.files import total_bytes
from netgpt.trainers.stages.folder import read_manifest

STAGES = ("stage1", "embeddings", "tokens", "stage2")
VAL_STATES = 64
_BUILD = """
import sys
from netgpt import graphstore
from netgpt.cluster.bench.reference import SMALL, reference
graphstore.build(sys.argv[1], sys.argv[2], reference().Config(**SMALL))
"""
_SAMPLE = """
import json, sys, time
from netgpt import graphstore, sampler
store = graphstore.open(sys.argv[1])
loader = sampler.NeighborLoader(store, store.split("train"), batch_size=512, fanout=int(sys.argv[2]), seed=0)
start, edges, seeds = time.perf_counter(), 0, 0
for batch in loader:
    edges += sum(len(heads) for heads in batch.heads.values())
    seeds += 512
print(json.dumps({"seconds": time.perf_counter() - start, "edges": edges}), file=open(sys.argv[3], "w"))
"""
_RUN = """
import json, math, pathlib, sys
from netgpt.cluster.config import load_config
from netgpt.cluster.pipeline import Run, execute, locked
from netgpt.cluster.pipeline.room import Room
path, store, settings = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), json.loads(sys.argv[3])
config = load_config("sample", settings)
workers = config.cluster.workers
with locked(path):
    run = Run.start(path, config, None, store)
    stages = ("stage1", "embeddings", "base", "tokens", "stage2")
    wanted = [name for name in run.possible_stages if name in stages]
    # Room for the workers of one stage: stages beside each other would share the cores
    execute(run, wanted, Room(1, workers, 0, math.inf))
"""


@dataclass(frozen=True)
class ScalingBench:
    scale: float = 1.0
    """Scale of the synthetic records, where none are given."""
    shares: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3, 1.0)
    workers: tuple[int, ...] = (1, 2)
    hidden: int = 64
    fanout: int = 20
    batch_size: int = 512
    steps: int = 20
    """Optimiser steps of stage 2."""
    seed: int = 0

    def __post_init__(self) -> None:
        shares = list(self.shares)
        if not shares or shares != sorted(set(shares)) or shares[0] <= 0 or shares[-1] > 1:
            raise ClusterError(f"--share: found {shares}, expected rising shares above 0, at most 1")
        if not self.workers or min(self.workers) < 1:
            raise ClusterError(f"--workers: found {list(self.workers)}, expected numbers from 1")
        if self.steps < 1:
            raise ClusterError(f"--steps: found {self.steps}, expected at least 1")

    @property
    def settings(self) -> list[str]:
        """Overrides of `sample` that every size has."""
        return [
            *("graph.epochs=1", "graph.select=last", f"graph.hidden={self.hidden}"),
            *(f"sampler.fanout={self.fanout}", f"graph.batch_size={self.batch_size}"),
            *("stage2.epochs=1", f"stage2.max_steps={self.steps}", f"seed={self.seed}"),
        ]


def bench_scaling(config: ScalingBench, data: Path | None, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """A result for each part, as it comes. The last share is measured once where it is everything."""
    with tempfile.TemporaryDirectory(dir=scratch, prefix="scaling-") as folder:
        root = Path(folder)
        if data is None:
            data = root / "records.json"
            if not measure(SYNTH_RECORDS, data, config.scale, config.seed).ok:
                raise FailedError("the synthetic records could not be made")
        whole = root / "whole"
        _build(data, whole)
        store = graphstore.open(str(whole))
        parts: dict[Path, np.ndarray] = {}
        jobs: list[tuple[str, float, Path]] = []
        for by in BY:
            for share, chosen in zip(
                config.shares, choose(store, by, list(config.shares), config.seed), strict=True
            ):
                if chosen.all():
                    path = data
                else:
                    path = root / f"{by}-{share:g}.json"
                    parts[path] = chosen
                if not any(job[2] == path for job in jobs):
                    name = by if path != data else "all"
                    jobs.append((name, share, path))
        write_parts(data, store, parts)
        shutil.rmtree(whole)
        base: Path | None = None
        for by, share, path in sorted(jobs, key=lambda job: (job[1], job[0])):
            result, made = _measured(config, root / f"{by}-{share:g}", path, base)
            base = base or made
            yield {"bench": "scaling", "by": by, "share": share, **result}
            if path != data:
                path.unlink()


def _build(records: Path, out: Path) -> dict[str, Any]:
    cost = measure(_BUILD, records, out)
    if not cost.ok:
        raise FailedError(f"{records}: no store could be built")
    return {"seconds": cost.wall_s, "peak_bytes": cost.peak_bytes}


def _measured(
    config: ScalingBench, folder: Path, records: Path, base: Path | None
) -> tuple[dict[str, Any], Path]:
    """All figures of one part; and the tiny base model, which the smallest part makes for all."""
    folder.mkdir()
    place = folder / "store"
    stages: dict[str, Any] = {"build": _build(records, place)}
    store = graphstore.open(str(place))
    out = folder / "sample.json"
    sampled = measure(_SAMPLE, place, config.fanout, out)
    if not sampled.ok:
        raise FailedError(f"{place}: an epoch could not be sampled")
    stages["sample"] = {**json.loads(out.read_text()), "peak_bytes": sampled.peak_bytes}
    num_train = len(store.split("train"))
    settings = [*config.settings, f"task.val_share={min(0.5, VAL_STATES / num_train):.6g}"]
    by_workers = {}
    for workers in config.workers:
        run = folder / f"run-{workers}"
        model = [] if base is None else [f"language.model={base}"]
        by_workers[str(workers)] = _run(run, place, [*settings, *model, f"cluster.workers={workers}"])
        if base is None:
            base = folder.parent / "base-model"
            shutil.copytree(run / "base" / "model", base)
        shutil.rmtree(run)
    result = {
        "states": store.num_nodes[store.schema.target],
        "train_states": num_train,
        "nodes": sum(store.num_nodes.values()),
        "edges": sum(store.num_edges.values()),
        "store_bytes": total_bytes(place),
        "stages": stages,
        "workers": by_workers,
    }
    del store
    shutil.rmtree(folder)
    assert base is not None
    return result, base


def _run(run: Path, store: Path, settings: list[str]) -> dict[str, Any]:
    """The pipeline's stages, each with its seconds and bytes."""
    if not measure(_RUN, run, store, json.dumps(settings)).ok:
        raise FailedError(f"{run}: the stages failed; see its logs")
    stages: dict[str, Any] = {}
    for name in STAGES:
        manifest = read_manifest(run / name)
        assert manifest is not None
        stages[name] = dict(manifest["cost"])
        if name == "stage2":
            stages[name]["steps"] = manifest["metrics"]["steps"]
    return stages


def exponent(sizes: list[float], values: list[float]) -> float | None:
    """b of the least-squares fit values = a · sizes^b, in logarithms; None for fewer than two points."""
    points = [(s, v) for s, v in zip(sizes, values, strict=True) if s > 0 and v and v > 0]
    if len({s for s, _ in points}) < 2:
        return None
    x, y = np.log([s for s, _ in points]), np.log([v for _, v in points])
    return float(np.polyfit(x, y, 1)[0])


def summary(config: ScalingBench, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Exponents of seconds and bytes against nodes, by the way to subsample, stage and number of workers.

    `exponents` are fitted over all sizes, where small ones show what starting costs; `last_exponents` over
    the two largest, which say more of what comes after them.
    """
    whole: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for by in BY:
        rows = rows_of(results, by)
        whole[by] = {key: exponents_of(rows, key) for key in keys(results)}
        last[by] = {key: exponents_of(rows[-2:], key) for key in keys(results)}
    return {
        **{"bench": "scaling", **asdict(config), "machine": machine()},
        **{"exponents": whole, "last_exponents": last},
    }


def rows_of(results: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """The parts of one way to subsample, by size; what is the whole data belongs to each."""
    return sorted((r for r in results if r["by"] in (by, "all")), key=lambda r: r["nodes"])


def exponents_of(rows: list[dict[str, Any]], key: str) -> dict[str, float | None]:
    """Exponents of seconds and bytes against nodes, for one of `keys`."""
    nodes = [float(row["nodes"]) for row in rows]
    return {what: exponent(nodes, [at(row, key, what) for row in rows]) for what in ("seconds", "peak_bytes")}


def keys(results: list[dict[str, Any]]) -> list[str]:
    """What was measured at each size, such as build or stage1/2 (workers)."""
    first = results[0]
    return [*first["stages"], *(f"{name}/{n}" for name in STAGES for n in first["workers"])]


def at(result: dict[str, Any], key: str, what: str) -> float:
    name, _, workers = key.partition("/")
    measured = result["workers"][workers][name] if workers else result["stages"][name]
    value = measured.get(what)
    return math.nan if value is None else float(value)


def line(result: dict[str, Any]) -> str:
    if "exponents" in result:
        rows = [
            f"{by:<6}{key:<14}"
            + "".join(
                f"{what} ^{value:.2f} (^{last:.2f})  "
                for what, value in fit.items()
                if (last := result["last_exponents"][by][key][what]) is not None and value is not None
            )
            for by, fits in result["exponents"].items()
            for key, fit in fits.items()
        ]
        return "exponents against nodes (of the two largest):\n" + "\n".join(rows)
    times = {**{name: one["seconds"] for name, one in result["stages"].items()}}
    for workers, stages in result["workers"].items():
        times |= {f"{name}/{workers}": one["seconds"] for name, one in stages.items()}
    shown = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in times.items())
    return (
        f"{result['by']} {result['share']:g}: {result['nodes']:,} nodes, {result['edges']:,} edges: {shown}"
    )
