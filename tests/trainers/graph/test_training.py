"""Stage 1: the same bits however it is run, faults, early stopping, what it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.trainers import checkpoint, weights
from netgpt.trainers.config import GraphConfig, SamplerConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.model import GraphModel
from netgpt.trainers.graph.projected import Projected
from netgpt.trainers.graph.steps import GraphStep
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import (
    BAD_BATCH,
    MODEL,
    GraphTrainer,
    load_model,
    sampled_scores,
)
from netgpt.trainers.loop import CHECKPOINTS, TENSORBOARD, StepResult
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.folder import read_manifest
from tests.reference import rating, settings_of

CPU = torch.device("cpu")
TASK = rating()
CONFIG = GraphConfig(
    hidden=8,
    batch_size=32,
    epochs=3,
    lr=0.01,
    dropout=0.2,
    feature_dropout=0.3,
    scalar_bins=4,
    keep_features=["platform", "topic"],
)


def train(
    store: Store, folder: Path, config: GraphConfig = CONFIG, seed: int = 0, without: str = ""
) -> GraphTrainer:
    folder.mkdir(exist_ok=True)
    settings = settings_of(seed=seed, graph=config, sampler=SamplerConfig(fanout=5), without=without)
    return GraphTrainer(settings, store, TASK, folder)


def test_training_twice_gives_the_same_bits_and_another_seed_others(store: Store, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(store, tmp_path / name, seed=seed).run()
    a, b, c = ((tmp_path / n / MODEL).read_bytes() for n in "abc")
    assert a == b != c


def steps_of(trainer: GraphTrainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the steps that a trainer takes from now on."""
    taken: list[int] = []
    step = trainer.train

    def count(one: GraphStep, number: int) -> StepResult:
        taken.append(number)
        return step(one, number)

    monkeypatch.setattr(trainer, "train", count)
    return taken


class KilledError(Exception):
    pass


WHOLE = {"neighbors": "all", "epochs": 9, "patience": 9, "precision": "bfloat16"}


