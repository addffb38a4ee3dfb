"""Commands of stores: made, joined, described, checked, shipped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.progress import say

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="A sealed store.")]
OnErrorOption = Annotated[str, typer.Option("--on-error", help="fail or skip: bad records.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def build(
    source: Annotated[Path, typer.Argument(help="Released records (JSON), or EDGES.yaml: any edge lists.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    layout: Annotated[str, typer.Option(help="prefix or csr.")] = "prefix",
    encoder: Annotated[str, typer.Option(help="Text encoder: hash:DIM.")] = "hash:256",
    ties: Annotated[str, typer.Option(help="include or strict: heads of the tail's own day.")] = "include",
    on_error: OnErrorOption = "fail",
    video_dim: Annotated[int, typer.Option("--video-dim", help="Width of video features.")] = 3584,
    time_dim: Annotated[int, typer.Option("--time-dim", help="Width of encoded times.")] = 32,
    features: Annotated[
        Path | None, typer.Option("--features", help="What netgpt features made of these records.")
    ] = None,
    bad_numbers: Annotated[
        str, typer.Option("--bad-numbers", help="refuse or zero: counts that are absent or negative.")
    ] = "refuse",
    train_until: Annotated[
        str, typer.Option("--train-until", help="Last post date of train.")
    ] = "2024-12-20",
    memory: Annotated[
        str | None, typer.Option("--memory", help="For edge lists: such as 500MB; default 4GB.")
    ] = None,
) -> None:
    """Build a sealed graph store from released records, or from any typed edge lists.

    Options other than --out, --layout and --memory are of records.
    """
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.stores import build_edge_store, build_store
    from netgpt.graphstore import BuildConfig

    config = BuildConfig(
        layout=layout,  # type: ignore[arg-type]  # checked by BuildConfig
        ties=ties,
        encoder=encoder,
        time_dim=time_dim,
        video_dim=video_dim,
        train_until=train_until,
        bad_numbers=bad_numbers,  # type: ignore[arg-type]  # checked by BuildConfig
        on_error=on_error,  # type: ignore[arg-type]
    )
    if source.suffix in (".yaml", ".yml"):
        if config != BuildConfig(layout=config.layout) or features is not None:
            raise ClusterError(
                "build: found options of records, expected --out, --layout and --memory for edge lists"
            )
        build_edge_store(source, out, config.layout, memory or "4GB")
    elif memory is not None:
        raise ClusterError(f"--memory: found {memory!r}, expected it with edge lists (EDGES.yaml) alone")
    else:
        build_store(source, out, config, features)
    say(f"{out}: built")


def synth(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write released-layout records.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a store.")] = None,
    scale: Annotated[float, typer.Option(help="1.0: 117,720 videos.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    layout: Annotated[str, typer.Option(help="prefix or csr.")] = "prefix",
) -> None:
    """Generate data of XS-Video's shape, as records, as a store, or both.

    Nodes and edges are the published numbers times the scale (below 0.05, fewer same-topic edges).
    """
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.progress import counting_bar
    from netgpt.graphstore import BuildConfig
    from netgpt.graphstore.xsvideo.synth import build_synthetic, write_synthetic

    if json_file is None and out is None:
        raise ClusterError("synth: found neither --json nor --out, expected at least one")
    if out is None:
        assert json_file is not None
        num = write_synthetic(json_file, scale, seed)
    else:
        config = BuildConfig(layout=layout)  # type: ignore[arg-type]
        with counting_bar("synth", " records") as progress:
            num = build_synthetic(out, scale, seed, config, json_file=json_file, progress=progress)
    say(f"{num:,} states in {' and '.join(str(path) for path in (json_file, out) if path)}")


def append(
    store: StoreArgument,
    data: Annotated[Path, typer.Option("--data", help="Released records of new states (JSON).")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The new version; default: STORE-2, then STORE-3, …")
    ] = None,
    on_error: OnErrorOption = "fail",
    features: Annotated[
        Path | None, typer.Option("--features", help="What netgpt features made of these records.")
    ] = None,
) -> None:
    """New states join a store as a new version of it; files that stay the same are shared by hard links."""
    from netgpt.cluster.stores import append_records

    made = append_records(store, data, out, on_error, features)  # type: ignore[arg-type]  # checked by BuildConfig
    say(f"{made}: built on {store}")


def annotate(
    source: Annotated[Path, typer.Argument(metavar="JSON", help="Released records; levels may be absent.")],
    out: Annotated[Path | None, typer.Option("--out", help="Write the records with their levels.")] = None,
    pairs: Annotated[
        Path | None,
        typer.Option("--pairs", help="Fit factors: CSV with platform, indicator, x (there), y (Kuaishou)."),
    ] = None,
    factors: Annotated[
        Path | None, typer.Option("--factors", help="Given factors: JSON {platform: {indicator: factor}}.")
    ] = None,
    save_factors: Annotated[
        Path | None, typer.Option("--save-factors", help="Write the factors that were used.")
    ] = None,
    provisional: Annotated[
        bool, typer.Option("--provisional", help="With --out: also videos younger than two weeks.")
    ] = False,
    on_error: OnErrorOption = "fail",
    as_json: AsJson = False,
) -> None:
    """Rate videos by the annotation rule, and say where that differs from the levels in the records."""
    from netgpt.cluster.errors import ClusterError
    from netgpt.graphstore.files import write_json
    from netgpt.graphstore.xsvideo import annotation

    if pairs is not None and factors is not None:
        raise ClusterError("annotate: found both --pairs and --factors, expected one of them")
    used: dict[str, dict[str, float]] = {}
    if pairs is not None:
        used = annotation.read_pairs(pairs)
    elif factors is not None:
        used = annotation.read_factors(factors)
    found = annotation.annotate_file(
        source,
        out,
        factors=used,
        provisional=provisional,
        on_error=on_error,  # type: ignore[arg-type]  # checked by read_records
    )
    if save_factors is not None:
        write_json(save_factors, used)
    report = annotation.summary(found, used)
    print(json.dumps(report, ensure_ascii=False) if as_json else annotation.summary_table(report))


def info(
    store: StoreArgument,
    as_json: AsJson = False,
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder for PNG files.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer.json or its folder, to count tokens.")
    ] = None,
) -> None:
    """What a store holds: nodes, relations, and of records the statistics of the paper."""
    from netgpt import graphstore
    from netgpt.cluster.errors import ClusterError
    from netgpt.graphstore.info import describe, table
    from netgpt.graphstore.xsvideo.plots import write_plots
    from netgpt.graphstore.xsvideo.statistics import statistics, statistics_table

    opened = graphstore.open(str(store))
    found = describe(opened)
    if opened.has_records:
        found["statistics"] = statistics(opened, tokenizer)
    elif plots is not None or tokenizer is not None:
        raise ClusterError(f"{store}: found edge lists, expected records for --plots and --tokenizer")
    print(json.dumps(found, ensure_ascii=False) if as_json else table(found))
    if opened.has_records and not as_json:
        print("\n" + statistics_table(found["statistics"]))
    if plots is not None:
        for path in write_plots(found["statistics"], plots):
            say(str(path))


def verify(store: StoreArgument) -> None:
    """Read every byte of a store, and name what is damaged or points outside."""
    from netgpt import graphstore
    from netgpt.cluster.progress import bar

    problems = graphstore.verify(store, bar("verify", "B"))
    for problem in problems:
        say(f"{store}: {problem}")
    if problems:
        raise typer.Exit(2)
    say(f"{store}: sound")


def pack(
    store: StoreArgument, out: Annotated[Path, typer.Option("--out", help="The folder to make.")]
) -> None:
    """Compress a store for shipping; the result is a Zarr group too."""
    from netgpt import graphstore
    from netgpt.cluster.progress import bar
    from netgpt.graphstore.files import total_bytes

    graphstore.pack(store, out, bar("pack", "B"))
    say(f"{out}: {total_bytes(out) / 1e6:,.1f} MB of {total_bytes(store) / 1e6:,.1f}")


def unpack(
    source: Annotated[Path, typer.Argument(metavar="DIR", help="A packed store.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
) -> None:
    """Restore a packed store, byte for byte."""
    from netgpt import graphstore
    from netgpt.cluster.progress import bar

    graphstore.unpack(source, out, bar("unpack", " files"))
    say(f"{out}: the store that was packed")


def register(app: typer.Typer) -> None:
    for command in (build, synth, append, annotate, info, verify, pack, unpack):
        app.command()(command)
