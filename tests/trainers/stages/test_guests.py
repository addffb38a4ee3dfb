"""One run of guests alone: task, encoder, objective and language stage, from the first stage to the last.

In this process, without Ray; `netgpt run` does the same over a cluster.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from netgpt.cluster.config import load_config
from netgpt.graphstore import Store
from netgpt.trainers import weights
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.assembly import WEIGHTS, Assembly
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.folder import read_manifest, stage_digest
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.tasks.names import make_task

pytestmark = pytest.mark.usefixtures("process_group")

POLISH = "tests.toys.stage:Polish"
RECIPE = f"""
dataset: xsvideo
task:
  name: tests.toys.task:Above
  label: label
  above: 3.5
  val_share: 0.2
  split: {{column: time, until: 2024-12-20, utc_offset_h: 8}}
  words: {{request: "Is its level above 3? ", response: "The answer is "}}
stages: [stage1, embeddings, base, tokens, stage2, "{POLISH}", evaluation]
baselines: []
evaluation: {{by: [platform]}}
sampler: {{fanout: 5}}
graph: {{encoder: "tests.toys.encoder:SAGELayer", hidden: 8, batch_size: 32, epochs: 3, lr: 0.02}}
language:
  max_tokens: 700
  token_budget: 1600
  max_comments: 2
  packs_per_step: 4
  tiny: {{hidden: 32, layers: 6, heads: 2, vocab: 600}}
stage2: {{lr: 0.003, max_steps: 6}}
polish: {{lr: 0.003, max_steps: 6, checkpoint_steps: 2, log_steps: 1}}
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("recipe") / "guests.yaml"
    path.write_text(RECIPE)
    return load_config(str(path), ["cluster.workers=1"]).settings


def execute(run: Path, store: Store, settings: Settings, name: str) -> None:
    job = StageJob(stage=name, run=run, store=store.path, settings=settings, inputs={"stage": name})
    job.prepare()
    run_stage(job)


