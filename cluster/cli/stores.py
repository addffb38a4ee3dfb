"""Commands of stores: made, joined, described, checked, shipped; and those that data sets bring."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.progress import say
from netgpt.graphstore.json_stream import json_text

StoreArgument = Annotated[Path, typer.Argument(metavar="STORE", help="A sealed store.")]
OnErrorOption = Annotated[str, typer.Option("--on-error", help="fail or skip: bad records.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def build(
    source: Annotated[Path, typer.Argument(help="A source of a data set: records, or a description.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Its data set (default: the one that reads it).")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="prefix (default) or csr.")] = None,
    encoder: Annotated[str | None, typer.Option(help="Text encoder: hash:DIM (default hash:256).")] = None,
    time_dim: Annotated[int | None, typer.Option("--time-dim", help="Width of encoded times.")] = None,
    on_error: Annotated[str | None, typer.Option("--on-error", help="fail (default) or skip.")] = None,
    ties: Annotated[str | None, typer.Option(help="Of some data sets: include or strict.")] = None,
    video_dim: Annotated[
        int | None, typer.Option("--video-dim", help="Of some data sets: width of video features.")
    ] = None,
    bad_numbers: Annotated[
        str | None, typer.Option("--bad-numbers", help="Of some data sets: refuse or zero.")
    ] = None,
    similar: Annotated[
        int | None,
        typer.Option("--similar", help="Of some data sets: edges from so many nodes that are most alike."),
    ] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="What netgpt features made of this source.")
    ] = None,
    memory: Annotated[
        str | None, typer.Option("--memory", help="For listed edges: such as 500MB; default 4GB.")
    ] = None,
    options: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=VALUE of the data set's build settings.")
    ] = None,
) -> None:
    """Build a sealed graph store from released records, from any typed edge lists, or another data set."""
    from netgpt.cluster.stores import build_config, build_store, memory_size

    given = {
        "layout": layout,
        "encoder": encoder,
        "time_dim": time_dim,
        "on_error": on_error,
        "ties": ties,
        "video_dim": video_dim,
        "bad_numbers": bad_numbers,
        "similar": similar,
    }
    values = {name: value for name, value in given.items() if value is not None}
    known, config = build_config(source, dataset, values, options or [])
    memory_bytes = None if memory is None else memory_size(memory)
    build_store(source, out, config, features, dataset=known, memory_bytes=memory_bytes)
    say(f"{out}: built")


def data(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="What build takes.")],
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Its data set (default: the one that reads it).")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", help="A column of the target: how it is spread, what tells it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """What a source holds, before anything is built: tables, columns, links, bad rows, leaks."""
    from netgpt.cluster.stores import look_at
    from netgpt.graphstore.look import look_table

    facts = look_at(source, dataset, label)
    print(json_text(asdict(facts), ensure_ascii=False) if as_json else look_table(facts))


def synth(
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a source that build reads.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write a store.")] = None,
    scale: Annotated[float, typer.Option(help="1.0: the published size.")] = 1.0,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.")] = 0,
    layout: Annotated[str, typer.Option(help="prefix or csr.")] = "prefix",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Whose shape (default: the reference job's).")
    ] = None,
) -> None:
    """Generate data of a data set's shape, as its own kind of file, as a store, or both.

    Nodes and edges are the published numbers times the scale (the first data set's below 0.05: fewer
    edges of the largest relation).
    """
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.stores import synthesize

    if json_file is None and out is None:
        raise ClusterError("synth: found neither --json nor --out, expected at least one")
    num = synthesize(dataset, json_file, out, scale, seed, layout)
    say(f"{num:,} rows in {' and '.join(str(path) for path in (json_file, out) if path)}")


def append(
    store: StoreArgument,
    data: Annotated[Path, typer.Option("--data", help="A source of new rows, of the store's data set.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The new version; default: STORE-2, then STORE-3, …")
    ] = None,
    on_error: OnErrorOption = "fail",
    features: Annotated[
        Path | None, typer.Option("--features", help="What netgpt features made of these records.")
    ] = None,
) -> None:
    """New rows join a store as a new version of it; files that stay the same are shared by hard links."""
    from netgpt.cluster.stores import append_records

    made = append_records(store, data, out, on_error, features)  # type: ignore[arg-type]  # checked by BuildConfig
    say(f"{made}: built on {store}")


def similar(
    store: StoreArgument,
    by: Annotated[
        list[str], typer.Option("--by", help="A type whose features are compared; again for more.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="The new version; default: STORE-2, then STORE-3, …")
    ] = None,
    k: Annotated[int, typer.Option(help="Heads of a row.")] = 10,
    name: Annotated[str, typer.Option(help="What the relation is called.")] = "is_similar_to",
    of: Annotated[str, typer.Option(help="The type of both ends; default: the store's target.")] = "",
    time: Annotated[str, typer.Option(help="A time column: heads are earlier.")] = "",
    apart: Annotated[str, typer.Option(help="A category: no two nodes of a row have one value.")] = "",
    bank: Annotated[
        str, typer.Option(help="Which nodes may be heads: COLUMN=VALUE of a category, or COLUMN<NUMBER.")
    ] = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: all.")] = 0,
    actors: Annotated[
        int, typer.Option(min=0, help="Actors on Ray, one core each, in place of threads; 0: none.")
    ] = 0,
    probes: Annotated[
        int, typer.Option(min=0, help="Of an index of faiss the clusters looked at for a node; 0: exact.")
    ] = 0,
) -> None:
    """A relation of the most similar nodes joins a store as a new version; killed, it goes on where it
    stopped."""
    from netgpt.cluster.similar import add_similar

    made = add_similar(
        store,
        out,
        by=by,
        name=name,
        of=of,
        k=k,
        time=time,
        apart=apart,
        bank=bank,
        actors=actors,
        threads=threads or os.cpu_count() or 1,
        probes=probes,
    )
    say(f"{made}: built on {store}")


def info(
    store: StoreArgument,
    as_json: AsJson = False,
    plots: Annotated[Path | None, typer.Option("--plots", help="Folder for PNG files.")] = None,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", help="A tokenizer.json or its folder, to count tokens.")
    ] = None,
) -> None:
    """What a store holds: nodes, relations, columns, and its data set's own statistics."""
    from netgpt import graphstore
    from netgpt.cluster.errors import ClusterError
    from netgpt.graphstore.info import describe, table

    opened = graphstore.open(store)
    described = describe(opened)
    statistics = opened.dataset.statistics(opened, tokenizer)
    if statistics is None and (plots is not None or tokenizer is not None):
        raise ClusterError(
            f"{store}: found a store of {opened.dataset.title}, which has no statistics, expected one that "
            "has for --plots and --tokenizer"
        )
    if as_json:
        print(json_text({**described, "statistics": statistics}, ensure_ascii=False))
    else:
        print(table(described))
        if statistics is not None:
            print("\n" + opened.dataset.statistics_table(statistics))
    if plots is not None and statistics is not None:
        for path in opened.dataset.write_plots(statistics, plots):
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
    from netgpt.graphstore.datasets import names

    for command in (data, build, synth, append, similar, info, verify, pack, unpack):
        app.command()(command)
    for dataset in map(names.load, names.DATASETS):
        for name, of_dataset in dataset.commands().items():
            app.command(name)(of_dataset)
