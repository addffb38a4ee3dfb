"""A finished run's language model as a folder for `transformers`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import indent
from typing import Any

from omegaconf import OmegaConf

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import EVALUATION, Run
from netgpt.cluster.progress import bar
from netgpt.trainers.stages.base import Tools
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of


def language_stages(run: Run) -> list[LanguageStage]:
    """Those of a whole run that train a language model with the graph."""
    stages = [stage_of(name) for name in run.stages]
    return [one for one in stages if isinstance(one, LanguageStage) and one.with_graph]


def export(run: Run, out: Path) -> None:
    """Write `out`, whole or not at all, with a card. ClusterError where the last stage is not done or `out`
    is there, and for a run that trains no language model."""
    if out.exists():
        raise ClusterError(f"{out}: already there; remove it or choose another --out")
    run.require_trained()
    trained = [one for one in map(stage_of, run.stages) if isinstance(one, LanguageStage)]
    if not trained:
        raise ClusterError(f"{run.path}: found no stage of a language model, expected one")
    stage = trained[-1]

    import torch
    from transformers import AutoConfig

    from netgpt.trainers.graph.train import load_model
    from netgpt.trainers.language.model import export as writer
    from netgpt.trainers.language.model.lora import merged
    from netgpt.trainers.language.model.netgpt import NetGPT

    assembly = stage.finished(
        run.job(stage.name), Tools(run.store, run.task, lambda unit: bar("export", unit))
    )
    graph, card = stage.graph(assembly), model_card(run, stage)
    model = stage.trained_model(assembly, 0 if graph is None else len(graph.mean))
    dtype, tokenizer = AutoConfig.from_pretrained(assembly.base_path).dtype, assembly.builder.tokenizer
    if graph is None:
        writer.export_plain(out, merged(model), tokenizer, card, dtype=dtype)
        return
    assert isinstance(model, NetGPT)
    document, head = assembly.builder.document, None
    left_out = [field.name for field, gone in zip(document.fields, assembly.hidden, strict=True) if gone]
    if model.start == "graph":
        head = load_model(run.path / "stage1", run.store, run.task, torch.device("cpu")).predictor
    base = Path(assembly.base_path)
    writer.export(
        out,
        model,
        tokenizer,
        card,
        mean=torch.from_numpy(graph.mean),
        length=graph.length,
        dtype=dtype,
        said=writer.prompt_parts(assembly.builder, run.task, left_out),
        graph_head=head,
        beside=sorted(base.glob("*processor_config.json")) if base.is_dir() else (),
    )


OF_GRAPH = """Prompts begin with a graph token: the vector of a node by the run's graph model, scaled and
projected by what `netgpt.safetensors` holds. Without it answers are not those that were measured.
`scorer.py` in this folder gives them, with torch, transformers and safetensors alone."""
OF_TEXT = "Prompts are those of the run's document, in the chat template of this folder's tokenizer."
CARD = """---
library_name: transformers
tags: [graph, netgpt]
---

# {name}

{title}: it answers with a {noun} for rows of {data}.

- base model: {base}
- stages: {stages}
- data: store {store:.16}, source {source:.16}; trained on {train}, measured on {test}
- seed: {seed}

{measured}## Limits

It was measured on the examples above alone, which says nothing of another source, or of a time far from
theirs.
{reads}

The configuration that made it:

{config}
"""


def model_card(run: Run, stage: LanguageStage) -> str:
    """What the folder is, for those who find it: its README.md, whose head the hub reads."""
    config, store, task = run.config, run.store, run.task
    measured, model = "", Path(config.language.model).name
    if run.is_done(EVALUATION):
        from netgpt.trainers.tasks.evaluate import metrics_table

        table = metrics_table(run.metrics(), task, run.titles, run.apart, run.intervals())
        measured = f"## Measured\n\n{indent(table, '    ')}\n\n"
    said = OmegaConf.to_yaml(OmegaConf.create(_without_folders(asdict(config))))
    return CARD.format(
        name=run.path.name,
        title=f"{stage.title[:1].upper()}{stage.title[1:]} of a run of netgpt",
        noun=task.noun,
        data=store.dataset.title,
        base="a small random Qwen2-VL" if model == "tiny" else model,
        stages=", ".join(run.stages),
        store=store.digest,
        source=store.attributes["source_digest"],
        train=task.said_train,
        test=task.said_test,
        seed=config.seed,
        measured=measured,
        reads=OF_GRAPH if stage.with_graph else OF_TEXT,
        config=indent(said.rstrip(), "    "),
    )


def _without_folders(value: Any) -> Any:
    """Settings without the folders of the machine that a run was made on: of a path its last name."""
    if isinstance(value, dict):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    is_path = isinstance(value, str) and value[:1] in ("/", "~", ".") and "/" in value
    return Path(value).name if is_path else value
