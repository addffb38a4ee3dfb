"""Ratings of new videos by a finished run: nothing is retrained, nothing is written to the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from cluster.errors import ClusterError
from cluster.pipeline import COMMANDS, TITLES, Run
from cluster.progress import bar
from graphstore.xsvideo.extend import ExtendedGraph
from graphstore.xsvideo.records import read_records
from trainers.graph.exact import cache_digests, cached_mean_scores, embed, open_cache
from trainers.graph.tables import FeatureTables
from trainers.graph.train import MODEL, load_model
from trainers.metrics import clip, to_level
from trainers.splits import make_splits


@dataclass(frozen=True)
class Rating:
    id: str
    level: int
    score: float

    def to_json(self) -> str:
        return json.dumps(
            {"id": self.id, "level": self.level, "score": round(self.score, 6)}, ensure_ascii=False
        )


def predict(run: Run, data: Path) -> Iterator[Rating]:
    """Rate the records of a file, whose level may be absent, in the file's order.

    Their keys and history resolve against the run's store and the file together. Raises RecordError,
    also for an id that the store already has.
    """
    for name in run.stages:
        if name != "evaluation" and not run.is_done(name):
            command = COMMANDS.get(name, "run")
            raise ClusterError(f"{run.path}: {TITLES[name]} is not done; run first: netgpt {command}")
    known = frozenset(run.store.ids)
    records = list(read_records(data, require_level=False, known_ids=known))
    graph = ExtendedGraph(run.store, records, file=str(data))

    # Here and not above: bad input is refused before transformers is imported
    from trainers.language.load import load_netgpt, prompt_builder
    from trainers.language.samples import GraphScale, Samples, score_samples

    settings = run.config.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(run.path / "stage1", run.store, device)
    tables = FeatureTables(graph, device, max_bytes=0, hidden_types=model.shape.hidden_types)
    memory_bytes = settings.graph.inference_bytes
    digests = cache_digests(run.path / "stage1" / MODEL, run.store)
    h, _ = embed(
        model,
        tables,
        memory_bytes=memory_bytes,
        progress=bar("embeddings", "relation"),
        # What is asked for together must not change each other's ratings
        mean_scores=cached_mean_scores(run.path / "embeddings", digests),
    )
    builder = prompt_builder(run.path, settings)
    netgpt = load_netgpt(run.path, settings, builder, h.shape[1], "stage3", device)
    cached, _ = open_cache(run.path / "embeddings", digests)
    scale = GraphScale.of(cached, make_splits(run.store, settings.graph.val_share).train)
    samples = Samples(graph, graph.new, h, scale, builder, device)
    scores = clip(score_samples(netgpt, samples, settings.language.token_budget, bar("ratings", "pack")))
    for record, score, level in zip(records, scores, to_level(scores), strict=True):
        yield Rating(record.id, int(level), float(score))
