"""Sweeps: their cells, what runs take over from each other, and one of whole runs."""

from __future__ import annotations

import json
import os
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_report import STAGES, make_run

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline import Run, borrow
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


@pytest.mark.parametrize(
    ("vary", "words"),
    [
        (("graph.lr",), r"--vary: found 'graph.lr', expected KEY=V1\|V2"),
        (("graph.lr=1|2", "graph.lr=3"), "found graph.lr again"),
        (("seed=1|2",), "found seed again, .* and --seed"),
        (("graph.lr=0.1|-1",), "graph.lr: found -1.0, expected above 0"),
        (("graph.lrr=0.1",), "unknown key graph.lrr; did you mean graph.lr"),
        (("without=V|V",), "found values of one name"),
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
        ({"vary": ("build.time_dim=8|16",), "store": Path("s")}, "found build.time_dim with --store"),
    ],
)
def test_what_would_fail_later_is_refused_first(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=words):
        list(sweep(Sweep(config="demo", out=tmp_path / "out", **given)))
    assert not (tmp_path / "out").exists()


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
