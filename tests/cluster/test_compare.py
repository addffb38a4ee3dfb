"""Runs beside each other: figures and paired differences against float64 and the normal approximation."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_report import make_run
from test_run import called

from netgpt import graphstore
from netgpt.cluster.compare import compare, text_of, to_json
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.graphstore.datasets.xsvideo.schema import Config


@pytest.fixture(scope="module")
def store(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("compared")
    (root / "records.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    graphstore.build(
        root / "records.json", root / "store", Config(encoder="hash:16", time_dim=8, video_dim=4)
    )
    return root / "store"


@pytest.fixture(scope="module")
def runs(store: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    made = [make_run(store, root / f"seed{seed}", seed=seed) for seed in range(2)]
    return [*made, make_run(store, root / "other", seed=2, overrides=["graph.lr=0.01"])]


def errors(run: Run, key: str = "stage3") -> np.ndarray:
    table = (
        pq.read_table(run.path / "predictions.parquet")
        if (run.path / "predictions.parquet").exists()
        else None
    )
    table = table or pq.read_table(run.path / "evaluation" / "predictions.parquet")
    is_test = np.array(table["split"].to_pylist()) == "test"
    score = np.array(table[f"{key}_score"].to_pylist())[is_test]
    return np.abs(score - np.array(table["level"].to_pylist(), float)[is_test])


def test_figures_are_the_evaluations_and_differences_are_paired(runs: list[Run]) -> None:
    compared = compare([run.path for run in runs])
    own = [errors(run) for run in runs]
    assert compared.num == len(own[0]) and compared.unit == "test examples"
    for run, row, error in zip(runs, compared.rows, own, strict=True):
        test = run.metrics()["stages"]["stage3"]["test"]
        assert {name: row.figures[name] for name in ("acc", "mse", "mae")} == pytest.approx(
            {name: test[name] for name in ("acc", "mse", "mae")}
        )
        assert row.within["mae"] == pytest.approx(run.intervals()["stage3"]["mae"])
        assert row.figures["mae"] == pytest.approx(error.mean())
    assert not compared.rows[0].differences
    for row, error in zip(compared.rows[1:], own[1:], strict=True):
        paired = error - own[0]
        found = row.differences["mae"]
        spread = 1.96 * paired.std() / math.sqrt(len(paired))
        assert found.value == pytest.approx(paired.mean())
        assert found.within == pytest.approx(
            (paired.mean() - spread, paired.mean() + spread), abs=0.2 * spread
        )
        z = abs(paired.mean()) / (paired.std() / math.sqrt(len(paired)))
        assert found.chance == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.1)


def test_a_run_is_not_apart_from_itself(runs: list[Run]) -> None:
    row = compare([runs[0].path, runs[0].path]).rows[1]
    assert all((d.value, d.within, d.chance) == (0, (0, 0), 1) for d in row.differences.values())


def test_runs_that_differ_by_the_seed_are_a_group(runs: list[Run]) -> None:
    compared = compare([run.path for run in runs], of="stage1")
    (group,) = to_json(compared)["groups"]
    assert group["runs"] == [str(run.path) for run in runs[:2]]
    maes = [errors(run, "stage1").mean() for run in runs[:2]]
    assert group["figures"]["mae"] == pytest.approx((np.mean(maes), np.std(maes, ddof=1)))
    text = text_of(compared)
    assert "RGCN, 2 seeds" in text and f"{maes[0]:.4f}" in text
    best = min(errors(run, "stage1").mean() for run in runs)
    assert f"{best:.4f}*" in text and text.count("*") == 1 + len(compared.metrics)


def test_what_is_not_the_same_is_refused(runs: list[Run], store: Path, tmp_path: Path) -> None:
    other = make_run(store, tmp_path / "split", overrides=["task.split.until=2024-12-01"])
    with pytest.raises(
        ClusterError, match=r"found \d+ test examples, expected the \d+ \(.* in one alone\) of .*seed0"
    ):
        compare([runs[0].path, other.path])
    with pytest.raises(ClusterError, match="found 1 run, expected two or more"):
        compare([runs[0].path])
    with pytest.raises(ClusterError, match=r"--of: found 'stage9', expected one of stage1"):
        compare([runs[0].path, runs[1].path], of="stage9")
    half = make_run(store, tmp_path / "half", last="stage2")
    assert called(["compare", str(runs[0].path), str(half.path)]).returncode == 2
