"""A run as MLflow has it, against the run's own files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import make_run

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.report import write_report
from netgpt.cluster.tracking import metrics_of, require_tracking, settings, track
from netgpt.graphstore.datasets.xsvideo.schema import Config


@pytest.fixture(scope="module")
def store(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tracking")
    (root / "records.json").write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    config = Config(encoder="hash:16", time_dim=8, video_dim=4)
    graphstore.build(root / "records.json", root / "store", config)
    return root / "store"


def test_figures_and_settings_are_the_runs(store: Path, tmp_path: Path) -> None:
    run = make_run(store, tmp_path / "run")
    run.publish()
    found = {(name, step): value for name, step, value in metrics_of(run)}
    measured = run.metrics()
    for key, parts in measured["stages"].items():
        assert found[f"{key}/test/mae", 0] == parts["test"]["mae"]
    assert found["baseline/lookup/test/mse", 0] == measured["baselines"]["lookup"]["test"]["mse"]
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    curve = [line for line in lines if line["stage"] == "stage3" and "lr" in line]
    assert curve and all(found["stage3/by step/loss", line["step"]] == line["loss"] for line in curve)
    epochs = [line for line in lines if line["stage"] == "stage1" and "epoch" in line]
    assert epochs and all(found["stage1/by epoch/val_mae", e["epoch"]] == e["val_mae"] for e in epochs)
    assert all(name.isascii() for name, _ in found)
    told = dict(settings({"seed": 3, "graph": {"lr": 0.5, "keep": ["a"]}}))
    assert told == {"seed": "3", "graph.lr": "0.5", "graph.keep": "['a']"}


def test_a_server_that_is_not_there_costs_a_line(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(store, tmp_path / "run", overrides=["cluster.mlflow=http://127.0.0.1:9"])
    monkeypatch.setattr("netgpt.cluster.tracking.require_tracking", lambda uri: None)
    track(run)
    said = capsys.readouterr().err
    assert said.startswith("cluster.mlflow: http://127.0.0.1:9: not told (") and "the run is whole" in said
    assert said.count("\n") == 1


def test_without_mlflow_a_run_does_not_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mlflow", None)
    with pytest.raises(ClusterError, match=r"pip install netgpt\[mlflow\]"):
        require_tracking("file:///somewhere")
    require_tracking("")


def test_what_mlflow_has_is_the_run_once(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="pip install -e .[mlflow]")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run = make_run(store, tmp_path / "run", overrides=[f"cluster.mlflow={uri}"])
    run.publish()
    write_report(run)
    track(run)
    track(run)  # told again: the same one
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "netgpt"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.data.metrics["stage3/test/mae"] == run.metrics()["stages"]["stage3"]["test"]["mae"]
    assert found.data.params["graph.epochs"] == "3" and found.data.tags["netgpt.store"] == run.store.digest
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert {one.path for one in client.list_artifacts(found.info.run_id)} == {"config.yaml", "report.html"}
