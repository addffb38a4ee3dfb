"""Recommenders at the size of a service: memory and time of a step and of a ranking."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from netgpt import graphstore
from netgpt.cluster.bench.measure import machine, measure
from netgpt.cluster.errors import ClusterError

BUILD = """
import sys
from netgpt import graphstore
from netgpt.graphstore.datasets import names
dataset = names.load("interactions")
config = dataset.Config(split="last")
source = dataset.synthetic(float(sys.argv[1]), 0, config)
graphstore.build(source, sys.argv[2], config, dataset=dataset)
"""
"""Code for `measure`: a store of made pairs of a scale, at a path."""
_STEP = """
import json, sys, time, torch
from netgpt.trainers.processor import use_cores
from netgpt import graphstore
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.names import model_class
from netgpt.trainers.recommend.triples import TripleLoader
use_cores(int(sys.argv[3]))
start = time.perf_counter()
data = Interactions.of(graphstore.open(sys.argv[1]))
model = model_class("lightgcn")(data, RecommenderConfig(model="lightgcn"))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loader = TripleLoader(data.train, batch_size=2048, seed=0)
times = [time.perf_counter() - start]
for _, step in zip(range(3), loader.stream(0)):
    start = time.perf_counter()
    optimizer.zero_grad()
    (model.loss(step) / len(step)).backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
with open(sys.argv[2], "w") as file:
    json.dump({"open_s": times[0], "step_s": min(times[1:])}, file)
"""
_SAMPLED = """
import json, sys, time, torch
from netgpt.trainers.processor import use_cores
from netgpt import graphstore
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.names import model_class
from netgpt.trainers.recommend.sampled import SampledLoader
use_cores(int(sys.argv[3]))
data = Interactions.of(graphstore.open(sys.argv[1]))
config = RecommenderConfig(model="lightgcn", layers=2, neighbors="sampled", fanout=10)
model = model_class("lightgcn")(data, config)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loader, times = SampledLoader(data, config, 0), []
start = time.perf_counter()
for _, step in zip(range(6), loader.stream(0)):
    optimizer.zero_grad()
    (model.sampled_loss(step) / len(step)).backward()
    optimizer.step()
    times.append(time.perf_counter() - start)
    start = time.perf_counter()
with open(sys.argv[2], "w") as file:
    json.dump({"sampled_step_s": min(times)}, file)
"""
_RANK = """
import json, sys, time, torch
from netgpt.trainers.processor import use_cores
from netgpt import graphstore
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.judge import measured
from netgpt.trainers.recommend.ranking import full_ranking
from netgpt.trainers.recommend.train import scores_of
use_cores(int(sys.argv[3]))
data = Interactions.of(graphstore.open(sys.argv[1]))
users, items = torch.randn(data.train.num_users, 64), torch.randn(data.train.num_items, 64)
test = measured(data.test, 10_000)
start = time.perf_counter()
full_ranking(scores_of(users, items), test, [data.train, data.val])
seconds = time.perf_counter() - start
with open(sys.argv[2], "w") as file:
    json.dump({"ranked_users": int((test.num_by_user > 0).sum()), "ranking_s": seconds}, file)
"""


def bench_scale(scales: Sequence[float], threads: int, scratch: Path | None) -> Iterator[dict[str, Any]]:
    """On made pairs (1 M users, 1 M items, 50 M rows, times the scale), each in a process of its own: the
    store, an exact step of LightGCN (3 layers, width 64) with Adam, one of 2 layers over samples of 10
    neighbours a hop, and the ranking of 10,000 users."""
    for scale in scales:
        with TemporaryDirectory(dir=scratch) as folder:
            store, said = Path(folder) / "store", Path(folder) / "said.json"
            built = measure(BUILD, scale, store)
            if not built.ok:
                raise ClusterError(f"--scale: {scale:g} could not be built")
            data = graphstore.open(store)
            made: dict[str, Any] = {"case": "scale", "scale": scale, **data.num_nodes}
            made |= {"pairs": data.attributes["interactions"]["pairs"]["train"]}
            made |= {"build_s": built.wall_s, "build_peak_bytes": built.peak_bytes}
            for name, code in (("step", _STEP), ("sampled_step", _SAMPLED), ("ranking", _RANK)):
                done = measure(code, store, said, threads)
                made |= json.loads(said.read_text()) if done.ok else {}
                made |= {f"{name}_peak_bytes": done.peak_bytes, f"{name}_ok": done.ok}
            yield made | machine()