@pytest.mark.parametrize(
    ("fault_step", "changes"),
    [
        *((fault, {}) for fault in (0, 2, 5, 7)),
        *((3, {"encoder": e, "heads": 2}) for e in ("gcn", "han", "hetsann", "hgt")),
        (3, {"num_bases": 3, "without": "VV"}),
        (3, WHOLE),
    ],
)
def test_a_run_killed_at_any_step_ends_in_the_same_bits(
    store: Store,
    tmp_path: Path,
    fault_step: int,
    changes: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    without = changes.get("without", "")
    changed = {name: value for name, value in changes.items() if name != "without"}
    config = replace(CONFIG, checkpoint_steps=2, **changed)
    whole = train(store, tmp_path / "whole", config, without=without).run()
    trainer = train(store, tmp_path / "killed", config, without=without)
    fail_at(trainer, fault_step, monkeypatch)
    with pytest.raises(KilledError):
        trainer.run()
    resumed = train(store, tmp_path / "killed", config, without=without)
    done = steps_of(resumed, monkeypatch)
    assert resumed.run() == whole
    num = len(resumed.steps)
    kept = fault_step // 2 * 2 if fault_step < num else fault_step if num == 1 else 0
    assert kept <= done[0] <= fault_step and done[0] == kept if fault_step < num else done[0] >= num
    assert (tmp_path / "killed" / MODEL).read_bytes() == (tmp_path / "whole" / MODEL).read_bytes()
    killed, unbroken = (checkpoint.find(tmp_path / name / CHECKPOINTS) for name in ("killed", "whole"))
    assert killed is not None and unbroken is not None and killed.name == unbroken.name
    files = sorted(path.name for path in killed.iterdir())
    assert files == sorted(path.name for path in unbroken.iterdir()) and len(files) == 3
    for name in files:
        assert (killed / name).read_bytes() == (unbroken / name).read_bytes()


def fail_at(trainer: GraphTrainer, fault_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = trainer.train

    def fail(one: GraphStep, number: int) -> StepResult:
        if number == fault_step:
            raise KilledError
        return step(one, number)

    monkeypatch.setattr(trainer, "train", fail)


def test_two_ranks_give_the_loss_curve_of_one(store: Store, tmp_path: Path) -> None:
    """The worker under torchrun, with no Ray: the same global batches, split or not."""
    results = {}
    for world_size in (1, 2):
        job = StageJob(
            stage="stage1",
            run=tmp_path / str(world_size),
            store=store.path,
            settings=settings_of(
                seed=3,
                sampler=SamplerConfig(fanout=5),
                graph=replace(CONFIG, dropout=0.0, feature_dropout=0.0),
            ),
            inputs={},
        )
        path = tmp_path / f"{world_size}.json"
        path.write_text(json.dumps(job.to_dict()))
        subprocess.run(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"),
                *("--nproc-per-node", str(world_size), "-m", "netgpt.trainers.worker", str(path)),
            ],
            check=True,
            capture_output=True,
            timeout=900,
        )
        manifest = read_manifest(job.folder)
        assert manifest is not None
        results[world_size] = manifest["metrics"]
        losses = losses_of(job.folder)
        results[world_size]["losses"] = losses
    assert results[1]["losses"] == pytest.approx(results[2]["losses"], rel=1e-4)
    assert len(results[1]["losses"]) > 9
    for a, b in zip(results[1]["history"], results[2]["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["val_mae"] == pytest.approx(b["val_mae"], rel=1e-4)


def losses_of(folder: Path, name: str = "train/loss") -> list[float]:
    """The curve as TensorBoard reads it, by step."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / TENSORBOARD))
    events.Reload()
    scalars = events.Scalars(name)
    assert [s.step for s in scalars] == sorted({s.step for s in scalars})
    return [s.value for s in scalars]


def test_tensorboard_has_every_step_once(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the run was killed behind its last checkpoint."""
    config = replace(CONFIG, checkpoint_steps=2)
    whole = train(store, tmp_path / "whole", config)
    result = whole.run()
    trainer = train(store, tmp_path / "killed", config)
    fail_at(trainer, 3, monkeypatch)
    with pytest.raises(KilledError):
        trainer.run()
    train(store, tmp_path / "killed", config).run()
    for folder in (tmp_path / "whole", tmp_path / "killed"):
        assert len(losses_of(folder)) == 3 * len(whole.steps)
        maes = losses_of(folder, "val/mae")
        assert maes == pytest.approx([entry["val_mae"] for entry in result["history"]])
    assert losses_of(tmp_path / "whole") == losses_of(tmp_path / "killed")


@pytest.mark.parametrize("encoder", ["rgcn", "gcn", "han", "hetsann", "hgt"])
def test_exact_steps_are_sampled_steps_of_all_neighbours(encoder: str, store: Store, tmp_path: Path) -> None:
    """`neighbors: all` against one mini-batch of every seed and every head: the same losses."""
    same = replace(
        CONFIG, encoder=encoder, dropout=0.0, feature_dropout=0.0, epochs=6, patience=6, batch_size=10_000
    )
    # All nodes are seeds: HAN weighs relations by a mean over the tails that are there
    splits = replace(TASK.examples(store), train=np.arange(store.num_nodes["video"]))
    results = {}
    for neighbors in ("all", "sampled"):
        results[neighbors] = GraphTrainer(
            settings_of(graph=replace(same, neighbors=neighbors), sampler=SamplerConfig(fanout=100_000)),
            store,
            TASK,
            tmp_path,
            examples=splits,
            key=neighbors,  # each starts anew
        ).run()
    exact, sampled = results["all"], results["sampled"]
    for a, b in zip(exact["history"], sampled["history"], strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
        assert a["val_mae"] == pytest.approx(b["val_mae"], rel=1e-3)
    assert exact["history"][-1]["loss"] < exact["history"][0]["loss"]
    # All neighbours are drawn, so sampled evaluation is exact evaluation
    scores = sampled_scores(tmp_path)
    assert scores is not None
    if encoder != "han":
        for part, ids in (("val", splits.val), ("test", splits.test)):
            found = TASK.measure(scores[ids], splits.truth[ids])["mae"]
            assert found == pytest.approx(sampled["exact"][part]["mae"], rel=1e-4)


def test_bfloat16_is_close_and_scores_are_float32(store: Store, tmp_path: Path) -> None:
    for changes in ({}, {"encoder": "han", "heads": 2}, {"neighbors": "all"}, {"encoder": "gcn"}):
        losses = {}
        for precision in ("float32", "bfloat16"):
            config = replace(
                CONFIG, precision=precision, dropout=0.0, feature_dropout=0.0, epochs=2, **changes
            )
            trainer = train(store, tmp_path / "run", config)
            trainer.loop.key = f"{precision} {changes}"  # each starts anew
            seen: list[torch.dtype] = []
            score = trainer.model.score

            def spy(h: torch.Tensor, score: Any = score, seen: list[torch.dtype] = seen) -> torch.Tensor:
                out = score(h)
                seen.append(out.dtype)
                return out

            trainer.model.score = spy  # type: ignore[method-assign]
            losses[precision] = [entry["loss"] for entry in trainer.run()["history"]]
            assert set(seen) == {torch.float32}
        assert losses["bfloat16"] != losses["float32"]
        assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05)


def test_a_checkpoint_of_other_inputs_is_not_resumed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, tmp_path / "run").run()
    other = train(store, tmp_path / "run")
    other.loop.key = "of other inputs"
    taken = steps_of(other, monkeypatch)
    other.run()
    assert taken[0] == 0


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_loss_that_is_no_number_ends_the_stage(
    bad: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the batch, the last checkpoint stays, and without the fault the run goes on."""
    config = replace(CONFIG, checkpoint_steps=2)
    whole = train(store, tmp_path / "whole", config).run()
    trainer = train(store, tmp_path / "run", config)
    step, folder = trainer.train, tmp_path / "run"
    fault_seeds: list[int] = []

    def poison(one: GraphStep, number: int) -> StepResult:
        if number == 3:
            fault_seeds.extend(one.global_seeds.tolist())
            forward = one.forward
            weight = next(trainer.model.parameters())

            def bad_forward() -> torch.Tensor:
                # An infinite loss; or a finite one whose gradient is not
                extra = weight.sum() * float("inf") if bad == "loss" else (weight * 0).sum().abs().sqrt()
                return forward() + extra

            one = replace(one, forward=bad_forward)
        return step(one, number)

    monkeypatch.setattr(trainer, "train", poison)
    ids = r"its 24 ids: (\d+, ){5}…"
    with pytest.raises(TrainerError, match=rf"loss of step 3 \(epoch 0, batch 3\): found .*{ids}.*graph\.lr"):
        trainer.run()
    written = json.loads((folder / BAD_BATCH).read_text())
    assert written["ids"] == [store.ids[v] for v in fault_seeds] and written["step"] == 3
    assert not (folder / MODEL).exists()
    kept = checkpoint.open_newest(folder / CHECKPOINTS, "")
    assert kept is not None and kept.step == kept.meta["state"]["step"] == 2
    shapes = {name: p.shape for name, p in trainer.optimizer.trained.items()}
    tensors = [tensor for _, _, tensor in kept.tensors(shapes)]
    assert len(tensors) == 3 * len(shapes) and all(torch.isfinite(t).all() for t in tensors)
    assert train(store, folder, config).run() == whole
    assert not (folder / BAD_BATCH).exists()


def test_a_model_of_another_store_is_refused(store: Store, csr_store: Store, tmp_path: Path) -> None:
    train(store, tmp_path / "run").run()
    load_model(tmp_path / "run", store, TASK, CPU)
    with pytest.raises(TrainerError, match=f"found a model of the store {store.digest[:12]}, expected"):
        load_model(tmp_path / "run", csr_store, TASK, CPU)


def test_training_learns_and_stops_early(store: Store, tmp_path: Path) -> None:
    config = GraphConfig(hidden=16, batch_size=32, epochs=60, lr=0.02, dropout=0.0, patience=2)
    result = train(store, tmp_path / "run", config).run()
    history = result["history"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert result["epochs"] < 60 and result["epochs"] - 1 - result["best"]["epoch"] <= 3
    assert result["best"]["val_mae"] == min(h["val_mae"] for h in history)
    # The kept weights are those of the best epoch, not of the last
    model = load_model(tmp_path / "run", store, TASK, CPU)
    _, scores = embed(model, FeatureTables(store, CPU))
    val = TASK.examples(store).val
    mae = np.abs(np.clip(scores[val].astype(np.float64), 0, 9) - TASK.truth(store)[val]).mean()
    assert mae == pytest.approx(result["best"]["val_mae"], rel=1e-9)


def test_the_last_epoch_is_kept_where_that_is_asked_for(store: Store, tmp_path: Path) -> None:
    """Whatever validation says, and without stopping early."""
    config = replace(CONFIG, lr=0.05, epochs=12, patience=1, select="last", thresholds=True)
    trainer = train(store, tmp_path / "run", config)
    result = trainer.run()
    maes = [entry["val_mae"] for entry in result["history"]]
    assert result["epochs"] == 12 and np.argmin(maes) != 11  # the best is another
    assert result["best"] == result["history"][-1]
    _, scores = embed(load_model(tmp_path / "run", store, TASK, CPU), FeatureTables(store, CPU))
    val, truth = trainer.examples.val, trainer.examples.truth
    assert TASK.measure(scores[val], truth[val])["mae"] == pytest.approx(maes[-1], rel=1e-9)


@pytest.mark.parametrize("neighbors", ["sampled", "all"])
def test_feature_dropout_hides_nodes_and_leaves_categories_alone(
    neighbors: str, store: Store, tmp_path: Path
) -> None:
    config = replace(CONFIG, feature_dropout=0.5, dropout=0.0, neighbors=neighbors)
    trainer = train(store, tmp_path, config)
    seen: dict[str, torch.Tensor] = {}
    encode = trainer.model.encode

    def spy(inputs: dict[str, Projected], blocks: Any) -> Any:
        seen.update({name: x.states for name, x in inputs.items()})
        return encode(inputs, blocks)

    trainer.model.encode = spy  # type: ignore[method-assign]
    trainer.train(next(iter(trainer.steps.stream(0, 0))), 0)
    biases = {name: layer.bias.detach() for name, layer in trainer.model.project.items()}
    hidden = {}
    for name, h in seen.items():
        start = GraphModel(trainer.model.shape).project[name].bias
        assert start.shape == biases[name].shape
        # A node without content has its type's bias; the step moved that by no more than the rate
        hidden[name] = float(((h - biases[name]).abs() < 0.05).all(1).float().mean())
    for name in ("platform", "topic", "likes", "views"):
        assert hidden[name] == 0, name
    for name in ("title", "description", "time", "ctime"):
        assert 0.35 < hidden[name] < 0.65, name
    if neighbors == "all":  # states of one video share a title, and lose it one by one
        assert len(seen["title"]) == store.num_nodes["title"] > store.features("title").num_rows


def test_categories_that_are_not_there_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"graph\.keep_features: found 'platfrom', expected one of video"):
        train(store, tmp_path, replace(CONFIG, keep_features=["platfrom"]))


def test_tables_beyond_their_budget_change_only_the_rounding(store: Store, tmp_path: Path) -> None:
    losses = []
    for gb in (1.0, 20e-6, 0.0):
        trainer = train(store, tmp_path, replace(CONFIG, tables_gb=gb))
        trainer.loop.key = str(gb)
        losses.append([entry["loss"] for entry in trainer.run()["history"]])
        assert (len(trainer.tables.resident) == len(store.node_types)) == (gb == 1.0)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_splits_keep_videos_together_and_in_order(store: Store) -> None:
    splits = rating(val_share=0.25).examples(store)
    url = store.category("video", "url")[0]
    parts = {name: set(url[ids].tolist()) for name, ids in splits.named().items()}
    assert not parts["train"] & parts["val"] and not parts["val"] & parts["test"]
    post = store.column("video", "time")
    assert (
        post[splits.train].max() < post[splits.val].min() <= post[splits.val].max() < post[splits.test].min()
    )
    assert 0.2 < len(splits.val) / (len(splits.val) + len(splits.train)) < 0.35


def test_a_damaged_file_of_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    weights.save(path, {"a": torch.arange(3)}, {"step": 4})
    tensors, meta = weights.load(path)
    assert meta == {"step": 4} and tensors["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TrainerError, match="not a readable file of weights"):
        weights.load(path)
