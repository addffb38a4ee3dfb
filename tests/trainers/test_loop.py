"""The one training loop over steps of both kinds and under both engines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt.trainers import checkpoint
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.loop import CHECKPOINTS, TENSORBOARD, Loop
from netgpt.trainers.progress import PROGRESS, read_progress
from netgpt.trainers.schedule import learning_rate
from tests.trainers.toy_steps import BATCH, EPOCHS, GROUPS, POINTS, KilledError, make_loop, steps_of

NUM = POINTS // BATCH
TOTAL = EPOCHS * NUM
STOPS = {"adamw": (0, 1, 3, 5, 6, 9, 14), "zero": (3, 5, 14)}
"""Before and behind a checkpoint, at an epoch's end, and at the last step."""
AS_GRAPH: dict[str, Any] = {"shows_best": True, "patience": 9}
AS_LANGUAGE: dict[str, Any] = {"log_steps": 2, "counts_steps": True, "scored": True}


pytestmark = pytest.mark.usefixtures("process_group")


def results(loop: Loop) -> dict[str, Any]:
    return {"state": loop.state, "curve": loop.curve, "last": weights_of(loop)}


def weights_of(loop: Loop) -> dict[str, bytes]:
    return {name: t.numpy().tobytes() for name, t in loop.engine.values().items()}


