"""Commands that measure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from netgpt.graphstore.json_stream import json_text

app = typer.Typer(help="Measurements, beside a peer of the same call.", no_args_is_help=True)

Scratch = Annotated[
    Path | None,
    typer.Option(help="Folder for what it writes; default: the system's.", exists=True, file_okay=False),
]


def _show(results: Iterable[dict[str, Any]], line: Callable[[dict[str, Any]], str], as_json: bool) -> None:
    """Each result as it comes, as JSON or as text."""
    for result in results:
        print(json_text(result) if as_json else line(result), flush=True)


@app.command()
def build(
    edges: Annotated[list[int] | None, typer.Option(help="Edges of a list; again for more sizes.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="Scale of synthetic records; again for more.")
    ] = None,
    tables: Annotated[
        list[int] | None, typer.Option(help="Edges of a table whose ends are texts; again for more.")
    ] = None,
    memory: Annotated[str, typer.Option("--memory", help="The builder's budget for edges.")] = "200MB",
    dtype: Annotated[str, typer.Option(help="Numbers of the edge lists: int64 or int32.")] = "int64",
    peer_edges: Annotated[int, typer.Option(help="Largest size for the peers.")] = 100_000_000,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Stores built, opened, verified and packed, beside PyG's and torch's conversions in memory.

    Of tables: beside DuckDB's and pandas' joins, where they are installed.
    Without sizes: edge lists of 1 and 10 million, and synthetic records at scale 0.05.
    """
    from netgpt.cluster.bench.build import bench_edges, bench_synth, line
    from netgpt.cluster.bench.tables import bench_tables
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.stores import memory_size

    if dtype not in ("int32", "int64"):
        raise ClusterError(f"--dtype: found {dtype!r}, expected int32 or int64")
    if min([*(edges or []), *(tables or []), *(scale or [])], default=1) <= 0:
        raise ClusterError("bench build: found a size of 0 or below, expected numbers above 0")
    if not edges and not tables and not scale:
        edges, scale = [1_000_000, 10_000_000], [0.05]
    results = chain(
        bench_edges(edges or [], memory_size(memory), peer_edges, scratch, dtype),
        bench_tables(tables or [], memory_size(memory), peer_edges, scratch),
        bench_synth(scale or [], peer_edges, scratch),
    )
    _show(results, line, as_json)


