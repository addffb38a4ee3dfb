"""A finished run's NetGPT as a folder for `transformers`."""

from __future__ import annotations

from pathlib import Path

import torch

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run


def export(run: Run, out: Path) -> None:
    """Write `out`, whole or not at all. ClusterError where stage 3 is not done or `out` is there."""
    if out.exists():
        raise ClusterError(f"{out}: already there; remove it or choose another --out")
    run.require_trained()

    from transformers import AutoConfig

    from netgpt.trainers.language.load import base_path, graph_states, load_model, prompt_builder
    from netgpt.trainers.language.model import export as writer
    from netgpt.trainers.language.model.netgpt import NetGPT

    settings = run.config.settings
    graph = graph_states(run.path, run.store, settings)
    builder = prompt_builder(run.path, settings)
    netgpt = load_model(run.path, settings, builder, "stage3", len(graph.mean), torch.device("cpu"))
    assert isinstance(netgpt, NetGPT)
    writer.export(
        out,
        netgpt,
        builder.tokenizer,
        mean=torch.from_numpy(graph.mean),
        length=graph.length,
        dtype=AutoConfig.from_pretrained(base_path(run.path, settings)).dtype,
    )
