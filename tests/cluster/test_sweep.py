"""Sweeps: their cells, what runs take over from each other, and one of whole runs."""

from __future__ import annotations

import json
import math
import os
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_report import STAGES, make_run

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline import Run, borrow
from netgpt.cluster.search import Axis, questions
from netgpt.cluster.sweep import Sweep, line, sweep
from netgpt.graphstore.datasets.xsvideo.schema import Config

SMALL = (
    "graph.hidden=8",
    "graph.batch_size=32",
    "sampler.fanout=5",
    "task.val_share=0.5",
    "cluster.workers=1",
)
STAGE1 = ("stages=[stage1,embeddings,evaluation]", "baselines=[]")


@pytest.fixture(scope="module")
def source(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sweep") / "records.json"
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    config = Config(encoder="hash:16", time_dim=8, video_dim=4)
    graphstore.build(source, source.parent / "store", config)
    return source.parent / "store"


def test_cells_are_all_combinations(tmp_path: Path) -> None:
    asked = Sweep(
        config="demo",
        out=tmp_path,
        vary=("graph.encoder=rgcn|gcn", "graph.lr=0.1|0.01|0.001"),
        seeds=(0, 4),
        overrides=("graph.epochs=3",),
    )
    cells = asked.cells()
    assert len(cells) == 12 and len({cell.name for cell in cells}) == 12
    found = {(c.config.graph.encoder, c.config.graph.lr, c.config.seed) for c in cells}
    assert found == {(e, lr, s) for e in ("rgcn", "gcn") for lr in (0.1, 0.01, 0.001) for s in (0, 4)}
    assert all(cell.config.graph.epochs == 3 for cell in cells)
    assert cells[0].name == "graph.encoder=rgcn,graph.lr=0.1,seed=0"
    assert [cell.name for cell in Sweep(config="demo", out=tmp_path).cells()] == ["seed=0"]
    vary = ("graph.encoder=rgcn|gcn,graph.lr=0.008,evaluation.by=[topic,platform]",)
    one, other = Sweep(config="demo", out=tmp_path, vary=vary, overrides=("graph.lr=0.5",)).cells()
    assert (one.config.graph.encoder, one.config.graph.lr) == ("rgcn", 0.5)
    assert (other.config.graph.encoder, other.config.graph.lr) == ("gcn", 0.008)
    assert other.config.evaluation.by == ["topic", "platform"]


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        (("graph.lr",), r"--vary: found 'graph.lr', expected KEY=V1\|V2"),
        (("graph.lr=1|2", "graph.lr=3"), "found graph.lr again"),
        (("seed=1|2",), "found seed again, .* and --seed"),
        (("graph.lr=0.1|-1",), "graph.lr: found -1.0, expected above 0"),
        (("graph.lrr=0.1",), "unknown key graph.lrr; did you mean graph.lr"),
        (("without=V|V",), "found values of one name"),
        (("graph.lr=1e-4..0.1:log",), r"found the range 'graph.lr=1e-4..0.1:log', expected --trials"),
        (("graph.lr=0.1..0.01",), "found the range '0.1..0.01', expected rising numbers"),
        (("graph.lr=0..0.1:log",), "expected rising numbers above 0"),
    ],
)
def test_what_cannot_be_run_is_refused_first(vary: tuple[str, ...], words: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=words):
        list(sweep(Sweep(config="demo", out=tmp_path / "out", vary=vary)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"of": "stage9"}, r"--of: found 'stage9', expected one of stage1"),
        ({"seeds": (3, 3)}, "--seed: found 3, 3, expected each once"),
        ({"overrides": ("stages=[stage1,embeddings]",)}, "expected evaluation among them"),
        ({"trials": 3}, "--trials: found 3 without --vary"),
        ({"trials": 3, "vary": ("graph.lr=-1..0.1",)}, "graph.lr: found -1.0, expected above 0"),
        ({"forward": 2, "overrides": ("task.split.test_until=2025-01-01",)}, "--forward: found no split"),
        ({"vary": ("build.time_dim=8|16",), "store": Path("s")}, "found build.time_dim with --store"),
    ],
)
def test_what_would_fail_later_is_refused_first(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=words):
        list(sweep(Sweep(config="demo", out=tmp_path / "out", **given)))
    assert not (tmp_path / "out").exists()


