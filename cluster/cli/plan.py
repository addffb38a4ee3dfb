"""The command that says what a run needs, before it is started."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.cli.run import Config, Overrides
from netgpt.graphstore.json_stream import json_text


def plan(
    config: Config = "demo",
    gpus: Annotated[int, typer.Option(help="GPUs over all nodes; 0: CPU workers.")] = 0,
    nodes: Annotated[int, typer.Option(help="Machines.")] = 1,
    gpu_memory: Annotated[float, typer.Option("--gpu-memory", help="Of a GPU, in 10^9 bytes.")] = 80.0,
    store: Annotated[
        Path | None, typer.Option("--store", help="Plan for this store (default: the published size).")
    ] = None,
    mfu: Annotated[float, typer.Option(help="Assumed share of --gpu-flops that is reached.")] = 0.4,
    gpu_flops: Annotated[
        float, typer.Option("--gpu-flops", help="Dense bfloat16 operations a second of a GPU.")
    ] = 989e12,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    overrides: Overrides = None,
) -> None:
    """Memory, disk, network and time of every stage, and the largest token budget that fits.

    Nothing is started, downloaded or loaded: models are counted without their weights.
    """
    from netgpt.cluster.plan.planner import make_plan
    from netgpt.cluster.plan.request import PlanRequest, planned_config
    from netgpt.cluster.plan.text import table

    request = PlanRequest(
        config=planned_config(config, overrides, gpus),
        gpus=gpus,
        nodes=nodes,
        gpu_memory_gb=gpu_memory,
        mfu=mfu,
        gpu_flops=gpu_flops,
        store=store,
    )
    made = make_plan(request)
    print(json_text(made.to_dict()) if as_json else table(made))


def register(app: typer.Typer) -> None:
    app.command()(plan)
