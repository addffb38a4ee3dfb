"""Stages 2 and 3 under DeepSpeed ZeRO-2: against plain torch, at two ranks, and killed in the middle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
import torch.nn.functional as F

from netgpt.graphstore import Store
from netgpt.graphstore.mixing import seed_of
from netgpt.trainers import checkpoint, weights
from netgpt.trainers.config import (
    AlignConfig,
    GraphConfig,
    LanguageConfig,
    RateConfig,
    SamplerConfig,
    TinyConfig,
)
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.assembly import WEIGHTS, Assembly
from netgpt.trainers.language.packing import PackStep, plan_packs
from netgpt.trainers.language.samples import GraphStates
from netgpt.trainers.language.train import LanguageTrainer
from netgpt.trainers.loop import StepResult
from netgpt.trainers.progress import read_progress
from netgpt.trainers.schedule import learning_rate
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.folder import read_manifest, stage_digest
from netgpt.trainers.stages.language import LanguageStage
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.tasks.base import Examples
from netgpt.trainers.tasks.names import make_task
from tests.reference import TASK, settings_of

SETTINGS = settings_of(
    seed=3,
    task=replace(TASK, val_share=0.7),
    sampler=SamplerConfig(fanout=5),
    graph=GraphConfig(hidden=8, batch_size=32, epochs=1),
    language=LanguageConfig(
        max_tokens=700,
        token_budget=1400,
        packs_per_step=4,
        max_comments=2,
        tiny=TinyConfig(hidden=32, layers=6, heads=2, vocab=600),
    ),
    stage2=AlignConfig(epochs=1, lr=0.003, checkpoint_steps=2, log_steps=1),
    stage3=RateConfig(epochs=2, lr=0.003, checkpoint_steps=2, weight_decay=0.01, log_steps=1),
)


pytestmark = pytest.mark.usefixtures("process_group")


@pytest.fixture(scope="module")
def base_run(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to stage 2's inputs."""
    run = tmp_path_factory.mktemp("run")
    for name in ("stage1", "embeddings", "base", "tokens"):
        execute(run, store, name)
    # As if killed right before the manifest: a stage without checkpoints starts in an empty folder
    for name in ("embeddings", "base", "tokens"):
        digest = stage_digest(run / name)
        (run / name / "manifest.json").unlink()
        (run / name / "left-over").touch()
        execute(run, store, name)
        assert stage_digest(run / name) == digest and not (run / name / "left-over").exists()
    return run


def job(run: Path, store: Store, name: str) -> StageJob:
    return StageJob(stage=name, run=run, store=store.path, settings=SETTINGS, inputs={"stage": name})


def execute(run: Path, store: Store, name: str) -> None:
    todo = job(run, store, name)
    todo.prepare()
    run_stage(todo)


def copy_of(base_run: Path, path: Path) -> Path:
    shutil.copytree(base_run, path)
    return path


class FewValidated(Assembly):
    """Six examples to validate on: enough, and fast."""

    @cached_property
    def examples(self) -> Examples:
        found = self.task.examples(self.store)
        return replace(found, val=found.val[:6])


def make_trainer(run: Path, store: Store, name: str, settings: Settings = SETTINGS) -> LanguageTrainer:
    stage = stage_of(name)
    assert isinstance(stage, LanguageStage)
    assembly = FewValidated(run, store, settings, make_task(settings.task), torch.device("cpu"))
    h = np.array(np.random.default_rng(0).normal(size=(store.num_nodes["video"], 8)), np.float32)
    netgpt = assembly.netgpt(8, "mean")
    netgpt.start_head_at(3.0)
    folder = run / name
    folder.mkdir(exist_ok=True)
    return LanguageTrainer(stage, assembly, netgpt, GraphStates.of(h, assembly.examples.train), folder)


def run_of(trainer: LanguageTrainer) -> dict[str, Any]:
    trainer.loop.run()
    return trainer.finish()