@dataclass(frozen=True)
class Search:
    out: Path
    trials: int
    seeds: tuple[int, ...] = (0,)


def test_a_search_comes_near_goes_on_and_asks_again_what_was_cut_off(tmp_path: Path) -> None:
    """Of a bowl over a logarithmic range, a whole one and a choice, whose least is known."""
    axes = [Axis.of(one) for one in ("lr=1e-5..1:log", "width=8..64", "kind=a|b|c")]

    def loss(values: tuple[str, ...]) -> float:
        lr, width, kind = float(values[0]), int(values[1]), values[2]
        return (math.log10(lr) + 2) ** 2 + ((width - 40) / 16) ** 2 + 3 * (kind != "b")

    def asked(trials: int, *, cut_off: bool = False) -> list[tuple[str, ...]]:
        seen = []
        for question in questions(Search(tmp_path, trials), axes):
            seen.append(question.values)
            if cut_off and len(seen) == trials:
                break
            question.answer(loss(question.values))
        return seen

    first = asked(10, cut_off=True)
    assert all(1e-5 <= float(v[0]) <= 1 and 8 <= int(v[1]) <= 64 and v[2] in "abc" for v in first)
    again = asked(60)
    assert len(again) == 60 and again[:10] == first  # what was not heard of comes first
    assert len(set(again)) > 50
    least = [loss(values) for values in again]
    assert min(least) < 0.3 and np.mean(least[-20:]) < np.mean(least[:20]) / 2
    assert asked(60) == again  # all is known: nothing new is asked


def test_what_fails_is_no_answer_and_combinations_are_all_asked(tmp_path: Path) -> None:
    axes = [Axis.of("lr=0.1|0.2"), Axis.of("kind=a|b")]
    found = [question.values for question in questions(Search(tmp_path, 0), axes)]
    assert found == [("0.1", "a"), ("0.1", "b"), ("0.2", "a"), ("0.2", "b")]
    for question in questions(Search(tmp_path, 4), axes):
        question.answer(None if question.values[1] == "a" else 1.0)
    known = [question.values for question in questions(Search(tmp_path, 1), axes)]
    assert len(known) == 1 and known[0][1] == "b"


def test_a_cell_that_fails_is_told_and_the_others_are_run(store: Path, tmp_path: Path) -> None:
    """The first folder holds a run on another store; what the second would train is done before."""
    made = make_run(store, tmp_path / "out" / "seed=1", seed=1)
    (tmp_path / "out" / "seed=0").mkdir()
    (tmp_path / "out" / "seed=0" / "store.json").write_text('{"path": "store", "digest": "another"}')
    overrides = ("task.val_share=0.3", "graph.epochs=3")
    asked = Sweep(config="demo", out=tmp_path / "out", store=store, seeds=(0, 1), overrides=overrides)
    failed, run, setting = sweep(asked)
    assert failed["case"] == "failed" and "another store" in failed["why"] and "failed" in line(failed)
    assert (
        run["run"] == str(made.path)
        and run["test"]["mae"] == made.metrics()["stages"]["stage3"]["test"]["mae"]
    )
    assert setting["seeds"] == 1 and not setting["is_chosen"]
    mae = run["test"]["mae"]
    assert setting["test"]["mae"] == (mae, 0.0) and f"MAE {mae:.4f}" in line(setting)


def test_what_is_measured_changes_no_training(store: Path, tmp_path: Path) -> None:
    made = make_run(store, tmp_path / "whole")
    config = replace(made.config, evaluation=replace(made.config.evaluation, stages=["embeddings"]))
    again = Run.start(made.path, config, None, store)
    assert [name for name in STAGES if not again.is_done(name)] == ["evaluation"]


def test_a_run_takes_over_what_is_of_the_same_inputs(store: Path, tmp_path: Path) -> None:
    whole = make_run(store, tmp_path / "whole")

    def started(name: str, *overrides: str) -> Run:
        return make_run(store, tmp_path / name, last="", overrides=overrides)

    same, other = started("same"), started("other", "stage3.lr=0.01")
    assert borrow(same, [other]) == []
    assert borrow(same, [other, whole]) == STAGES and all(same.is_done(name) for name in STAGES)
    assert borrow(same, [whole]) == []
    assert borrow(other, [whole]) == [name for name in STAGES if name not in ("stage3", "evaluation")]
    assert os.stat(other.path / "stage1" / "made").st_ino == os.stat(whole.path / "stage1" / "made").st_ino
    # Not what is damaged: it would be made again
    (whole.path / "stage1" / "made").unlink()
    (whole.path / "stage1" / "made").write_text("otherwise")
    assert "stage1" not in borrow(started("third"), [whole])


