"""Commands of runs: the pipeline, its stages, and what a finished run answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from netgpt.cluster.progress import say

Config = Annotated[str, typer.Option("--config", help="demo, sample, xs-video, or a YAML file.")]
Data = Annotated[Path | None, typer.Option("--data", help="Released records (JSON).")]
StorePath = Annotated[Path | None, typer.Option("--store", help="A sealed store.")]
Out = Annotated[Path | None, typer.Option("--out", help="The run's folder (default runs/CONFIG).")]
Text = Annotated[str | None, typer.Option("--text", help="features.text: a transformers encoder.")]
Video = Annotated[str | None, typer.Option("--video", help="features.video: a Qwen2-VL.")]
Videos = Annotated[str | None, typer.Option("--videos", help="features.videos: folder of ID.mp4.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as graph.epochs=5.")
]


def with_encoders(
    overrides: list[str] | None, text: str | None, video: str | None, videos: str | None
) -> list[str]:
    """Overrides with those that --text, --video and --videos stand for."""
    given = {"features.text": text, "features.video": video, "features.videos": videos}
    return [*(overrides or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]


def _command(stages: list[str] | None) -> Callable[..., None]:
    """A command that runs some stages of the pipeline, or all and then shows the metrics."""

    def command(
        config: Config = "demo",
        data: Data = None,
        store: StorePath = None,
        out: Out = None,
        text: Text = None,
        video: Video = None,
        videos: Videos = None,
        overrides: Overrides = None,
    ) -> None:
        from netgpt.cluster.config import load_config
        from netgpt.cluster.pipeline import Run, execute, locked, require_room
        from netgpt.cluster.report import write_report
        from netgpt.trainers.evaluate import metrics_table

        settings = load_config(config, with_encoders(overrides, text, video, videos))
        path = out or Path("runs") / Path(config).stem
        require_room(settings.cluster)
        with locked(path):
            run = Run.start(path, settings, data, store)
            execute(run, run.stages if stages is None else stages)
            page = write_report(run)
        if stages is None:
            print(metrics_table(run.metrics()))
            say(f"run: {run.path}   predictions: {run.path / 'predictions.parquet'}   report: {page}")

    return command


PIPELINE: dict[str, tuple[list[str] | None, str]] = {
    "run": (None, "The whole pipeline; started again, it goes on where it stopped."),
    "pretrain": (["stage1"], "Stage 1 alone: pretraining of the graph encoder."),
    "embed": (["embeddings"], "The embedding cache alone: exact inference over all neighbours."),
    "tokenize": (["base", "tokens"], "The token cache alone (and the tiny base model, if it is one)."),
    "align": (["base", "tokens", "stage2"], "Stage 2: supervised language fine-tuning of the projector."),
    "rate": (["stage3"], "Stage 3 alone: task-oriented predictor fine-tuning."),
    "lora": (
        ["base", "tokens", "lora"],
        "A baseline: the language model with LoRA, without the graph; netgpt evaluate has its metrics.",
    ),
}


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def evaluate(
    run_path: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Metrics of a run by stage and split, beside the baselines."""
    from netgpt.cluster.pipeline import Run, execute, locked
    from netgpt.trainers.evaluate import metrics_table

    found = Run.open_(run_path)
    with locked(run_path):
        execute(found, ["evaluation"])
    print(json.dumps(found.metrics()) if as_json else metrics_table(found.metrics()))


def features(
    records: Annotated[Path, typer.Argument(help="Released records (JSON).")],
    out: Annotated[Path, typer.Option("--out", help="Folder of features; what it has is kept.")],
    config: Config = "demo",
    text: Text = None,
    video: Video = None,
    videos: Videos = None,
    overrides: Overrides = None,
) -> None:
    """Vectors of texts and videos by real encoders, each distinct content once; for build --features."""
    from netgpt.cluster.config import load_config
    from netgpt.cluster.features.make import make_features

    settings = load_config(config, with_encoders(overrides, text, video, videos))
    make_features(settings, records, out)
    say(f"{out}: made; a store of it: netgpt build {records} --features {out} --out STORE")


def status(
    run_path: RunPath,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """What each stage of a run is doing: progress, time to go, attempts."""
    from netgpt.cluster.pipeline.status import status_json, status_text

    print(json.dumps(status_json(run_path)) if as_json else status_text(run_path))


def predict(
    run_path: RunPath,
    data: Annotated[Path, typer.Option("--data", help="Records of new videos; the level may be absent.")],
    out: Annotated[Path | None, typer.Option("--out", help="JSON lines (default standard output).")] = None,
    text: Text = None,
    video: Video = None,
    videos: Videos = None,
) -> None:
    """Rate new videos with a finished run."""
    from netgpt.cluster.pipeline.run import Run
    from netgpt.cluster.predict import predict as ratings
    from netgpt.graphstore.files import atomic_file

    lines = [
        rating.to_json() + "\n"
        for rating in ratings(Run.open_(run_path), data, text=text, video=video, videos=videos)
    ]
    if out is None:
        sys.stdout.writelines(lines)
    else:
        with atomic_file(out) as temporary:
            temporary.write_text("".join(lines), encoding="utf-8")
        say(f"{out}: {len(lines)} ratings")


def export(
    run_path: RunPath,
    out: Annotated[Path, typer.Option("--out", help="A folder that is not there yet.")],
) -> None:
    """Write a run's NetGPT as a folder that transformers loads, and its own small part beside it."""
    from netgpt.cluster.export import export as write
    from netgpt.cluster.pipeline.run import Run

    write(Run.open_(run_path), out)
    say(f"{out}: written")


def register(app: typer.Typer) -> None:
    for name, (stages, text) in PIPELINE.items():
        app.command(name, help=text)(_command(stages))
    app.command()(evaluate)
    app.command()(features)
    app.command()(status)
    app.command()(predict)
    app.command()(export)
