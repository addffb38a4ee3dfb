"""Commands that measure."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measurements, beside a peer of the same call.", no_args_is_help=True)


@app.callback()
def _several() -> None:
    """Keeps `build` a command of its own while it is the only one."""


@app.command()
def build(
    edges: Annotated[list[int] | None, typer.Option(help="Edges of a list; again for more sizes.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="Scale of synthetic records; again for more.")
    ] = None,
    memory: Annotated[str, typer.Option("--memory", help="The builder's budget for edge lists.")] = "200MB",
    dtype: Annotated[str, typer.Option(help="Numbers of the edge lists: int64 or int32.")] = "int64",
    peer_edges: Annotated[int, typer.Option(help="Largest size for the peers.")] = 100_000_000,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the data; default: the system's.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Stores built, opened, verified and packed, beside PyG's and torch's conversions in memory.

    Without sizes: edge lists of 1 and 10 million, and synthetic records at scale 0.05.
    """
    from cluster.bench.build import bench_edges, bench_synth, line
    from cluster.errors import ClusterError
    from cluster.stores import memory_size

    if dtype not in ("int32", "int64"):
        raise ClusterError(f"--dtype: found {dtype!r}, expected int32 or int64")
    if min([*(edges or []), *(scale or [])], default=1) <= 0:
        raise ClusterError("bench build: found a size of 0 or below, expected numbers above 0")
    if not edges and not scale:
        edges, scale = [1_000_000, 10_000_000], [0.05]
    for result in chain(
        bench_edges(edges or [], memory_size(memory), peer_edges, scratch, dtype),
        bench_synth(scale or [], peer_edges, scratch),
    ):
        print(json.dumps(result) if as_json else line(result), flush=True)
