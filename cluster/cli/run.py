"""Commands of runs: the pipeline, its stages, and what a finished run answers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from netgpt.cluster.progress import say
from netgpt.graphstore.json_stream import json_text
from netgpt.trainers.stages.names import commands

if TYPE_CHECKING:
    from netgpt.cluster.pipeline.run import Run

Config = Annotated[str, typer.Option("--config", help="A recipe: demo, sample, … (or its YAML file).")]
Data = Annotated[Path | None, typer.Option("--data", help="A source of the recipe's data set.")]
StorePath = Annotated[Path | None, typer.Option("--store", help="A sealed store.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder (default runs/CONFIG).")]
Text = Annotated[str | None, typer.Option("--text", help="features.text: a transformers encoder.")]
Video = Annotated[
    str | None, typer.Option("--video", help="features.video: a Qwen2-VL, or with --frames a ViT, …")
]
Videos = Annotated[str | None, typer.Option("--videos", help="features.videos: folder of ID.mp4.")]
Frames = Annotated[int | None, typer.Option("--frames", help="features.frames: vectors of so many frames.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as graph.epochs=5.")
]


def with_encoders(
    overrides: list[str] | None,
    text: str | None,
    video: str | None,
    videos: str | None,
    frames: int | None,
) -> list[str]:
    """Overrides with those that --text, --video, --videos and --frames stand for."""
    given = {
        "features.text": text,
        "features.video": video,
        "features.videos": videos,
        "features.frames": frames,
    }
    return [*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]


def run(
    context: typer.Context,
    config: Config = "demo",
    data: Data = None,
    store: StorePath = None,
    out: Out = None,
    text: Text = None,
    video: Video = None,
    videos: Videos = None,
    frames: Frames = None,
    overrides: Overrides = None,
) -> None:
    """The whole pipeline; started again, it goes on where it stopped."""
    from netgpt.cluster.config import load_config
    from netgpt.cluster.pipeline import Run, execute, locked, require_room
    from netgpt.cluster.report import write_report
    from netgpt.cluster.tracking import require_tracking, track

    settings = load_config(config, with_encoders(overrides, text, video, videos, frames))
    path = out or Path("runs") / Path(config).stem
    require_room(settings.cluster)
    require_tracking(settings.cluster.mlflow)
    stage = commands().get(context.info_name or "")  # pretrain, rate, …: one stage with what it takes
    with locked(path):
        started = Run.start(path, settings, data, store)
        execute(started, [*stage.with_, stage.name] if stage else started.stages)
        page = write_report(started)
        track(started)
    if stage is None:
        print(table_of(started))
        say(f"run: {started.path}   predictions: {started.path / 'predictions.parquet'}   report: {page}")


def sweep(
    out: Annotated[Path, typer.Option("--out", help="Folder of the runs; what is done there is kept.")],
    config: Config = "demo",
    data: Data = None,
    store: StorePath = None,
    vary: Annotated[
        list[str] | None, typer.Option("--vary", help="KEY=V1|V2; again for more: all combinations.")
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Again for more (default 0).")] = None,
    of: Annotated[
        str, typer.Option("--of", help="What is measured: stage1, … (default the last of each run).")
    ] = "",
    trials: Annotated[
        int,
        typer.Option("--trials", help="Settings that a search tries, of --vary KEY=LOW..HIGH[:log] too."),
    ] = 0,
    forward: Annotated[
        int, typer.Option("--forward", help="Choose by so many earlier splits of the train period.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines on standard output.")] = False,
    overrides: Overrides = None,
) -> None:
    """A recipe over settings and seeds in one table; what runs have in common is made once."""
    from netgpt.cluster.sweep import Sweep, line
    from netgpt.cluster.sweep import sweep as rows_of

    asked = Sweep(
        config=config,
        out=out,
        data=data,
        store=store,
        vary=vary or (),
        seeds=seed or (0,),
        of=of,
        trials=trials,
        forward=forward,
        overrides=overrides or (),
    )
    failed = False
    for row in rows_of(asked):
        failed |= row["case"] == "failed"
        print(json_text(row) if as_json else line(row), flush=True)
    if failed:
        raise typer.Exit(1)


def table_of(finished: Run) -> str:
    """A finished run's metrics as text."""
    from netgpt.trainers.tasks.evaluate import metrics_table

    metrics, within = finished.metrics(), finished.intervals()
    return metrics_table(metrics, finished.task, finished.titles, finished.apart, within)


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def evaluate(
    run_path: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Metrics of a run by stage and split, beside the baselines."""
    from netgpt.cluster.pipeline import Run, execute, locked

    finished = Run.open_(run_path)
    with locked(run_path):
        execute(finished, ["evaluation"])
    print(json_text(finished.metrics()) if as_json else table_of(finished))


def features(
    records: Annotated[Path, typer.Argument(help="A source of the recipe's data set.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of features; what it has is kept.")],
    config: Config = "demo",
    text: Text = None,
    video: Video = None,
    videos: Videos = None,
    frames: Frames = None,
    overrides: Overrides = None,
) -> None:
    """Vectors of texts and videos by real encoders, each distinct content once; for build --features."""
    from netgpt.cluster.config import load_config
    from netgpt.cluster.features.make import make_features

    settings = load_config(config, with_encoders(overrides, text, video, videos, frames))
    make_features(settings, records, out)
    say(f"{out}: made; a store of it: netgpt build {records} --features {out} --out STORE")


def status(
    run_path: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """What each stage of a run is doing: progress, time to go, attempts."""
    from netgpt.cluster.pipeline.status import status_json, status_text

    print(json_text(status_json(run_path)) if as_json else status_text(run_path))


def predict(
    run_path: RunPath,
    data: Annotated[Path, typer.Option("--data", help="New rows of the data set; the label may be absent.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON lines, or a table F.parquet (default standard output).")
    ] = None,
    text: Text = None,
    video: Video = None,
    videos: Videos = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="With reasons: what each answer would lack without …")
    ] = False,
) -> None:
    """Predict for new rows with a finished run."""
    from netgpt.cluster.pipeline.run import Run
    from netgpt.cluster.predict import predict as predictions
    from netgpt.cluster.predict import write_predictions

    made = list(
        predictions(Run.open_(run_path), data, text=text, video=video, videos=videos, explain=explain)
    )
    if out is None:
        sys.stdout.writelines(prediction.to_json() + "\n" for prediction in made)
    else:
        write_predictions(out, made)
        say(f"{out}: {len(made)} predictions")


def serve(
    run_path: RunPath,
    port: Annotated[int, typer.Option("--port")] = 8000,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    replicas: Annotated[int, typer.Option("--replicas", help="Processes that answer.")] = 1,
    token: Annotated[
        str | None,
        typer.Option("--token", envvar="NETGPT_TOKEN", help="That requests show (default: a new one)."),
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Ask for no token; at loopback addresses.")] = False,
    text: Text = None,
    max_bytes: Annotated[int, typer.Option("--max-bytes", help="Of a request.")] = 16_000_000,
    max_records: Annotated[int, typer.Option("--max-records", help="Of a request.")] = 1000,
    seconds: Annotated[float, typer.Option("--seconds", help="A request takes at most.")] = 60.0,
    batch: Annotated[int, typer.Option("--batch", help="Records answered together at most.")] = 64,
) -> None:
    """Answer for new records over HTTP with a finished run, until it is ended."""
    from netgpt.cluster.errors import ClusterError
    from netgpt.cluster.serving.run import ServeOptions, stay

    given: dict[str, Any] = {}
    if token is not None:
        if not token.strip():
            raise ClusterError("--token: found none, expected some; a service that asks for none: --open")
        given = {"token": token.strip(), "shows_token": False}
    given |= {"token": ""} if open_ else {}
    options = ServeOptions(
        run=run_path,
        host=host,
        port=port,
        replicas=replicas,
        text=text,
        max_bytes=max_bytes,
        max_records=max_records,
        seconds=seconds,
        batch=batch,
        **given,
    )
    stay(options)


def export(
    run_path: RunPath,
    out: Annotated[Path, typer.Option("--out", help="A folder that is not there yet.")],
) -> None:
    """Write a run's language model as a folder that transformers loads, and its own small part beside it."""
    from netgpt.cluster.export import export as write
    from netgpt.cluster.pipeline.run import Run

    write(Run.open_(run_path), out)
    say(f"{out}: written")


def embeddings(
    run_path: RunPath,
    out: Annotated[Path, typer.Option("--out", help="A folder that is not there yet.")],
    of: Annotated[
        list[str] | None, typer.Option("--of", help="A node type; may come again. By default all.")
    ] = None,
) -> None:
    """Write embeddings of node types as Parquet, by the data's own ids."""
    from netgpt.cluster.embeddings import write_embeddings
    from netgpt.cluster.pipeline.run import Run

    made = write_embeddings(Run.open_(run_path), out, of or ())
    say(f"{out}: {', '.join(f'{name}.parquet' for name in made)}")


def recommend(
    run_path: RunPath,
    out: Annotated[Path, typer.Option("--out", help="A table F.parquet: user, rank, item, score.")],
    k: Annotated[int, typer.Option("--k", help="Items of each user.")] = 10,
    users: Annotated[
        Path | None, typer.Option("--users", help="Ids, one a line. By default all users.")
    ] = None,
    seen: Annotated[
        str, typer.Option("--seen", help="What is left out: all of a user's pairs, or those of train.")
    ] = "all",
    rerank: Annotated[
        bool, typer.Option("--rerank", help="In the order of the run's language model; slow.")
    ] = False,
) -> None:
    """Write the best items of users, without those that they have, by the data's own ids."""
    from netgpt.cluster.pipeline.run import Run
    from netgpt.cluster.recommend import write_recommendations

    options: dict[str, Any] = {"k": k, "users": users, "seen": seen, "rerank": rerank}
    num = write_recommendations(Run.open_(run_path), out, **options)
    say(f"{out}: {k} items for each of {num:,} users")


def recipes() -> None:
    """Names of the recipes that come with the program, and where each is."""
    from netgpt.cluster.config import config_names, recipe_file

    names = config_names()
    width = max(map(len, names)) + 2
    for name in names:
        print(f"{name:<{width}}{recipe_file(name)}")


def config(
    of: Annotated[
        str | None, typer.Argument(metavar="[KEY]", help="A key, a section, or a word of what is meant.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--config", help="A recipe, whose values are shown and whose keys alone.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Every key of a configuration: its type, default and meaning."""
    from netgpt.cluster.keys import described, text_of

    found = described(of, recipe)
    print(json_text(found, ensure_ascii=False, indent=1) if as_json else text_of(found))


def register(app: typer.Typer) -> None:
    app.command()(run)
    app.command()(sweep)
    for name, stage in commands().items():
        app.command(name, help=stage.help)(run)
    for command in (
        evaluate,
        features,
        status,
        predict,
        serve,
        embeddings,
        recommend,
        export,
        recipes,
        config,
    ):
        app.command()(command)
