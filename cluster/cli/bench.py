"""Commands that measure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measurements, as JSON lines beside a peer of the same call.", no_args_is_help=True)


@app.command("build")
def bench_build_command(
    edges: Annotated[list[int] | None, typer.Option(help="Edges; give it again for more sizes.")] = None,
    memory: Annotated[str, typer.Option("--memory", help="The builder's budget.")] = "200MB",
    peer_edges: Annotated[int, typer.Option(help="Largest size for the peer.")] = 100_000_000,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the data; default: the system's.")] = None,
) -> None:
    """Edge lists in random order to a store, beside PyG's sort in memory."""
    from cluster.bench.build import bench_build
    from cluster.stores import memory_size

    for result in bench_build(edges or [1_000_000, 10_000_000], memory_size(memory), peer_edges, scratch):
        print(json.dumps(result), flush=True)
