"""The command line. Machine output goes to standard output, progress and logs to standard error.

Exit status: 0 on success; 2 for wrong usage or bad input, with one line that says what and where;
1 for anything else.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="netgpt",
    help="Training of large graph models: a heterogeneous graph joined to a large language model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[str, typer.Option("--config", help="demo, sample, xs-video, or a YAML file.")]
Data = Annotated[Path | None, typer.Option("--data", help="Released records (JSON).")]
StorePath = Annotated[Path | None, typer.Option("--store", help="A sealed store.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder (default runs/CONFIG).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as graph.epochs=5.")
]


@app.command()
def build(
    source: Annotated[Path, typer.Argument(help="Released records (JSON), or EDGES.yaml: any edge lists.")],
    out: Annotated[Path, typer.Option("--out", help="The store to make.")],
    layout: Annotated[str, typer.Option(help="prefix or csr.")] = "prefix",
    encoder: Annotated[str, typer.Option(help="Text encoder: hash:DIM.")] = "hash:256",
    ties: Annotated[str, typer.Option(help="include or strict: heads of the tail's own day.")] = "include",
    on_error: Annotated[str, typer.Option("--on-error", help="fail or skip: bad records.")] = "fail",
    video_dim: Annotated[int, typer.Option("--video-dim", help="Width of video features.")] = 3584,
    time_dim: Annotated[int, typer.Option("--time-dim", help="Width of encoded times.")] = 32,
    train_until: Annotated[
        str, typer.Option("--train-until", help="Last post date of train.")
    ] = "2024-12-20",
    memory: Annotated[
        str | None, typer.Option("--memory", help="For edge lists: such as 500MB; default 4GB.")
    ] = None,
) -> None:
    """Build a sealed graph store from released records, or from any typed edge lists.

    Options other than --out and --memory are of records.
    """
    from cluster.errors import ClusterError
    from cluster.pipeline import build_edge_store, build_store
    from graphstore import BuildConfig

    config = BuildConfig(
        layout=layout,  # type: ignore[arg-type]  # checked by BuildConfig
        ties=ties,
        encoder=encoder,
        time_dim=time_dim,
        video_dim=video_dim,
        train_until=train_until,
        on_error=on_error,  # type: ignore[arg-type]
    )
    if source.suffix in (".yaml", ".yml"):
        if config != BuildConfig():
            raise ClusterError("build: found options of records, expected --out and --memory for edge lists")
        build_edge_store(source, out, memory or "4GB")
    elif memory is not None:
        raise ClusterError(f"--memory: found {memory!r}, expected it with edge lists (EDGES.yaml) alone")
    else:
        build_store(source, out, config)
    _say(f"{out}: built")


@app.command()
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
    from cluster.errors import ClusterError
    from cluster.pipeline import records_bar
    from graphstore import BuildConfig
    from graphstore.xsvideo.synth import build_synthetic, write_synthetic

    if json_file is None and out is None:
        raise ClusterError("synth: found neither --json nor --out, expected at least one")
    if out is None:
        assert json_file is not None
        num = write_synthetic(json_file, scale, seed)
    else:
        config = BuildConfig(layout=layout)  # type: ignore[arg-type]
        with records_bar("synth") as progress:
            num = build_synthetic(out, scale, seed, config, json_file=json_file, progress=progress)
    _say(f"{num:,} states in {' and '.join(str(path) for path in (json_file, out) if path)}")


@app.command()
def info(
    store: Annotated[Path, typer.Argument(help="A sealed store.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """What a store holds."""
    import graphstore
    from graphstore.info import describe, table

    found = describe(graphstore.open(str(store)))
    print(json.dumps(found, ensure_ascii=False) if as_json else table(found))


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="A sealed store.")]) -> None:
    """Read every byte of a store and name what is damaged."""
    import graphstore
    from cluster.predict import bar

    problems = graphstore.verify(store, bar("verify", " files"))
    for problem in problems:
        _say(f"{store}: {problem}")
    if problems:
        raise typer.Exit(2)
    _say(f"{store}: sound")


def _execute(
    stages: list[str] | None,
    config: str,
    data: Path | None,
    store: Path | None,
    out: Path | None,
    overrides: list[str] | None,
) -> Any:
    from cluster.config import load_config
    from cluster.pipeline import Run, locked

    settings = load_config(config, overrides)
    path = out or Path("runs") / Path(config).stem
    with locked(path):
        run = Run.start(path, settings, data, store)
        run.execute([s for s in run.stages if stages is None or s in stages])
    return run


@app.command()
def run(
    config: Config = "demo",
    data: Data = None,
    store: StorePath = None,
    out: Out = None,
    overrides: Overrides = None,
) -> None:
    """The whole pipeline; started again, it goes on where it stopped."""
    from trainers.evaluate import metrics_table

    done = _execute(None, config, data, store, out, overrides)
    print(metrics_table(done.metrics()))
    _say(f"run: {done.path}   predictions: {done.path / 'predictions.parquet'}")


def _single_stage(name: str, stages: list[str], text: str) -> None:
    """Register a command that runs some stages of `run` alone."""

    def command(
        config: Config = "demo",
        data: Data = None,
        store: StorePath = None,
        out: Out = None,
        overrides: Overrides = None,
    ) -> None:
        _execute(stages, config, data, store, out, overrides)

    app.command(name, help=text)(command)


_single_stage("pretrain", ["stage1"], "Stage 1 alone: RGCN pretraining.")
_single_stage("embed", ["embeddings"], "The embedding cache alone: exact inference over all neighbours.")
_single_stage("align", ["base", "stage2"], "Stage 2 alone: supervised language fine-tuning of the projector.")
_single_stage("rate", ["stage3"], "Stage 3 alone: task-oriented predictor fine-tuning.")


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


@app.command()
def evaluate(
    run_path: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Metrics of a run by stage and split, beside the baselines."""
    from cluster.pipeline import Run, locked
    from trainers.evaluate import metrics_table

    found = Run.open_(run_path)
    with locked(run_path):
        found.execute(["evaluation"])
    print(json.dumps(found.metrics()) if as_json else metrics_table(found.metrics()))