@app.command()
def scaling(
    data: Annotated[Path | None, typer.Option("--data", help="Records; default: synthetic ones.")] = None,
    scale: Annotated[float, typer.Option(help="Scale of the synthetic records.")] = 1.0,
    share: Annotated[list[float] | None, typer.Option(help="Part of the data; again for more.")] = None,
    workers: Annotated[list[int] | None, typer.Option(help="Training workers; again for more.")] = None,
    hidden: Annotated[int, typer.Option(help="Width of node embeddings.")] = 64,
    fanout: Annotated[int, typer.Option(help="Heads sampled a relation and hop.")] = 20,
    steps: Annotated[int, typer.Option(help="Optimiser steps of stage 2.")] = 20,
    out: Annotated[Path, typer.Option("--out", help="Folder for scaling.json and scaling.png.")] = Path("."),
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Time, memory and throughput against the size of the graph and the number of workers, with a picture.

    Without --share: 1, 3, 10, 30 and 100% of the data, nested, by topic and by time.
    """
    from netgpt.cluster.bench.scaling import ScalingBench, bench_scaling, line, summary
    from netgpt.cluster.bench.scaling_plot import plot
    from netgpt.graphstore.files import write_json

    default = ScalingBench()
    config = ScalingBench(
        scale=scale,
        shares=tuple(share or default.shares),
        workers=tuple(workers or default.workers),
        hidden=hidden,
        fanout=fanout,
        steps=steps,
    )
    results = []
    for result in bench_scaling(config, data, scratch):
        results.append(result)
        _show([result], line, as_json)
        fits = summary(config, results)
        write_json(out / "scaling.json", {**fits, "results": results})  # as far as it came
    plot(results, out / "scaling.png")
    _show([fits], line, as_json)


@app.command()
def recommend(
    data: Annotated[Path | None, typer.Option("--data", help="Pairs of users and items.")] = None,
    config: Annotated[str, typer.Option("--config", help="A recipe with a recommender.")] = "lightgcn-ml1m",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, popularity, itemknn or ease, with settings behind it; again for more."),
    ] = None,
    split: Annotated[list[str] | None, typer.Option(help="build.split; again for more.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of split and training; again for more.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="Made pairs: 1.0 is 1 M users, 1 M items, 50 M rows.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of a step and of a ranking.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds of the speeds.")] = 5,
    peers: Annotated[str, typer.Option(help="A Python that has implicit or Cornac.")] = "",
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Recommenders: with --model their metrics by split and seed; without it speeds, beside peers.

    Speeds are on --data, or on made pairs; with --scale alone an exact step and a ranking of that size.
    """
    from netgpt.cluster.bench.recommend import (
        ModelsBench,
        SpeedBench,
        bench_models,
        bench_source,
        line,
    )
    from netgpt.cluster.bench.recommend_scale import bench_scale
    from netgpt.cluster.errors import ClusterError

    if model:
        if data is None:
            raise ClusterError("bench recommend: found --model without --data, expected pairs to train on")
        asked = ModelsBench(config, data, model, split or (), seed or (0,), overrides or ())
        _show(bench_models(asked, scratch), line, as_json)
        return
    if scale:
        _show(bench_scale(scale, threads, scratch), line, as_json)
    if data is not None or not scale:
        speeds = SpeedBench(rounds=rounds, threads=threads, peers=peers)
        _show(bench_source(speeds, data, config, overrides or [], scratch), line, as_json)


@app.command()
def similar(
    tails: Annotated[int, typer.Option(help="Vectors that ask.")] = 1974,
    bank: Annotated[int, typer.Option(help="Vectors that are searched.")] = 15_790,
    width: Annotated[int, typer.Option(help="Of a vector.")] = 1024,
    k: Annotated[int, typer.Option(help="Heads of a row.")] = 10,
    earlier: Annotated[
        list[int] | None, typer.Option(help="So many nodes that each find earlier ones; again for more.")
    ] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    rounds: Annotated[int, typer.Option(help="Rounds; a figure is their median.")] = 5,
    peers: Annotated[str, typer.Option(help="A Python that has faiss or usearch.")] = "",
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """The nearest by inner product, exactly, beside numpy and, where a Python has them, faiss and usearch."""
    from netgpt.cluster.bench.similar import SimilarBench, bench_earlier, bench_search, line
    from netgpt.cluster.errors import ClusterError

    if min(tails, bank, width, k, threads, rounds, *(earlier or [1])) < 1 or k > bank:
        raise ClusterError("bench similar: found a size below 1 or k above the bank, expected others")
    config = SimilarBench(
        tails=tails, bank=bank, width=width, k=k, threads=threads, rounds=rounds, peers=peers
    )
    found = bench_search(config, scratch) if not earlier else iter(())
    _show(chain(found, *(bench_earlier(config, num, scratch) for num in earlier or [])), line, as_json)


@app.command()
def multimodal(
    data: Annotated[Path, typer.Option("--data", help="A source of the recipe's data set.")],
    config: Annotated[str, typer.Option("--config", help="A recipe with the stage.")] = "mmra-microlens",
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model, svr or hyfea, with settings behind it; again for more."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of split and training; again for more.")] = None,
    features: Annotated[
        Path | None, typer.Option("--features", help="What netgpt features made of this source.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Models of modalities and retrieved neighbours by split, beside baselines, paired with a ridge
    regression."""
    from netgpt.cluster.bench.multimodal import MultimodalBench, bench_multimodal, line

    asked = MultimodalBench(config, data, model or ["mmra"], seed or (0,), features, overrides or ())
    _show(bench_multimodal(asked, scratch), line, as_json)


@app.command()
def shots(
    data: Annotated[Path, typer.Option("--data", help="A source of the recipe's data set.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs; what is done there is kept.")],
    config: Annotated[str, typer.Option("--config", help="A recipe with the stages.")] = "smpd-demo",
    k: Annotated[list[int] | None, typer.Option("--shots", help="Posts shown; again for more.")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Of tune, or none: the model as it is; again for more.")
    ] = None,
    loss: Annotated[list[str] | None, typer.Option(help="Of prefer; again for more.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of training; again for more.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Few-shot prompts by shots, tuning, loss and seed, beside baselines and the paper's figures."""
    from netgpt.cluster.bench.shots import ShotsBench, bench_shots, line

    asked = ShotsBench(
        config,
        data,
        out,
        k or (1, 2, 3),
        method or ("none", "lora"),
        loss or ("dpo", "dpop", "idpop"),
        seed or (0,),
        overrides or (),
    )
    _show(bench_shots(asked), line, as_json)


@app.command()
def pairs(
    model: Annotated[str, typer.Option(help="tiny, or a folder of a language model.")] = "tiny",
    method: Annotated[str, typer.Option(help="Of tune.")] = "lora",
    num: Annotated[int, typer.Option("--pairs", min=1, help="Pairs.")] = 32,
    budget: Annotated[int, typer.Option(min=1024, help="Tokens of a pack.")] = 4096,
    padded: Annotated[int, typer.Option(min=1, help="Pairs of a padded batch.")] = 8,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Alignment's forward and backward: a prompt for both answers, one for each, and padded."""
    from netgpt.cluster.bench.pairs import PairsBench, bench_pairs, line

    asked = PairsBench(
        model=model, method=method, num=num, budget=budget, padded=padded, threads=threads, rounds=rounds
    )
    _show(bench_pairs(asked, scratch), line, as_json)


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run.")],
    data: Annotated[Path, typer.Option("--data", help="Records that are sent: JSON lines.")],
    clients: Annotated[
        list[int] | None, typer.Option("--clients", help="At once (default 1, 8, 64); again for more.")
    ] = None,
    replicas: Annotated[
        list[int] | None, typer.Option("--replicas", help="Default 1; again for more.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", help="Of each number of clients.")] = 60.0,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Records answered together at most.")] = 64,
    calls: Annotated[int, typer.Option("--calls", min=0, help="Of netgpt predict; 0: none.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """A run's service under load, beside predict called each time and offline scoring."""
    from netgpt.cluster.bench.serve import ServeBench, bench_serve, line

    bench = ServeBench(
        run=run,
        data=data,
        clients=clients or (1, 8, 64),
        replicas=replicas or (1,),
        seconds=seconds,
        batch=batch,
        calls=calls,
    )
    _show(bench_serve(bench), line, as_json)


@app.command()
def pipeline(
    data: Annotated[Path, typer.Option("--data", help="Released records (JSON).")],
    config: Annotated[str, typer.Option("--config", help="demo, sample, or a YAML file.")] = "sample",
    workers: Annotated[list[int] | None, typer.Option(help="Training workers; again for more.")] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """`netgpt run` beside the same stages called directly in one process: what the pipeline adds."""
    from netgpt.cluster.bench.pipeline import bench_pipeline, line

    _show(bench_pipeline(config, data, overrides or [], workers or [1, 2], scratch), line, as_json)


@app.command()
def features(
    text: Annotated[str, typer.Option("--text", help="A transformers encoder.")],
    data: Annotated[Path | None, typer.Option("--data", help="Records; default: synthetic ones.")] = None,
    scale: Annotated[float, typer.Option(help="Scale of the synthetic records.")] = 0.02,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Text features by a pool of one encoder, beside the bare model on the same batches."""
    from netgpt.cluster.bench.features import bench_features, line

    _show(bench_features(text, overrides or [], data, scale, scratch), line, as_json)


@app.command()
def faults(
    only: Annotated[list[str] | None, typer.Option("--only", help="A fault; again for more.")] = None,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Whole runs with injected faults, compared with one without: results and time lost."""
    from netgpt.cluster.bench.faults import bench_faults, line

    _show(bench_faults(only or [], scratch), line, as_json)


@app.command()
def embed(
    store: Annotated[list[Path] | None, typer.Option(help="A store to embed; again for more.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="Scale of synthetic stores, both layouts; again for more.")
    ] = None,
    hidden: Annotated[int, typer.Option(help="Width of node embeddings.")] = 128,
    encoder: Annotated[str, typer.Option(help="rgcn, gcn, sage, han, hetsann or hgt.")] = "rgcn",
    memory: Annotated[str, typer.Option("--memory", help="Budget of exact inference.")] = "8GB",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    csr_edges: Annotated[int, typer.Option(help="Largest size for the csr layout.")] = 2_000_000_000,
    peer_edges: Annotated[int, typer.Option(help="Largest size for PyG.")] = 50_000_000,
    batches: Annotated[int, typer.Option(help="Batches of sampled training; 0: none.")] = 8,
    rounds: Annotated[int, typer.Option(help="Inferences; a figure is their median.")] = 3,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Exact inference over every edge: prefix beside csr beside PyG; and sampled training, by its parts.

    Without sizes: synthetic stores of scale 0.02 and 0.05.
    """
    from netgpt.cluster.bench.embed import EmbedBench, bench_scales, bench_store, line
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.stores import memory_size
    from netgpt.trainers.graph.encoders.names import ATTENTION, ENCODERS

    if encoder not in ENCODERS:
        raise ClusterError(f"--encoder: found {encoder!r}, expected one of {', '.join(ENCODERS)}")
    numbers = [*(scale or []), hidden, threads, rounds]
    if min(numbers) <= 0 or batches < 0:
        raise ClusterError(f"bench embed: found {min(*numbers, batches)}, expected numbers above 0")
    if encoder in ATTENTION and hidden % 4:
        raise ClusterError(f"--hidden: found {hidden}, expected a multiple of 4, the attention heads")
    if not store and not scale:
        scale = [0.02, 0.05]
    config = EmbedBench(
        hidden=hidden,
        encoder=encoder,
        memory_bytes=memory_size(memory),
        threads=threads,
        csr_edges=csr_edges,
        peer_edges=peer_edges,
        batches=batches,
        rounds=rounds,
    )
    results = chain(
        bench_scales(config, scale or [], scratch),
        (bench_store(config, path, scratch) for path in store or []),
    )
    _show(results, line, as_json)


@app.command()
def sampler(
    store: Annotated[list[Path] | None, typer.Option(help="A store to sample; again for more.")] = None,
    scale: Annotated[
        list[float] | None, typer.Option(help="Scale of synthetic stores, both layouts; again for more.")
    ] = None,
    degree: Annotated[
        list[int] | None, typer.Option(help="Degree of a random graph in memory; again for more.")
    ] = None,
    num_nodes: Annotated[int, typer.Option("--nodes", help="Nodes of the random graphs.")] = 100_000,
    fanout: Annotated[int, typer.Option(help="Heads a relation and hop.")] = 50,
    batch_size: Annotated[int, typer.Option(help="Seeds of a batch.")] = 512,
    batches: Annotated[int, typer.Option(help="Batches of a round.")] = 48,
    rounds: Annotated[int, typer.Option(help="Rounds; a figure is their median.")] = 5,
    with_ray: Annotated[bool, typer.Option("--ray/--no-ray", help="Sampling workers too.")] = True,
    with_peers: Annotated[bool, typer.Option("--peers/--no-peers", help="Other samplers too.")] = True,
    graphbolt: Annotated[str, typer.Option(help="A Python that has GraphBolt.")] = "",
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Edges sampled and relabelled a second: by threads, cold, with features, through Ray, beside others.

    Others are pyg-lib and torch-sparse where they are installed, and GraphBolt of another Python. Without
    sizes: synthetic stores of scale 0.05 and degrees of 10, 100 and 1000.
    """
    from netgpt.cluster.bench.sampler import SamplerBench, bench_degrees, bench_store, bench_synth, line
    from netgpt.cluster.errors import ClusterError

    numbers = [*(scale or []), *(degree or []), num_nodes, fanout, batch_size, batches, rounds]
    if min(numbers) <= 0:
        raise ClusterError(f"bench sampler: found {min(numbers)}, expected numbers above 0")
    if not store and not scale and not degree:
        scale, degree = [0.05], [10, 100, 1000]
    config = SamplerBench(
        fanout=fanout,
        batch_size=batch_size,
        batches=batches,
        rounds=rounds,
        with_ray=with_ray,
        with_peers=with_peers,
        graphbolt=graphbolt,
    )
    results = chain(
        bench_degrees(config, degree or [], num_nodes),
        bench_synth(config, scale or [], scratch),
        *(bench_store(config, path, path.name) for path in store or []),
    )
    _show(results, line, as_json)


@app.command()
def language(
    data: Annotated[Path | None, typer.Option(help="Released records (JSON); default: synthetic.")] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub id of a tokenizer; default: one of the records' text.")
    ] = None,
    shape: Annotated[str, typer.Option(help="tiny, 2b or 7b; weights are random.")] = "tiny",
    stage: Annotated[str, typer.Option(help="stage2 or stage3.")] = "stage3",
    budget: Annotated[int, typer.Option(help="Tokens of a pack.")] = 4096,
    max_tokens: Annotated[int, typer.Option(help="What padding pads to.")] = 4000,
    batch_size: Annotated[int, typer.Option(help="Samples of a batch padded to its longest.")] = 8,
    samples: Annotated[int, typer.Option(help="Samples of a round.")] = 64,
    padded_samples: Annotated[int, typer.Option(help="Samples of a round padded to --max-tokens.")] = 4,
    rounds: Annotated[int, typer.Option(help="Rounds; a figure is their median.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    checkpointing: Annotated[bool, typer.Option(help="Activation checkpointing.")] = False,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """Forward and backward of a language stage: packed, beside padding to a length and to the longest."""
    from netgpt.cluster.bench.language import LanguageBench, bench_language, line
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.plan.shapes import SHAPES

    for name, found, known in (
        ("--shape", shape, tuple(SHAPES)),
        ("--stage", stage, ("stage2", "stage3")),
        ("--device", device, ("cpu", "cuda")),
    ):
        if found not in known:
            raise ClusterError(f"{name}: found {found!r}, expected one of {', '.join(known)}")
    if min(budget, max_tokens, batch_size, samples, padded_samples, rounds, threads) < 1:
        raise ClusterError("bench language: found a number below 1, expected numbers from 1")
    if budget < max_tokens:
        raise ClusterError(f"--budget: found {budget}, expected at least --max-tokens ({max_tokens})")
    config = LanguageBench(
        shape=shape,
        stage=stage,
        token_budget=budget,
        max_tokens=max_tokens,
        batch_size=batch_size,
        samples=samples,
        padded_samples=min(samples, padded_samples),
        rounds=rounds,
        device=device,
        threads=threads,
        activation_checkpointing=checkpointing,
    )
    _show(bench_language(config, data, tokenizer, scratch), line, as_json)


@app.command()
def plan(
    case: Annotated[list[str] | None, typer.Option(help="A case by name; again for more.")] = None,
    scratch: Scratch = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
) -> None:
    """The plan's peak memory beside that of small stages that are run for it, on CPUs."""
    from netgpt.cluster.bench.plan import CASES, bench_plan, line
    from netgpt.cluster.errors import ClusterError

    known = {c.name: c for c in CASES}
    if unknown := sorted(set(case or []) - set(known)):
        raise ClusterError(f"--case: found {unknown[0]!r}, expected one of {', '.join(known)}")
    _show(bench_plan([known[name] for name in case or known], scratch), line, as_json)
