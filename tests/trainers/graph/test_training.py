"""Stage 1: the same bits however it is run, faults, early stopping, what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from graphstore import Store
from trainers import checkpoint
from trainers.config import GraphConfig, SamplerConfig
from trainers.errors import TrainerError
from trainers.graph.inference import embed
from trainers.graph.model import FeatureTables
from trainers.graph.train import CHECKPOINT, MODEL, GraphTrainer, load_model
from trainers.splits import Splits, make_splits

CPU = torch.device("cpu")
CONFIG = GraphConfig(
    hidden=8, batch_size=32, epochs=3, lr=0.01, dropout=0.2, feature_dropout=0.3, scalar_bins=4
)


def train(store: Store, folder: Path, config: GraphConfig = CONFIG, seed: int = 0) -> GraphTrainer:
    folder.mkdir(exist_ok=True)
    splits = make_splits(store, 0.2)
    return GraphTrainer(config, SamplerConfig(fanout=5), store, splits, folder, seed=seed)


def test_training_twice_gives_the_same_bits_and_another_seed_others(store: Store, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(store, tmp_path / name, seed=seed).run()
    a, b, c = ((tmp_path / n / MODEL).read_bytes() for n in "abc")
    assert a == b != c


def steps_of(trainer: GraphTrainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of the steps that a trainer takes from now on."""
    taken: list[int] = []
    step = trainer._step

    def count(batch: object, number: int) -> float:
        taken.append(number)
        return step(batch, number)

    monkeypatch.setattr(trainer, "_step", count)
    return taken


class KilledError(Exception):
    pass


@pytest.mark.parametrize("fault_step", [0, 2, 5, 7])
def test_a_run_killed_at_any_step_ends_in_the_same_bits(
    store: Store, tmp_path: Path, fault_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, checkpoint_steps=2)
    whole = train(store, tmp_path / "whole", config).run()
    trainer = train(store, tmp_path / "killed", config)
    step = trainer._step

    def fail(batch: object, number: int) -> float:
        if number == fault_step:
            raise KilledError
        return step(batch, number)

    monkeypatch.setattr(trainer, "_step", fail)
    with pytest.raises(KilledError):
        trainer.run()
    resumed = train(store, tmp_path / "killed", config)
    done = steps_of(resumed, monkeypatch)
    assert resumed.run() == whole
    assert done[0] == (fault_step // 2) * 2 if fault_step < len(resumed.steps) else done[0] <= fault_step
    assert done[0] > 0 or fault_step < 2
    for name in (MODEL, CHECKPOINT):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_of_other_inputs_is_not_resumed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(store, tmp_path / "run").run()
    other = train(store, tmp_path / "run")
    other.key = "of other inputs"
    taken = steps_of(other, monkeypatch)
    other.run()
    assert taken[0] == 0


def test_a_loss_that_is_no_number_ends_the_stage(store: Store, tmp_path: Path) -> None:
    trainer = train(store, tmp_path / "run")
    with torch.no_grad():
        trainer.model.predictor.bias.fill_(float("nan"))
    with pytest.raises(TrainerError, match=r"loss of step 0: found nan.*graph\.lr"):
        trainer.run()
    assert not (tmp_path / "run" / MODEL).exists()


def test_training_learns_and_stops_early(store: Store, tmp_path: Path) -> None:
    config = GraphConfig(hidden=16, batch_size=32, epochs=60, lr=0.02, dropout=0.0, patience=2)
    result = train(store, tmp_path / "run", config).run()
    history = result["history"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert result["epochs"] < 60 and result["epochs"] - 1 - result["best"]["epoch"] <= 3
    assert result["best"]["val_mae"] == min(h["val_mae"] for h in history)
    # The kept weights are those of the best epoch, not of the last
    model = load_model(tmp_path / "run", store, CPU)
    _, scores = embed(model, FeatureTables(store, CPU))
    val = make_splits(store, 0.2).val
    mae = np.abs(np.clip(scores[val].astype(np.float64), 0, 9) - store.labels[val]).mean()
    assert mae == pytest.approx(result["best"]["val_mae"], rel=1e-9)


def test_splits_keep_videos_together_and_in_order(store: Store) -> None:
    splits: Splits = make_splits(store, 0.25)
    url = store.key("url")[0]
    parts = {name: set(url[ids].tolist()) for name, ids in splits.named().items()}
    assert not parts["train"] & parts["val"] and not parts["val"] & parts["test"]
    post = store.post_time
    assert (
        post[splits.train].max() < post[splits.val].min() <= post[splits.val].max() < post[splits.test].min()
    )
    assert 0.2 < len(splits.val) / (len(splits.val) + len(splits.train)) < 0.35


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    checkpoint.save(path, {"a": torch.arange(3)}, {"step": 4})
    tensors, meta = checkpoint.load(path)
    assert meta == {"step": 4} and tensors["a"].tolist() == [0, 1, 2]
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(TrainerError, match="not a readable checkpoint"):
        checkpoint.load(path)
