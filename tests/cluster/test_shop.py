"""A guest of every kind in one recipe, from its own file through `netgpt run` to predictions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.toys.dataset import made_things

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "tests" / "toys" / "shop.yaml"


def netgpt(*args: object) -> subprocess.CompletedProcess[str]:
    """From the tree's own folder: there a recipe's modules are found."""
    command = [sys.executable, "-m", "netgpt", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1700, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over the first 90 of 100 things; the others are in new.jsonl, without a grade."""
    folder, things = tmp_path_factory.mktemp("shop"), made_things(0.1, 0)
    for name, part in (("things", things[:90]), ("new", [{**t, "grade": -1} for t in things[90:]])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(t) + "\n" for t in part), encoding="utf-8")
    done = netgpt("run", "--config", RECIPE, "--data", folder / "things.jsonl", "--out", folder / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "SAGE" in done.stdout and "polish, likeliest answer" in done.stdout and "Brier" in done.stdout
    return folder


@pytest.mark.all
def test_metrics_are_those_of_the_predictions(shop: Path) -> None:
    metrics = json.loads(netgpt("evaluate", shop / "run", "--json").stdout)
    assert {"stage1", "stage2", "polish", "polish_generated"} <= metrics["stages"].keys()
    assert list(metrics["baselines"]) == ["share"]
    table = pq.read_table(shop / "run" / "predictions.parquet").to_pydict()
    grades = {thing["id"]: thing["grade"] for thing in made_things(0.1, 0)[:90]}
    assert set(table["id"]) == {name for name, grade in grades.items() if grade >= 0}
    assert table["truth"] == [float(grades[name] > 2) for name in table["id"]]
    is_test = np.array(table["split"]) == "test"
    truth = np.array(table["truth"])[is_test]
    for name in ("stage1", "stage2", "polish"):
        chance, measured = np.array(table[f"{name}_score"])[is_test], metrics["stages"][name]["test"]
        assert measured["num"] == len(truth) and measured["brier"] == pytest.approx(
            np.mean((chance - truth) ** 2)
        )
        pairs = [
            1.0 if yes > no else 0.5 if yes == no else 0.0
            for yes in chance[truth == 1]
            for no in chance[truth == 0]
        ]
        assert measured["auc"] == pytest.approx(np.mean(pairs))
        by_maker = measured["maker"]
        assert sum(one["num"] for one in by_maker.values()) == len(truth)


@pytest.mark.all
def test_new_things_are_rated(shop: Path) -> None:
    done = netgpt("predict", shop / "run", "--data", shop / "new.jsonl", "--out", shop / "new.json")
    assert done.returncode == 0, done.stderr[-3000:]
    answers = [json.loads(line) for line in (shop / "new.json").read_text().splitlines()]
    assert [one["id"] for one in answers] == [f"t{i}" for i in range(90, 100)]
    for one in answers:
        assert one["answer"] == ("yes" if one["chance"] > 0.5 else "no") and 0 <= one["chance"] <= 1


@pytest.mark.all
def test_the_run_says_all_of_its_guests(shop: Path) -> None:
    status = json.loads(netgpt("status", shop / "run", "--json").stdout)
    states = {one["stage"]: one["state"] for one in status["stages"]}
    assert states["polish"] == states["evaluation"] == "done" and "stage3" not in states
    page = (shop / "run" / "report.html").read_text(encoding="utf-8")
    for words in ("SAGE", "polish", "Brier", "mean squared error of the chance", "maker 3"):
        assert words in page