@pytest.mark.all
def test_a_sweep_is_runs_in_one_table(source: Path, tmp_path: Path) -> None:
    asked = Sweep(
        config="demo",
        data=source,
        out=tmp_path / "out",
        vary=("graph.epochs=1|4",),
        seeds=(0, 1),
        of="stage1",
        overrides=(
            *SMALL,
            *STAGE1,
            "cluster.workers=1",
            "build.encoder=hash:16",
            "build.time_dim=8",
            "build.video_dim=4",
        ),
    )
    rows = list(sweep(asked))
    runs, settings = [r for r in rows if r["case"] == "run"], [r for r in rows if r["case"] == "setting"]
    assert len(runs) == 4 and len(settings) == 2 and sum(r["is_chosen"] for r in settings) == 1
    for row in runs:
        found = Run.open_(Path(row["run"])).metrics()["stages"]["stage1"]
        assert row["test"] == {name: found["test"][name] for name in row["metrics"]}
    for row in settings:
        own = [r["val"]["mae"] for r in runs if r["settings"] == row["settings"]]
        assert row["val"]["mae"] == pytest.approx((statistics.mean(own), statistics.stdev(own)))
    best = min(settings, key=lambda row: row["val"]["mae"][0])
    assert best["is_chosen"] and "best by validation" in line(best) and all(line(row) for row in rows)
    stores = {Run.open_(Path(row["run"])).store.path for row in runs}
    assert len(stores) == 1
    once = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("manifest.json")}
    assert list(sweep(asked)) == rows
    assert {path: path.stat().st_mtime_ns for path in once} == once


@pytest.mark.all
def test_earlier_splits_choose_and_the_chosen_is_measured_once(source: Path, tmp_path: Path) -> None:
    small = ("build.encoder=hash:16", "build.time_dim=8", "build.video_dim=4", "graph.epochs=2")
    asked = Sweep(
        config="demo",
        data=source,
        out=tmp_path / "out",
        vary=("graph.lr=0.001..0.1:log",),
        trials=2,
        forward=2,
        of="stage1",
        overrides=(*SMALL, *STAGE1, *small),
    )
    rows = list(sweep(asked))
    runs, settings = [r for r in rows if r["case"] == "run"], [r for r in rows if r["case"] == "setting"]
    assert len(runs) == 2 * 2 + 1 and len(settings) == 2 + 1
    forward, (last,) = [r for r in runs if r["split"]], [r for r in runs if not r["split"]]
    splits = sorted({tuple(r["split"]) for r in forward})
    assert len(splits) == 2
    assert (
        splits[0][1].rpartition("=")[2] == splits[1][0].rpartition("=")[2]
    )  # the next begins where one ends
    whole = Run.open_(Path(last["run"]))
    until = whole.config.task.split.end_s()
    for row in forward:
        run = Run.open_(Path(row["run"]))
        times, split = run.store.column("video", "time"), run.config.task.split
        examples = run.task.examples(run.store)
        end = split.test_end_s()
        assert end is not None and end <= until
        assert times[examples.train].max() < split.end_s() <= times[examples.test].min()
        assert times[examples.test].max() < end
    means = {
        tuple(s["settings"]): np.mean([r["test"]["mae"] for r in forward if r["settings"] == s["settings"]])
        for s in settings[:2]
    }
    best = min(means, key=lambda one: means[one])
    assert tuple(last["settings"]) == best == tuple(settings[2]["settings"])
    for row in settings[:2]:
        assert row["forward"]["mae"][0] == pytest.approx(means[tuple(row["settings"])])
        assert row["is_chosen"] == (tuple(row["settings"]) == best) and "test" not in row
    assert settings[2]["test"]["mae"] == (last["test"]["mae"], 0.0)
    assert list(sweep(asked)) == rows
