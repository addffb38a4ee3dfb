"""Benches of few-shot prompts: pairs in each mode have one loss; a small sweep from runs to table."""

from __future__ import annotations

from pathlib import Path

import pytest

from netgpt.cluster.bench.pairs import MODES, PairsBench, bench_pairs
from netgpt.cluster.bench.pairs import line as line_of_pairs
from netgpt.cluster.bench.shots import PAPER, ShotsBench, bench_shots, line
from netgpt.cluster.errors import ClusterError
from netgpt.graphstore.datasets import names as datasets


@pytest.mark.all
def test_pairs_have_one_loss_in_any_mode(tmp_path: Path) -> None:
    (result,) = bench_pairs(PairsBench(num=3, rounds=1, budget=2048, padded=2), tmp_path)
    loss = result["shared"]["loss"]
    assert loss > 0 and all(result[mode]["loss"] == pytest.approx(loss, rel=1e-3) for mode in MODES)
    assert result["shared"]["tokens"] < 0.55 * result["apart"]["tokens"] <= result["padded"]["tokens"]
    assert "shared is" in line_of_pairs(result)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    for bench, words in (
        (ShotsBench("smpd-demo", tmp_path, tmp_path / "o", losses=("ipo",)), "--loss: found 'ipo'"),
        (ShotsBench("sample", tmp_path, tmp_path / "o"), "found the unknown key|expected a recipe with"),
    ):
        with pytest.raises(ClusterError, match=words):
            list(bench_shots(bench))


@pytest.mark.all
def test_a_sweep_is_runs_that_are_kept(tmp_path: Path) -> None:
    datasets.load("smpd").write_synthetic(tmp_path / "twin", 0.012, 0)
    bench = ShotsBench(
        "smpd-demo",
        tmp_path / "twin",
        tmp_path / "out",
        shots=(1,),
        methods=("none", "full"),
        losses=("dpo", "idpop"),
        overrides=("build.users=20", "tune.epochs=6", "task.digits=1", "pairs.column=set"),
    )
    rows = list(bench_shots(bench))
    said = {(row["case"], row["what"]) for row in rows}
    assert {("run", "the model as it is"), ("run", "full"), ("baseline", "mean of the history")} <= said
    assert {("paper", what) for what in PAPER} <= said and all(line(row) for row in rows)
    once = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("manifest.json")}
    again = list(bench_shots(bench))
    assert {path: path.stat().st_mtime_ns for path in once} == once
    assert [row["case"] for row in again] == [row["case"] for row in rows]
