"""Small stages run for real, each in processes of its own, and their peak resident memory.

A folder is prepared by one process (store, base model, tokens, embeddings, whatever the measured stage
reads); then the stage alone runs in fresh processes, one a rank, as torchrun starts them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import StageJob

NEEDED = {
    "stage1": (),
    "embeddings": (),
    "stage2": ("embeddings", "tokens"),
    "stage3": ("embeddings", "tokens", "stage2"),
}
"""Stages that a stage reads, in order, besides a graph model."""
VOCAB = 2048
"""Entries of the tokenizer; the model's matrix may have more rows."""


def run_peaks(folder: Path, job: StageJob, world_size: int) -> list[int]:
    """Peak resident bytes of each rank of a stage, run to its end. RuntimeError where it fails."""
    path = folder / "measured.json"
    path.write_text(json.dumps(job.to_dict()))
    for old in folder.glob("peak-*"):
        old.unlink()
    command = [sys.executable]
    if world_size > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
        command += ["--nproc-per-node", str(world_size)]
    command += ["-m", "netgpt.cluster.bench.plan_runs", str(path), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{job.stage}: a measured process failed: {done.stderr[-2000:]}")
    return [int((folder / f"peak-{rank}").read_text()) for rank in range(world_size)]


def prepare(folder: str, raw: str, stage: str, shape: str, scale: str) -> None:
    """In a process of its own: everything that a measured stage reads."""
    from netgpt.cluster.bench.reference import SMALL, build_synthetic
    from netgpt.cluster.plan.shapes import DecoderShape
    from netgpt.trainers.stages.session import run_stage
    from netgpt.trainers.worker import use_process_group

    values = json.loads(raw)
    root, settings = Path(folder), Settings.from_dict(values)
    build_synthetic(root / "store", float(scale), **SMALL)
    use_process_group("cpu")
    if "tokens" in NEEDED[stage]:
        _write_base(root, settings, DecoderShape(**json.loads(shape)))
    # Nothing is learnt here: the stages before are there for their files
    short = Settings.from_dict({**values, "stage2": {**values["stage2"], "epochs": 0}})
    if stage != "stage1":
        _write_untrained(root, settings)
    for name in NEEDED[stage]:
        job = stage_job(root, short, name)
        job.prepare()
        run_stage(job)


def stage_job(root: Path, settings: Settings, stage: str) -> StageJob:
    return StageJob(
        stage=stage, run=root / "run", store=root / "store", settings=settings, inputs={"stage": stage}
    )


def _write_untrained(root: Path, settings: Settings) -> None:
    """What stage 1 leaves, of a model with random weights."""
    from netgpt import graphstore
    from netgpt.trainers.graph.model import GraphModel
    from netgpt.trainers.graph.shape import ModelShape
    from netgpt.trainers.graph.train import save_model
    from netgpt.trainers.tasks.names import make_task

    store = graphstore.open(str(root / "store"))
    task = make_task(settings.task)
    model = GraphModel(
        ModelShape.of(store.schema, store.feature_dims, hidden=settings.graph.hidden), task.head
    )
    folder = stage_job(root, settings, "stage1").folder
    folder.mkdir(parents=True)
    save_model(folder, model, model.state_dict(), store)


def _write_base(root: Path, settings: Settings, shape: object) -> None:
    """A random Qwen2-VL of the shape, in safetensors, with a tokenizer of the store's text."""
    from netgpt import graphstore
    from netgpt.cluster.plan.shapes import DecoderShape
    from netgpt.trainers.language.model.tiny import (
        SPECIAL_TOKENS,
        random_qwen2_vl,
        save_base,
        train_tokenizer,
    )
    from netgpt.trainers.language.text.template import Words, instruction_texts
    from netgpt.trainers.tasks.names import make_task

    assert isinstance(shape, DecoderShape)
    texts, words = graphstore.open(str(root / "store")).texts, Words.of(make_task(settings.task))
    tokenizer = train_tokenizer([*texts, *instruction_texts(words)], VOCAB)
    model = random_qwen2_vl(
        vocab=shape.vocab,
        hidden=shape.hidden,
        layers=shape.layers,
        heads=shape.heads,
        kv_heads=shape.kv_heads,
        intermediate=shape.intermediate,
        ids={name: int(tokenizer.convert_tokens_to_ids(name)) for name in SPECIAL_TOKENS},  # type: ignore[arg-type]
    )
    save_base(root / "model", model, tokenizer)


def main() -> None:
    """A measured process: the stage of the job, then this process's peak into a file."""
    from netgpt.trainers import distributed
    from netgpt.trainers.stages.session import run_stage
    from netgpt.trainers.worker import use_process_group

    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    job = StageJob.from_dict(json.loads(path.read_text()))
    use_process_group(job.device)
    if distributed.rank() == 0:
        job.prepare()
    distributed.barrier()
    run_stage(job)
    with open("/proc/self/status", encoding="ascii") as file:
        peak_kb = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    (folder / f"peak-{distributed.rank()}").write_text(str(peak_kb * 1024))


if __name__ == "__main__":
    main()