def plain_torch(trainer: LanguageTrainer, name: str) -> dict[str, torch.Tensor]:
    """The same training by AdamW alone, one loss over each whole step."""
    config, netgpt, samples = trainer.config, trainer.model, trainer.samples

    def response(node: int) -> np.ndarray:
        return samples.builder.response(int(trainer.truth[node]))

    trained = {key: p.detach().clone().requires_grad_() for key, p in trainer.trained.items()}
    optimizer = torch.optim.AdamW(trained.values(), lr=config.lr, weight_decay=config.weight_decay)
    plans = [
        step
        for epoch in range(config.epochs)
        for step in plan_packs(
            samples.lengths + [len(response(int(v))) if name == "stage2" else 0 for v in samples.ids],
            budget=SETTINGS.language.token_budget,
            packs_per_step=4,
            seed=(SETTINGS.seed, seed_of(name), epoch),
        )
    ]
    for number, step in enumerate(plans):
        losses = []
        for i in step.samples:  # one sample at a time: no packs
            node = int(samples.ids[i])
            level = float(trainer.truth[node])
            batch = samples.batch([i], [response(node)] if name == "stage2" else None)

            def run(method: str, batch: Any = batch) -> Any:
                class Call(torch.nn.Module):
                    def __init__(self) -> None:
                        super().__init__()
                        self.netgpt = netgpt

                    def forward(self) -> Any:
                        return getattr(self.netgpt, method)(batch)

                values = {f"netgpt.{key}": value for key, value in trained.items()}
                return torch.func.functional_call(Call(), values, ())

            if name == "stage2":
                losses.append(-run("response_log_probs")[0])
            else:
                losses.append(F.smooth_l1_loss(run("scores"), torch.tensor([level]), reduction="none"))
        loss = torch.cat(losses).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.values(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config.lr, number, len(plans))
        optimizer.step()
    return trained


@pytest.mark.parametrize("name", ["stage2", "stage3"])
def test_zero_equals_plain_torch(name: str, base_run: Path, store: Store, tmp_path: Path) -> None:
    run = copy_of(base_run, tmp_path / "run")
    expected = plain_torch(make_trainer(run, store, name), name)
    trainer = make_trainer(run, store, name)
    before = {key: p.detach().clone() for key, p in trainer.model.named_parameters()}
    run_of(trainer)
    for key, parameter in trainer.trained.items():
        torch.testing.assert_close(parameter.detach(), expected[key].detach(), rtol=2e-3, atol=2e-5)
        assert float((parameter.detach() - before[key]).abs().max()) > 1e-4, key
    for key, parameter in trainer.model.named_parameters():
        if key not in trainer.trained:
            assert torch.equal(parameter, before[key]), key


class KilledError(Exception):
    pass


