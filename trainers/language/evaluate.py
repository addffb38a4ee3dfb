"""What the finished language stages of a run say of its states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from graphstore import Store
from trainers.evaluate import Scores
from trainers.language import load
from trainers.language.generation import UNPARSED, generated_levels
from trainers.language.model.netgpt import NetGPT, PackedLM
from trainers.language.samples import GraphStates, Samples
from trainers.language.scoring import expected_level, level_log_probs, score_samples
from trainers.language.text.prompt import PromptBuilder
from trainers.language.train import WEIGHTS
from trainers.settings import Settings
from trainers.splits import Splits

GENERATED_PARTS = ("val", "test")
Progress = Callable[[int, int], None]


def language_scores(
    run: Path,
    store: Store,
    settings: Settings,
    splits: Splits,
    device: torch.device,
    found: Scores,
    progress: Progress,
) -> None:
    """Add the scores of every finished language stage; every rank calls this.

    A stage that learns a response is measured by its likeliest level (stage 2 by its mean level too) and,
    on the validation and test states, by the level of a generated text.
    """
    budget, num = settings.language.token_budget, store.num_nodes["video"]
    ids = np.sort(np.concatenate(list(splits.named().values())))
    judged = np.sort(np.concatenate([splits.named()[part] for part in GENERATED_PARTS]))

    def spread(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
        whole = np.zeros(num)
        whole[nodes] = values
        return whole

    for stage in ("stage2", "stage3", load.LORA):
        if not (run / stage / WEIGHTS).exists():
            continue
        builder, graph, model = _opened(run, store, settings, stage, device)

        def samples(
            nodes: np.ndarray, builder: PromptBuilder = builder, graph: GraphStates | None = graph
        ) -> Samples:
            return load.make_samples(run, store, settings, builder, nodes, graph, device)

        if stage == "stage3":
            assert isinstance(model, NetGPT)
            found.add(stage, spread(ids, score_samples(model, samples(ids), budget, progress)))
            continue
        log_probs = level_log_probs(model, samples(ids), budget, progress)
        found.add(stage, spread(ids, log_probs.argmax(1)))
        if stage == "stage2":
            found.add("stage2_mean", spread(ids, expected_level(log_probs)))
        levels = generated_levels(model, samples(judged), budget, progress)
        values = np.where(levels == UNPARSED, np.nan, levels)
        found.add(f"{stage}_generated", spread(judged, values), GENERATED_PARTS)


def _opened(
    run: Path, store: Store, settings: Settings, stage: str, device: torch.device
) -> tuple[PromptBuilder, GraphStates | None, PackedLM]:
    with_graph = stage != load.LORA
    graph = load.graph_states(run, store, settings) if with_graph else None
    builder = load.prompt_builder(run, settings, with_graph=with_graph)
    width = 0 if graph is None else len(graph.mean)
    return builder, graph, load.load_model(run, settings, builder, stage, width, device)