@pytest.mark.parametrize("engine", ["adamw", "zero"])
@pytest.mark.parametrize("how", [AS_GRAPH, AS_LANGUAGE], ids=["graph", "language"])
def test_a_stop_at_any_step_ends_in_the_same_bits(engine: str, how: dict[str, Any], tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole", engine, **how)
    whole.run()
    assert steps_of(whole).taken == list(range(TOTAL)) and len(whole.state.history) == EPOCHS
    for stop in STOPS[engine]:
        folder = tmp_path / str(stop)
        with pytest.raises(KilledError):
            make_loop(folder, engine, stop=stop, **how).run()
        again = make_loop(folder, engine, **how)
        again.run()
        # There is a checkpoint at every second step, and at the end of each epoch
        kept = max(step for step in range(stop + 1) if step % 2 == 0 or step % NUM == 0)
        assert steps_of(again).taken == list(range(kept, TOTAL))
        assert results(again) == results(whole)
        assert {k: t.numpy().tobytes() for k, t in again.best.items()} == {
            k: t.numpy().tobytes() for k, t in whole.best.items()
        }


def test_each_step_has_the_rate_of_its_number(tmp_path: Path) -> None:
    for engine in ("adamw", "zero"):
        loop = make_loop(tmp_path / engine, engine)
        loop.run()
        assert steps_of(loop).rates == [learning_rate(0.02, step, TOTAL) for step in range(TOTAL)]


def test_the_curve_has_a_point_for_each_so_many_steps(tmp_path: Path) -> None:
    """Two steps a point, the last of an epoch alone: mean loss, rates of all and of each group."""
    loop = make_loop(tmp_path / "run", **AS_LANGUAGE)
    sums: list[np.ndarray] = []
    train = steps_of(loop).train

    def noted(step: np.ndarray, number: int) -> Any:
        result = train(step, number)
        sums.append(result.sums)
        return result

    steps_of(loop).train = noted  # type: ignore[method-assign]
    loop.run()
    ends = [step for step in range(1, TOTAL + 1) if step % 2 == 0 or step % NUM == 0]
    assert [point["step"] for point in loop.curve.points] == ends
    losses = steps_of(loop).losses
    for first, point in zip([0, *ends], loop.curve.points, strict=False):
        last = point["step"]
        assert point["loss"] == pytest.approx(np.mean(losses[first:last]))
        assert point["lr"] == learning_rate(0.02, last - 1, TOTAL)
        table = np.sum(sums[first:last], axis=0)
        num, right, squares = table.sum(0)
        assert (point["num"], point["train_acc"]) == (num, pytest.approx(right / num))
        assert point["train_mse"] == pytest.approx(squares / num)
        shown = point["kind"]
        assert list(shown) == [name for name, row in zip(GROUPS.names, table, strict=True) if row[0]]
        for name, row in zip(GROUPS.names, table, strict=True):
            if row[0]:
                rates = {"train_acc": row[1] / row[0], "train_mse": row[2] / row[0], "num": row[0]}
                assert shown[name] == pytest.approx(rates)
    assert json.loads(json.dumps(loop.curve.points)) == loop.curve.points
    assert make_loop(tmp_path / "without").curve.points == []


def test_the_history_is_of_each_epoch(tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", **AS_LANGUAGE)
    loop.run()
    for epoch, entry in enumerate(loop.state.history):
        losses = steps_of(loop).losses[epoch * NUM : (epoch + 1) * NUM]
        assert (entry["epoch"], entry["step"]) == (epoch, (epoch + 1) * NUM)
        assert entry["loss"] == pytest.approx(np.mean(losses)) and entry["val_of"] == {"odd": 1}
    plain = make_loop(tmp_path / "graph", **AS_GRAPH)
    plain.run()
    assert all("step" not in entry for entry in plain.state.history)


def test_nothing_is_said_of_validation_before_it_was(tmp_path: Path) -> None:
    """Not the infinity that any error is better than: `val_mae=inf`."""
    loop, seen = make_loop(tmp_path, **AS_GRAPH), []
    update = loop.progress.update

    def noted(done: int, total: int, unit: str, **values: float) -> None:
        seen.append((done, total, unit, values))
        update(done, total, unit, **values)

    loop.progress.update = noted  # type: ignore[method-assign]
    loop.run()
    assert [(done, total, unit) for done, total, unit, _ in seen] == [
        (n, TOTAL, "step") for n in range(1, TOTAL + 1)
    ]
    for done, _, _, values in seen:
        assert ("val_mae" in values) == (done > NUM) and np.isfinite(list(values.values())).all()
    losses = steps_of(loop).losses
    assert seen[NUM + 1][3]["loss"] == pytest.approx(np.mean(losses[NUM : NUM + 2]))  # of its own epoch
    assert "Infinity" not in (tmp_path / PROGRESS).read_text()
    found = read_progress(tmp_path)
    assert found is not None and (found.done, found.total) == (TOTAL, TOTAL)


@pytest.mark.parametrize("engine", ["adamw", "zero"])
def test_a_loss_that_is_no_number_is_refused_and_no_checkpoint_has_it(engine: str, tmp_path: Path) -> None:
    loop = make_loop(tmp_path / "run", engine, spoilt=7)
    with pytest.raises(TrainerError, match=r"^loss of step 7: found nan, expected a finite number$"):
        loop.run()
    kept = checkpoint.open_newest(tmp_path / "run" / CHECKPOINTS, "")
    assert kept is not None and kept.step == 6
    shapes = {name: p.shape for name, p in loop.engine.trained.items()}
    assert all(torch.isfinite(tensor).all() for _, _, tensor in kept.tensors(shapes))
    if engine == "adamw":  # the weights are those of before the step
        assert all(torch.isfinite(t).all() for t in loop.engine.values().values())
    again, whole = make_loop(tmp_path / "run", engine), make_loop(tmp_path / "whole", engine)
    again.run()
    whole.run()
    assert results(again) == results(whole)


def test_a_validation_that_is_no_number_is_refused_in_one_line(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, judged=[1.0, float("nan")])
    words = "validation MAE: found nan, expected a finite number; lower toy.lr or toy.clip"
    with pytest.raises(TrainerError, match=f"^{words}$"):
        loop.run()
    assert loop.state.best == 1.0 and loop.state.best_epoch == 0


def test_the_best_weights_are_kept_or_the_last(tmp_path: Path) -> None:
    judged = [0.5, 0.2, 0.3]
    for select, kept in (("best", 1), ("last", 2)):
        loop = make_loop(tmp_path / select, select=select, judged=list(judged))
        after: list[dict[str, bytes]] = []
        judge = steps_of(loop).judge

        def noted(judge: Any = judge, loop: Loop = loop, after: list[Any] = after) -> Any:
            after.append(weights_of(loop))
            return judge()

        steps_of(loop).judge = noted  # type: ignore[method-assign]
        loop.run()
        assert loop.state.best_epoch == kept and loop.state.best == judged[kept]
        assert {k: t.numpy().tobytes() for k, t in loop.best.items()} == after[kept]


@pytest.mark.parametrize(
    ("judged", "epochs"), [([0.1, 0.2, 0.3], 2), ([0.3, 0.2, 0.1], 3), ([0.1, 0.1, 0.1], 2)]
)
def test_it_stops_after_so_many_epochs_without_a_better_one(
    judged: list[float], epochs: int, tmp_path: Path
) -> None:
    loop = make_loop(tmp_path, judged=list(judged), patience=1)
    loop.run()
    assert len(loop.state.history) == epochs and loop.state.step == epochs * NUM
    found = read_progress(tmp_path)
    assert found is not None and (found.done, found.total) == (epochs * NUM, epochs * NUM)
    again = make_loop(tmp_path, patience=1)  # and stays where it stopped
    again.run()
    assert steps_of(again).taken == [] and again.state == loop.state


def test_work_of_other_inputs_is_not_gone_on_with(tmp_path: Path) -> None:
    make_loop(tmp_path, key="one").run()
    other, same = make_loop(tmp_path, key="other"), make_loop(tmp_path, key="one")
    same.run()
    assert steps_of(same).taken == []
    other.run()
    assert steps_of(other).taken == list(range(TOTAL))


def test_tensorboard_has_every_point_once_also_after_a_stop(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for how, every in ((AS_GRAPH, 1), (AS_LANGUAGE, 2)):
        folder = tmp_path / str(every)
        with pytest.raises(KilledError):
            make_loop(folder, stop=9, **how).run()
        loop = make_loop(folder, **how)
        loop.run()
        events = EventAccumulator(str(folder / TENSORBOARD))
        events.Reload()
        found = [(one.step, one.value) for one in events.Scalars("train/loss")]
        points = [(point["step"], point["loss"]) for point in loop.curve.points]
        assert [step for step, _ in found] == ([s for s, _ in points] if points else list(range(TOTAL)))
        if points:
            assert [value for _, value in found] == pytest.approx([loss for _, loss in points])
            assert len(events.Scalars("train_acc/odd")) == sum("odd" in p["kind"] for p in loop.curve.points)
        maes = [one.value for one in events.Scalars("val/mae")]
        assert maes == pytest.approx([entry["val_mae"] for entry in loop.state.history])


def test_no_steps_are_no_training(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    steps_of(loop).lengths = lambda: []  # type: ignore[method-assign]
    loop.run()
    assert loop.state.step == 0 and loop.best == {} and not (tmp_path / CHECKPOINTS).exists()