@pytest.mark.parametrize(("name", "fault_step"), [("stage2", 0), ("stage2", 3), ("stage3", 1), ("stage3", 5)])
def test_a_killed_stage_ends_in_the_same_bits(
    name: str, fault_step: int, base_run: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_run, killed_run = copy_of(base_run, tmp_path / "a"), copy_of(base_run, tmp_path / "b")
    whole = run_of(make_trainer(whole_run, store, name))
    assert whole["steps"] > fault_step
    trainer = make_trainer(killed_run, store, name)
    step = trainer.train

    def fail(packs: PackStep, number: int) -> StepResult:
        if number == fault_step:
            raise KilledError
        return step(packs, number)

    monkeypatch.setattr(trainer, "train", fail)
    with pytest.raises(KilledError):
        run_of(trainer)
    again = make_trainer(killed_run, store, name)
    again_step, first = again.train, []

    def count(packs: PackStep, number: int) -> StepResult:
        first.append(number)
        return again_step(packs, number)

    monkeypatch.setattr(again, "train", count)
    assert run_of(again) == whole
    assert first[0] == fault_step // 2 * 2 if fault_step < whole["steps"] / 2 else first[0] >= 2
    assert (killed_run / name / WEIGHTS).read_bytes() == (whole_run / name / WEIGHTS).read_bytes()


def test_a_torn_checkpoint_is_passed_over(base_run: Path, store: Store, tmp_path: Path) -> None:
    run = copy_of(base_run, tmp_path / "run")
    trainer = make_trainer(run, store, "stage3")
    whole = run_of(trainer)
    folder = run / "stage3" / "checkpoints"
    newest, older = sorted(folder.glob("step-*"), reverse=True)
    assert checkpoint.find(folder) == newest
    victim = next(p for p in sorted(newest.glob("part-*.safetensors")))
    victim.write_bytes(victim.read_bytes()[:-10])
    assert checkpoint.find(folder) == older
    kept = (run / "stage3" / WEIGHTS).read_bytes()
    assert run_of(make_trainer(run, store, "stage3")) == whole
    assert (run / "stage3" / WEIGHTS).read_bytes() == kept


def test_checkpoints_leave_out_the_frozen_weights(base_run: Path, store: Store, tmp_path: Path) -> None:
    run = copy_of(base_run, tmp_path / "run")
    trainer = make_trainer(run, store, "stage2")
    run_of(trainer)
    trained = sum(p.numel() for p in trainer.trained.values())
    frozen = sum(p.numel() for p in trainer.model.parameters()) - trained
    newest = checkpoint.find(run / "stage2" / "checkpoints")
    assert newest is not None
    size = sum(p.stat().st_size for p in newest.rglob("*") if p.suffix == ".safetensors")
    assert size < 4 * (8 * trained) + 200_000 < 4 * frozen
    tensors, _ = weights.load(run / "stage2" / WEIGHTS)
    assert set(tensors) == set(trainer.trained)


def torchrun(run: Path, store: Store, name: str, world_size: int) -> subprocess.Popen[str]:
    """The worker of one stage under torchrun, with no Ray."""
    path = run / f"{name}.json"
    path.write_text(json.dumps(replace(job(run, store, name), num_threads=1).to_dict()))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
            *("--nproc-per-node", str(world_size), "-m", "netgpt.trainers.worker", str(path)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-3000:]


@dataclass(frozen=True)
class Result:
    metrics: dict[str, Any]
    weights: dict[str, torch.Tensor]

    @staticmethod
    def of(run: Path, name: str) -> Result:
        manifest = read_manifest(run / name)
        assert manifest is not None
        return Result(manifest["metrics"], weights.load(run / name / WEIGHTS)[0])

    def assert_close(self, other: Result) -> None:
        """Loss curve, validation and every weight, to 1e-5.

        But for biases of keys: a softmax takes the same from all of a row, so of their gradients there is
        little but rounding, and Adam makes steps of full length of it.
        """
        for kind in ("curve", "history"):
            assert len(self.metrics[kind]) == len(other.metrics[kind]) > 0
            for a, b in zip(self.metrics[kind], other.metrics[kind], strict=True):
                for key in a.keys() - {"platform"}:
                    assert a[key] == pytest.approx(b[key], rel=1e-5, abs=1e-5), key
        for key, value in self.weights.items():
            atol = 1e-3 if key.endswith("k_proj.bias") else 1e-5
            torch.testing.assert_close(value, other.weights[key], rtol=1e-5, atol=atol, msg=key)


@pytest.fixture(scope="module")
def at_both_sizes(
    base_run: Path, store: Store, tmp_path_factory: pytest.TempPathFactory
) -> dict[int, tuple[Path, dict[str, Result]]]:
    """Stages 2 and 3 whole, at world size 1 and 2, by world size."""
    found = {}
    for world_size in (1, 2):
        run = copy_of(base_run, tmp_path_factory.mktemp("sizes") / str(world_size))
        for name in ("stage2", "stage3"):
            finish(torchrun(run, store, name, world_size))
        found[world_size] = (run, {name: Result.of(run, name) for name in ("stage2", "stage3")})
    return found


@pytest.mark.all
@pytest.mark.parametrize("name", ["stage2", "stage3"])
def test_two_ranks_equal_one(name: str, at_both_sizes: dict[int, tuple[Path, dict[str, Result]]]) -> None:
    (_, one), (_, two) = at_both_sizes[1], at_both_sizes[2]
    one[name].assert_close(two[name])


@pytest.mark.all
@pytest.mark.parametrize(("victim", "world_size"), [("one rank", 1), ("all ranks", 2)])
def test_ranks_killed_without_warning(
    victim: str,
    world_size: int,
    at_both_sizes: dict[int, tuple[Path, dict[str, Result]]],
    store: Store,
    tmp_path: Path,
) -> None:
    """SIGKILL in the middle of stage 3 at world size 2, then on at another size, or at the same."""
    whole_run, whole = at_both_sizes[world_size]
    run = copy_of(at_both_sizes[2][0], tmp_path / "run")
    shutil.rmtree(run / "stage3")
    process = torchrun(run, store, "stage3", 2)
    checkpoints = run / "stage3" / "checkpoints"
    deadline = time.monotonic() + 240
    while not list(checkpoints.glob("step-*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0][-3000:]
        time.sleep(0.02)
    ranks = psutil.Process(process.pid).children()
    assert len(ranks) == 2
    if victim == "one rank":
        ranks[1].kill()
    else:
        process.kill()
        for rank in ranks:
            rank.kill()
    process.communicate(timeout=400)
    assert process.returncode != 0 and read_manifest(run / "stage3") is None
    newest = checkpoint.find(checkpoints, job(run, store, "stage3").key)
    assert newest is not None and not list(newest.rglob("*.pt"))
    finish(torchrun(run, store, "stage3", world_size))
    found = Result.of(run, "stage3")
    if world_size == 2:
        assert found.metrics == whole["stage3"].metrics
        assert (run / "stage3" / WEIGHTS).read_bytes() == (whole_run / "stage3" / WEIGHTS).read_bytes()
    else:
        found.assert_close(whole["stage3"])


def test_no_kernel_is_compiled_for_a_stage(base_run: Path, store: Store, tmp_path: Path) -> None:
    """DeepSpeed would compile one of inference's where a checkout first trains."""
    from deepspeed.comm import comm

    make_trainer(copy_of(base_run, tmp_path / "run"), store, "stage2")
    assert comm.cdb is not None and comm.cdb.shm_comm_op is None
    assert not hasattr(torch.ops.deepspeed, "inference_all_reduce_")


def test_what_is_trained_is_said_with_counts(base_run: Path, store: Store, tmp_path: Path) -> None:
    trainer = make_trainer(copy_of(base_run, tmp_path / "run"), store, "stage3")
    trainer.progress.update(1, 1, "step")
    found = read_progress(trainer.folder)
    assert found is not None
    layers = sum(p.numel() for layer in trainer.model.text.layers[-4:] for p in layer.parameters())
    total = 64 + 9 * 32 + 33 * 32 + 33 + layers
    assert f"stage3 trains {total:,} parameters (markers 64, projector 1,344, head 33" in found.note
    assert f"decoder layers {layers:,}" in found.note
    for p in list(trainer.model.parameters()):
        p.requires_grad_(True)
    with pytest.raises(RuntimeError, match="expected"):
        trainer._check_trained()


def test_a_pack_too_large_for_the_gpu_names_the_budget_to_set(
    base_run: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(copy_of(base_run, tmp_path / "run"), store, "stage3")

    def fail(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(trainer.model, "forward", fail, raising=False)
    monkeypatch.setattr(trainer.model, "scores", fail)
    words = r"stage3: out of GPU memory with a pack of \d+ tokens \(language\.token_budget 1400\); set "
    with pytest.raises(
        TrainerError, match=words + r"language\.token_budget=7\d\d or .*activation_checkpointing"
    ):
        run_of(trainer)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change(
    base_run: Path, store: Store, tmp_path: Path
) -> None:
    trainer = make_trainer(copy_of(base_run, tmp_path / "run"), store, "stage3")
    step, before = trainer.train, {}

    def spoil(packs: PackStep, number: int) -> StepResult:
        if number == 3:
            trainer.model.head.bias.data.fill_(float("nan"))
            before.update({k: p.detach().clone() for k, p in trainer.trained.items()})
        return step(packs, number)

    trainer.train = spoil  # type: ignore[method-assign]
    with pytest.raises(TrainerError, match=r"loss of step 3: found nan.*its nodes are \[\d+.*stage3\.lr"):
        run_of(trainer)
    for key, p in trainer.trained.items():
        assert torch.equal(p, before[key]) or key == "head.bias"
    newest = checkpoint.find(trainer.folder / "checkpoints")
    assert newest is not None and newest.name == "step-00000002"


def test_text_dropout_hides_free_texts_by_seed_and_epoch(
    base_run: Path, store: Store, tmp_path: Path
) -> None:
    trainer = make_trainer(copy_of(base_run, tmp_path / "run"), store, "stage3")
    trainer.config = replace(trainer.config, text_dropout=0.7)
    first, again, second = trainer.samples_of(0), trainer.samples_of(0), trainer.samples_of(1)
    assert first is again and (first.lengths != second.lengths).any()
    assert (first.lengths < trainer.samples.lengths).mean() > 0.9
    share = np.array(first.hidden)[:, trainer._free].mean()
    assert 0.6 < share < 0.8 and not np.array(first.hidden)[:, ~trainer._free].any()
    other = make_trainer(trainer.folder.parent, store, "stage3")
    other.config = trainer.config
    np.testing.assert_array_equal(other.samples_of(1).lengths, second.lengths)


def test_more_layers_than_there_are_are_refused_by_their_whole_key(
    base_run: Path, store: Store, tmp_path: Path
) -> None:
    run = copy_of(base_run, tmp_path / "run")
    run_of(make_trainer(run, store, "stage2"))
    settings = replace(SETTINGS, stage3=replace(SETTINGS.stage3, layers=7))  # type: ignore[call-arg, attr-defined]
    assembly = Assembly(run, store, settings, make_task(settings.task), torch.device("cpu"))
    rate = stage_of("stage3")
    assert isinstance(rate, LanguageStage)
    with pytest.raises(TrainerError, match=r"stage3\.layers: found 7, expected 1 to 6"):
        rate.begin(assembly.netgpt(8, "mean"), assembly)