@pytest.fixture(scope="module")
def finished(store: Store, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    for name in settings.stages:
        stage_of(name).check(settings)
        execute(run, store, settings, name)
    return run


def test_every_stage_is_done_and_leaves_what_it_says(finished: Path, settings: Settings) -> None:
    for name in settings.stages:
        stage = stage_of(name)
        manifest = read_manifest(finished / stage.name)
        assert manifest is not None, name
        assert all((finished / stage.name / left).exists() for left in stage.leaves)
    assert sorted(p.name for p in finished.iterdir() if p.is_dir()) == sorted(
        [*(stage_of(name).name for name in settings.stages), "logs"]
    )


def test_the_stage_trains_its_own_parts_from_those_of_before(
    finished: Path, settings: Settings, store: Store
) -> None:
    """And what is measured is both: it must not lose what it did not train itself."""
    polish, align = stage_of(POLISH), stage_of("stage2")
    assert isinstance(polish, LanguageStage) and isinstance(align, LanguageStage)
    own, before = (weights.load(finished / stage.name / WEIGHTS)[0] for stage in (polish, align))
    assert all(".layers.5." in name for name in own) and own and not set(own) & set(before)
    assembly = Assembly(finished, store, settings, make_task(settings.task), torch.device("cpu"))
    model = polish.trained_model(assembly, 8)
    assert isinstance(model, PackedLM)
    values = dict(model.named_parameters())
    for name, tensor in {**before, **own}.items():
        assert torch.equal(values[name].detach(), tensor), name
    fresh = dict(polish.model(assembly, 8).named_parameters())
    changed = {name for name, p in values.items() if not torch.equal(p, fresh[name])}
    assert changed <= {*before, *own} and changed & set(before) and changed & set(own)
    manifest = read_manifest(finished / "polish")
    assert manifest is not None
    assert manifest["metrics"]["trained_parameters"] == {
        "decoder layers": sum(t.numel() for t in own.values())
    }
    assert [point["step"] for point in manifest["metrics"]["curve"]] == list(range(1, 7))


def test_the_evaluation_has_the_tasks_metrics_of_all_that_was_measured(
    finished: Path, settings: Settings, store: Store
) -> None:
    metrics = json.loads((finished / "evaluation" / "metrics.json").read_text())
    task = make_task(settings.task)
    names = {"stage1", "stage1_sampled"}
    names |= {f"{stage}{suffix}" for stage in ("stage2", "polish") for suffix in ("", "_mean", "_generated")}
    assert set(metrics["stages"]) == names and set(metrics["baselines"]) == {"share"}
    assert metrics["encoder"] == "SAGE"
    examples = task.examples(store)
    for name, parts in metrics["stages"].items():
        assert {"brier", "auc", "num", "platform"} <= parts["test"].keys()
        assert parts["test"]["num"] == len(examples.test)
        assert set(parts) == (
            {"val", "test"} if name.endswith(("generated", "sampled")) else {"train", "val", "test"}
        )
    table = pq.read_table(finished / "evaluation" / "predictions.parquet").to_pydict()
    test = np.array(table["split"]) == "test"
    for name in ("stage1", "polish_mean"):
        chance, truth = (np.array(table[key])[test] for key in (f"{name}_score", "truth"))
        brier = float(np.mean((chance - truth) ** 2))
        assert brier == pytest.approx(metrics["stages"][name]["test"]["brier"])
    titles: dict[str, str] = {}
    for name in settings.stages:
        titles |= stage_of(name).titles(settings)
    assert titles["polish_mean"] == "polish, mean answer" and titles["stage1"] == "SAGE"


class KilledError(Exception):
    pass


def test_a_guests_stage_that_is_killed_ends_in_the_same_bits(
    finished: Path, settings: Settings, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from netgpt.trainers.language.train import LanguageTrainer

    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "polish")
    train = LanguageTrainer.train

    def fail(self: LanguageTrainer, step: Any, number: int) -> Any:
        if number == 5:
            raise KilledError
        return train(self, step, number)

    monkeypatch.setattr(LanguageTrainer, "train", fail)
    with pytest.raises(KilledError):
        execute(run, store, settings, POLISH)
    monkeypatch.undo()
    execute(run, store, settings, POLISH)
    assert stage_digest(run / "polish") == stage_digest(finished / "polish")


def test_guests_that_are_not_there_are_named(tmp_path: Path) -> None:
    path = tmp_path / "guests.yaml"
    path.write_text(RECIPE)
    for override, words in (
        ("task.name=tests.toys.task:Under", r"task\.name: found 'tests\.toys\.task:Under', which cannot be"),
        ("stages=[tests.toys.stage:Dull]", r"stages: found 'tests\.toys\.stage:Dull', which cannot be"),
    ):
        with pytest.raises(ValueError, match=words):
            load_config(str(path), [override])
    settings = load_config(str(path), ["polish.objective=tests.toys.objective:Agree"]).settings
    with pytest.raises(
        TrainerError, match=r"^polish\.objective: found 'tests\.toys\.objective:Agree', which"
    ):
        stage_of(POLISH).check(settings)
    with pytest.raises(ValueError, match=r"polish\.lr: found -1\.0, expected above 0"):
        load_config(str(path), ["polish.lr=-1"])


def test_words_alone_are_cheap() -> None:
    """Status and command line describe all stages, a guest's too, without torch or transformers."""
    code = (
        "import sys\n"
        "from netgpt.trainers.stages.names import BASELINES, STAGES, stage_of\n"
        f"for name in (*STAGES, *BASELINES, '{POLISH}'): print(stage_of(name).title)\n"
        "print([m for m in ('torch', 'transformers', 'ray', 'deepspeed') if m in sys.modules])\n"
    )
    root = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    out = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": paths},
        cwd=root,
    ).stdout.splitlines()
    assert out[-1] == "[]" and out[-2] == "polish: right before wrong"
