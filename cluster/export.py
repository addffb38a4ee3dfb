"""A finished run's language model as a folder for `transformers`."""

from __future__ import annotations

from pathlib import Path

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import bar
from netgpt.trainers.stages.base import Tools
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of


def last_language_stage(run: Run) -> LanguageStage:
    """The last stage of a whole run that trains a language model with the graph. ClusterError without one."""
    if not (trained := language_stages(run)):
        raise ClusterError(f"{run.path}: found no language stage with the graph, expected one")
    return trained[-1]


def language_stages(run: Run) -> list[LanguageStage]:
    """Those of a whole run that train a language model with the graph."""
    stages = [stage_of(name) for name in run.stages]
    return [one for one in stages if isinstance(one, LanguageStage) and one.with_graph]


def export(run: Run, out: Path) -> None:
    """Write `out`, whole or not at all. ClusterError where the last stage is not done or `out` is there."""
    if out.exists():
        raise ClusterError(f"{out}: already there; remove it or choose another --out")
    run.require_trained()
    stage = last_language_stage(run)

    import torch
    from transformers import AutoConfig

    from netgpt.trainers.language.model import export as writer
    from netgpt.trainers.language.model.netgpt import NetGPT

    assembly = stage.finished(
        run.job(stage.name), Tools(run.store, run.task, lambda unit: bar("export", unit))
    )
    graph = stage.graph(assembly)
    assert graph is not None
    netgpt = stage.trained_model(assembly, len(graph.mean))
    assert isinstance(netgpt, NetGPT)
    writer.export(
        out,
        netgpt,
        assembly.builder.tokenizer,
        mean=torch.from_numpy(graph.mean),
        length=graph.length,
        dtype=AutoConfig.from_pretrained(assembly.base_path).dtype,
    )