@app.command()
def predict(
    run_path: RunPath,
    data: Annotated[Path, typer.Option("--data", help="Records of new videos; the level may be absent.")],
    out: Annotated[Path | None, typer.Option("--out", help="JSON lines (default standard output).")] = None,
) -> None:
    """Rate new videos with a finished run."""
    from cluster.pipeline import Run
    from cluster.predict import predict as ratings
    from graphstore.files import atomic_file

    lines = [rating.to_json() + "\n" for rating in ratings(Run.open_(run_path), data)]
    if out is None:
        sys.stdout.writelines(lines)
    else:
        with atomic_file(out) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        _say(f"{out}: {len(lines)} ratings")


bench_app = typer.Typer(
    help="Measurements, as JSON lines beside a peer of the same call.", no_args_is_help=True
)
app.add_typer(bench_app, name="bench")


@bench_app.command("build")
def bench_build_command(
    edges: Annotated[list[int] | None, typer.Option(help="Edges; give it again for more sizes.")] = None,
    memory: Annotated[str, typer.Option("--memory", help="The builder's budget.")] = "200MB",
    peer_edges: Annotated[int, typer.Option(help="Largest size for the peer.")] = 100_000_000,
    scratch: Annotated[Path | None, typer.Option(help="Folder for the data; default: the system's.")] = None,
) -> None:
    """Edge lists in random order to a store, beside PyG's sort in memory."""
    from cluster.bench.build import bench_build
    from cluster.pipeline import memory_size

    for result in bench_build(edges or [1_000_000, 10_000_000], memory_size(memory), peer_edges, scratch):
        print(json.dumps(result), flush=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _is_bad_input(error: BaseException) -> bool:
    """Our own errors, each the one line that the person needs."""
    package = type(error).__module__.split(".")[0]
    return isinstance(error, ValueError) and package in ("graphstore", "sampler", "trainers", "cluster")


def main() -> None:
    try:
        app()  # leaves with 0, or with 2 after a message about wrong usage
    except Exception as error:
        if _is_bad_input(error):
            _say(f"netgpt: {' '.join(str(error).splitlines())}")
            sys.exit(2)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            where = f" for {error.filename}" if error.filename else ""
            _say(
                f"netgpt: no room on the disk{where} ({error.strerror}); make room and run the command again"
            )
            sys.exit(1)
        traceback.print_exc()
        _say(f"netgpt: failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        sys.exit(1)
