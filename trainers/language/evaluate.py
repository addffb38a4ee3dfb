"""What the finished language stages of a run say of its states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from netgpt.graphstore import Store
from netgpt.trainers.evaluate import Scores
from netgpt.trainers.language import load
from netgpt.trainers.language.generation import UNPARSED, generated_levels
from netgpt.trainers.language.model.netgpt import NetGPT
from netgpt.trainers.language.scoring import expected_level, level_log_probs, score_samples
from netgpt.trainers.settings import Settings
from netgpt.trainers.splits import make_splits

GENERATED_PARTS = ("val", "test")
Progress = Callable[[int, int], None]


def language_scores(
    run: Path,
    store: Store,
    settings: Settings,
    stages: list[str],
    device: torch.device,
    found: Scores,
    progress: Progress,
) -> None:
    """Add the scores of finished language stages, by name; every rank calls this.

    A stage that learns a response is measured by its likeliest level (stage 2 by its mean level too) and,
    on the validation and test states, by the level of a generated text.
    """
    for stage in stages:
        _stage_scores(run, store, settings, stage, device, found, progress)  # one model in memory at a time


def _stage_scores(
    run: Path,
    store: Store,
    settings: Settings,
    stage: str,
    device: torch.device,
    found: Scores,
    progress: Progress,
) -> None:
    budget, named = settings.language.token_budget, make_splits(store, settings.graph.val_share).named()
    ids = np.sort(np.concatenate(list(named.values())))
    judged = np.sort(np.concatenate([named[part] for part in GENERATED_PARTS]))
    with_graph = stage != load.LORA
    graph = load.graph_states(run, store, settings) if with_graph else None
    builder = load.prompt_builder(run, settings, with_graph=with_graph)
    width = 0 if graph is None else len(graph.mean)
    model = load.load_model(run, settings, builder, stage, width, device)
    samples = load.make_samples(run, store, settings, builder, ids, graph, device)

    def spread(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
        whole = np.zeros(store.num_nodes["video"])
        whole[nodes] = values
        return whole

    if isinstance(model, NetGPT) and stage == "stage3":
        found.add(stage, spread(ids, score_samples(model, samples, budget, progress)))
        return
    log_probs = level_log_probs(model, samples, budget, progress)
    found.add(stage, spread(ids, log_probs.argmax(1)))
    if stage == "stage2":
        found.add("stage2_mean", spread(ids, expected_level(log_probs)))
    samples = load.make_samples(run, store, settings, builder, judged, graph, device)
    levels = generated_levels(model, samples, budget, progress)
    values = np.where(levels == UNPARSED, np.nan, levels)
    found.add(f"{stage}_generated", spread(judged, values), GENERATED_PARTS)
