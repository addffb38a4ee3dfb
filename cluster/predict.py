"""Ratings of new videos by a finished run: nothing is retrained, nothing is written to the store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from netgpt.cluster.features.inline import inline_encoders
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import bar
from netgpt.graphstore.xsvideo.extend import ExtendedGraph
from netgpt.graphstore.xsvideo.records import read_records
from netgpt.trainers.graph.exact import cache_digests, cached_mean_scores, embed
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import MODEL
from netgpt.trainers.graph.train import load_model as load_graph_model
from netgpt.trainers.metrics import clip, to_level


@dataclass(frozen=True)
class Rating:
    id: str
    level: int
    score: float

    def to_json(self) -> str:
        return json.dumps(
            {"id": self.id, "level": self.level, "score": round(self.score, 6)}, ensure_ascii=False
        )


def predict(
    run: Run,
    data: Path,
    *,
    text: str | None = None,
    video: str | None = None,
    videos: str | None = None,
) -> Iterator[Rating]:
    """Rate the records of a file, whose level may be absent, in the file's order.

    Their keys and history resolve against the run's store and the file together; their texts go through
    the run's encoder (or `text`, where the run does not name it), and the files of the folder `videos`
    through its vision tower (or `video`); without `videos` they have the zero vector. Raises RecordError,
    also for an id that the store already has.
    """
    run.require_trained()
    known = frozenset(run.store.ids)
    records = list(
        read_records(
            data,
            require_level=False,
            known_ids=known,
            bad_numbers=run.store.attributes["build"].get("bad_numbers", "refuse"),
        )
    )
    cluster = run.config.cluster
    on_gpu = cluster.device == "cuda" or (cluster.device == "auto" and torch.cuda.is_available())
    device = torch.device("cuda" if on_gpu else "cpu")
    features = run.config.features
    features = replace(
        features,
        text=text or features.text,
        video=(video or features.video) if videos is not None else "",
        videos=videos or "",
    )
    texts, clips = inline_encoders(features, run.store, records, device.type)
    graph = ExtendedGraph(run.store, records, file=str(data), text=texts, video=clips)

    # Here and not above: bad input is refused before transformers is imported
    from netgpt.trainers.language.load import graph_states, load_model, pixel_folder, prompt_builder
    from netgpt.trainers.language.model.netgpt import NetGPT
    from netgpt.trainers.language.samples import Samples
    from netgpt.trainers.language.scoring import score_samples
    from netgpt.trainers.language.text.fields import ablated_fields
    from netgpt.trainers.language.text.tokens import Tokens

    settings = run.config.settings
    torch.set_num_threads(cluster.threads)
    model = load_graph_model(run.path / "stage1", run.store, device)
    tables = FeatureTables(graph, device, max_bytes=0, hidden_types=model.shape.hidden_types)
    memory_bytes = settings.graph.inference_bytes
    digests = cache_digests(run.path / "stage1" / MODEL, run.store)
    h, graph_scores = embed(
        model,
        tables,
        memory_bytes=memory_bytes,
        progress=bar("embeddings", "relation"),
        # What is asked for together must not change each other's ratings
        mean_scores=cached_mean_scores(run.path / "embeddings", digests),
    )
    builder = prompt_builder(run.path, settings)
    netgpt = load_model(run.path, settings, builder, "stage3", h.shape[1], device)
    assert isinstance(netgpt, NetGPT)
    tokens = builder.tokenize((graph.ids[v], graph.texts[v]) for v in graph.new.tolist())
    # The scale is the train states': the run's, also for states of another graph
    states = graph_states(run.path, run.store, settings)
    samples = Samples(
        graph.new,
        Tokens.of(tokens, first=int(graph.new[0])) if len(records) else Tokens.of([]),
        builder,
        device,
        replace(states, embeddings=h, scores=None if states.scores is None else graph_scores),
        names=graph.ids,
        pixels=pixel_folder(run.path, settings, builder),
    ).without(ablated_fields(settings.graph.ablation))
    scores = clip(score_samples(netgpt, samples, settings.language.token_budget, bar("ratings", "pack")))
    for record, score, level in zip(records, scores, to_level(scores), strict=True):
        yield Rating(record.id, int(level), float(score))
