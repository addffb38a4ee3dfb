"""The command line end to end: a whole run, the same run killed in each stage, and predictions."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from place_cases import *  # noqa: F403  # of the same run, and so of the same process
from runs import GPUS, SETTINGS, WEIGHTS, command, netgpt
from service_cases import *  # noqa: F403

from netgpt import graphstore
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.cluster.pipeline.run import Run
from netgpt.graphstore.documents import documents
from netgpt.graphstore.files import file_digest
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import load_model
from netgpt.trainers.language.text.prompt import visible_record
from netgpt.trainers.stages import folder as stage_folder
from tests.program import called


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


def whole_table(run: Path) -> str:
    return called("evaluate", run).stdout


@pytest.mark.all
def test_exact_training_of_another_encoder(data: tuple[Path, Path], tmp_path: Path) -> None:
    """One worker, whatever the configuration has, and no sampled scores."""
    changes = ("graph.encoder=gcn", "graph.neighbors=all")
    done = netgpt("pretrain", "--config", "demo", "--data", data[0], "--out", tmp_path, *SETTINGS, *changes)
    assert done.returncode == 0, done.stderr[-3000:]
    manifest = stage_folder.read_manifest(tmp_path / "stage1")
    assert manifest is not None and manifest["inputs"]["workers"] == 1
    assert manifest["metrics"]["exact"]["test"]["num"] > 0
    assert "sampled.safetensors" not in manifest["outputs"]


def test_a_run_leaves_what_the_design_names(whole: Path) -> None:
    names = {p.name for p in whole.iterdir()}
    assert {"config.yaml", "store.json", "stage1", "embeddings", "tokens", "stage2", "stage3"} <= names
    assert {"metrics.jsonl", "predictions.parquet", "report.html", "attempts.jsonl", "logs"} <= names
    done = json.loads(called("status", whole, "--json").stdout)
    assert {one["state"] for one in done["stages"]} == {"done"} and not done["worked_on"]
    for one in done["stages"]:
        assert one["attempts"] == 1 and one["restarts"] == 0 and one["seconds"] > 0
        assert f"{one['stage']}: " in Path(one["log"]).read_text()
    page = (whole / "report.html").read_text()
    assert page.count('<th scope="row">relation ') >= 5  # of the worst answers
    assert "<dt>command</dt><dd>netgpt run --config demo" in page and "<dt>machine</dt>" in page
    store = graphstore.open(str(whole / "store"))
    assert graphstore.verify(whole / "store") == []
    table = pq.read_table(whole / "predictions.parquet").to_pydict()
    assert set(table["id"]) == set(store.ids)
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert {line["stage"] for line in lines} == {"stage1", "stage2", "stage3", "evaluation"}
    found = called("evaluate", whole, "--json")
    metrics = json.loads(found.stdout)
    assert metrics["encoder"] == "RGCN" and "RGCN, sampled" in whole_table(whole)
    for split in ("val", "test"):
        exact, sampled = (metrics["stages"][name][split] for name in ("stage1", "stage1_sampled"))
        assert exact["num"] == sampled["num"] and abs(exact["mae"] - sampled["mae"]) < 0.3
        assert sum(m["num"] for m in exact["platform"].values()) == exact["num"]
        assert sum(m["num"] for m in exact["period"].values()) == exact["num"]
    for name in ("stage2", "stage2_generated"):
        for split in ("val", "test"):
            assert {"acc", "mse", "mae", "num", "platform", "period"} <= metrics["stages"][name][split].keys()
    curve = [line for line in lines if line["stage"] == "stage3" and "platform" in line]
    assert sum(line["num"] for line in curve) == 2 * sum(s == "train" for s in table["split"])
    assert all(0 <= m["train_acc"] <= 1 for line in curve for m in line["platform"].values())
    epochs = [line for line in lines if line["stage"] == "stage1"]
    assert all(line["val_platform"] and line["val_period"] for line in epochs)
    for name in ("stage1", "stage2", "stage3"):
        for split in ("train", "val", "test"):
            ids = [i for i, s in enumerate(table["split"]) if s == split]
            scores = np.array(table[f"{name}_score"])[ids]
            assert ((scores >= 0) & (scores <= 9)).all()
            levels = np.array(table["level"])[ids]
            assert metrics["stages"][name][split]["mae"] == pytest.approx(np.abs(scores - levels).mean())
            assert metrics["stages"][name][split]["acc"] == pytest.approx(
                (np.floor(scores + 0.5) == levels).mean()
            )


def test_a_finished_run_is_not_done_again(whole: Path, data: tuple[Path, Path]) -> None:
    before = {p: p.stat().st_mtime_ns for p in whole.rglob("manifest.json")}
    predictions = (whole / "predictions.parquet").read_bytes()
    (whole / "predictions.parquet").unlink()  # as if killed between the last stage and its publication
    again = called("run", "--config", "demo", "--data", data[0], "--out", whole, *SETTINGS)
    assert (whole / "predictions.parquet").read_bytes() == predictions
    assert again.returncode == 0 and again.stderr.count("done before") == 7
    assert {p: p.stat().st_mtime_ns for p in whole.rglob("manifest.json")} == before
    other = called("run", "--config", "demo", "--data", data[1], "--out", whole, *SETTINGS)
    assert other.returncode == 2 and "other data" in other.stderr


def kill_in(stage_name: str, run: Path, arguments: list[str]) -> None:
    """Start the run and kill its driver without warning once the stage has made progress."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 300
    progress = run / stage_name / "progress.json"
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        if progress.exists() and json.loads(progress.read_text())["done"] >= 4:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert stage_folder.read_manifest(run / stage_name) is None


@pytest.mark.all
@pytest.mark.timeout(5000)  # four starts of a whole run
def test_a_run_killed_in_each_stage_ends_in_the_same_bits(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "killed"
    arguments = command("run", "--config", "demo", "--data", data[0], "--out", run, *SETTINGS)
    for name in ("stage1", "stage2", "stage3"):
        kill_in(name, run, arguments)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=3000, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stage 3: rating: continues" in done.stderr
    for name, weights in WEIGHTS.items():
        assert file_digest(run / name / weights) == file_digest(whole / name / weights), name
    for name in ("metrics.jsonl", "predictions.parquet"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.all
def test_a_killed_rank_is_started_again_and_changes_nothing(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    run = tmp_path / "rank"
    steps = ("graph.checkpoint_steps=2",)  # no part of what a stage is made from
    process = subprocess.Popen(
        command("pretrain", "--config", "demo", "--data", data[0], "--out", run, *SETTINGS, *steps),
        stderr=subprocess.PIPE,
        text=True,
    )
    progress, log = run / "stage1" / "progress.json", run / "logs" / "stage1.log"
    deadline = time.monotonic() + 300
    while not progress.exists() or json.loads(progress.read_text())["done"] < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    ranks = re.findall(r"INFO rank (\d+) \([^,]*, (\d+)\)", log.read_text())
    os.kill(int(dict(ranks)["1"]), signal.SIGKILL)
    _, said = process.communicate(timeout=1200)
    assert process.returncode == 0, said[-3000:]
    assert "started again 1 times" in said
    (attempt,) = read_attempts(run)
    assert (attempt.outcome, attempt.restarts) == ("done", 1)
    assert file_digest(run / "stage1" / WEIGHTS["stage1"]) == file_digest(
        whole / "stage1" / WEIGHTS["stage1"]
    )


def test_predictions_of_new_videos(whole: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    store_digest = graphstore.open(str(whole / "store")).digest
    out = tmp_path / "ratings.jsonl"
    done = netgpt("predict", whole, "--data", data[1], "--out", out)
    assert done.returncode == 0, done.stderr[-3000:]
    ratings = [json.loads(line) for line in out.read_text().splitlines()]
    new = json.loads(data[1].read_text(encoding="utf-8"))
    assert [r["id"] for r in ratings] == list(new)
    for rating in ratings:
        assert set(rating) == {"id", "level", "score"}
        assert 0 <= rating["score"] <= 9 and rating["level"] == int(np.floor(rating["score"] + 0.5))
    assert graphstore.open(str(whole / "store")).digest == store_digest
    assert graphstore.verify(whole / "store") == []
    known = called("predict", whole, "--data", data[0])
    assert known.returncode == 2 and "already has" in known.stderr and known.stdout == ""


def test_predicted_states_of_the_store_itself_score_as_evaluated(whole: Path, tmp_path: Path) -> None:
    """The in-memory graph around the store leaves the store's own embeddings as the cache has them."""
    import torch

    from netgpt.graphstore import ExtendedGraph
    from netgpt.graphstore.writer import build_config
    from netgpt.trainers.graph.exact import cache_digests, embed, open_cache
    from netgpt.trainers.graph.files import VECTORS
    from netgpt.trainers.graph.tables import FeatureTables
    from netgpt.trainers.graph.train import MODEL, load_model

    run = Run.open_(whole)
    store = run.store
    raw = {**json.loads(store.texts[0]), "历史状态": []}
    path = tmp_path / "new.json"
    path.write_text(json.dumps({"new": raw}, ensure_ascii=False), encoding="utf-8")
    new = store.dataset.open(path, build_config(store), require_labels=False)
    model = load_model(whole / "stage1", store, run.task, torch.device("cpu"))
    joined = ExtendedGraph(store, new)
    assert joined.num_new == 1
    h, scores = embed(model, FeatureTables(joined, torch.device("cpu")))
    digests = cache_digests(whole / "stage1" / MODEL, store)
    cached_h, cached_scores = open_cache(whole / "embeddings" / VECTORS, digests)
    np.testing.assert_allclose(h[:-1], cached_h, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores[:-1], cached_scores, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["run", "--config", "nothing"],
            "demo, lightgcn-ml1m, mmra-microlens, rerank-ml100k, sample, sample-ordinal, shl-ml100k",
        ),
        (["run", "--config", "demo", "--data", "no.json"], "no.json"),
        (["run", "--config", "demo"], "neither --data nor --store"),
        (["run", "--config", "demo", "--store", "nowhere"], "no such store"),
        (["run", "--config", "demo", "graph.epoch=1"], "epoch"),
        (["embed", "--config", "demo", "--data", "DATA"], "run first: netgpt pretrain"),
        (["evaluate", "nowhere"], "found no run"),
        (["predict", "nowhere", "--data", "DATA"], "found no run"),
        (["build", "DATA", "--out", "s", "--layout", "coo"], "layout: found 'coo'"),
        (["synth"], "--json"),
        (["info", "nowhere"], "no such store"),
        (["frobnicate"], "frobnicate"),
        (["run", "--config", "demo", "--data", "DATA", "--out", "s", *GPUS], "a GPU each; there are"),
        (
            ["run", "--data", "DATA", "--out", "s", "graph.encoder=gat"],
            "found 'gat', expected one of rgcn, gcn, han",
        ),
        (
            ["run", "--data", "DATA", "--out", "s", "without=XV"],
            "without: found 'XV', expected V, VV, IV, CV",
        ),
        (["run", "--data", "DATA", "--out", "s", "graph.ablation=V"], "graph.ablation; it is without now"),
        (["plan", "--gpus", "0", "graph.encoder=gat"], "found 'gat', expected one of rgcn, gcn, han"),
        (["status", "nowhere"], "found no run"),
        (["report", "nowhere"], "found no run"),
    ],
)
def test_wrong_usage_is_exit_2_and_leaves_nothing(
    arguments: list[str], words: str, data: tuple[Path, Path], tmp_path: Path
) -> None:
    done = called(*(data[0] if a == "DATA" else a for a in arguments), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists() and not (tmp_path / "nowhere").exists()


def test_the_program_ends_as_its_commands_do(tmp_path: Path) -> None:
    """The commands of the test above, by Python's own start."""
    done = netgpt("run", "--config", "nothing", cwd=tmp_path)
    assert (
        (done.returncode, done.stdout)
        == (
            2,
            "",
        )
        and "demo, lightgcn-ml1m, mmra-microlens, rerank-ml100k, sample, sample-ordinal, shl-ml100k"
        in done.stderr
    )
    assert "Traceback" not in done.stderr and list(tmp_path.iterdir()) == []
    names = netgpt("recipes").stdout.split()[::2]
    assert names == [
        "demo",
        "lightgcn-ml1m",
        "mmra-microlens",
        "rerank-ml100k",
        "sample",
        "sample-ordinal",
        "shl-ml100k",
        "shl-tiktok",
        "smpd",
        "smpd-demo",
        "xs-video",
    ]


def test_bad_records_end_build_and_run_with_one_line(data: tuple[Path, Path], tmp_path: Path) -> None:
    records = json.loads(data[0].read_text(encoding="utf-8"))
    victim = list(records)[7]
    records[victim]["影响力等级"] = 12
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(records, ensure_ascii=False), encoding="utf-8")
    for arguments in (
        ["build", path, "--out", tmp_path / "s"],
        ["run", "--data", path, "--out", tmp_path / "r"],
    ):
        done = called(*arguments)
        (line,) = [text for text in done.stderr.splitlines() if text.startswith("netgpt: ")]
        assert done.returncode == 2
        assert str(path) in line and repr(victim) in line and "影响力等级" in line and "12" in line
    assert not (tmp_path / "s").exists() and not (tmp_path / "r").exists()
    done = called("build", path, "--out", tmp_path / "s", "--on-error", "skip", "--encoder", "hash:8")
    assert done.returncode == 0 and "left out 1 of" in done.stderr
    found = json.loads(called("info", tmp_path / "s", "--json").stdout)
    assert found["num_skipped"] == 1 and found["nodes"]["video"]["num_nodes"] == len(records) - 1
    assert called("verify", tmp_path / "s").returncode == 0


def test_a_run_is_exported_once(whole: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    done = netgpt("export", whole, "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(str(tmp_path / "model" / "netgpt.safetensors"), framework="pt") as file:
        assert {"markers_2H", "head.weight", "mean"} <= set(file.keys())
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# whole" in card and "NetGPT" in card and str(whole) not in card
    assert {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "model").iterdir()} == {0o666 & ~umask()}
    again = called("export", whole, "--out", tmp_path / "model")
    assert again.returncode == 2 and "already there" in again.stderr


WITHOUT_NETGPT = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "netgpt":
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, sys.argv[1])
from scorer import Scorer

print(json.dumps(Scorer(sys.argv[1]).predict(json.load(sys.stdin))))
"""


def test_an_exported_folder_scores_without_this_package(whole: Path, tmp_path: Path) -> None:
    """As the run's own evaluation; and what cannot be scored is refused by name."""
    import netgpt as package

    assert called("export", whole, "--out", tmp_path / "model").returncode == 0
    run, cpu = Run.open_(whole), torch.device("cpu")
    model = load_model(whole / "stage1", run.store, run.task, cpu)
    h, _ = embed(model, FeatureTables.of(run.store, cpu, model.shape, max_bytes=0))
    document = run.store.schema.document("video")
    assert document is not None
    nodes = [3, 50, 120]
    rows = [
        {"document": visible_record(document, text), "embedding": h[v].tolist()}
        for v, (_, text) in zip(nodes, documents(run.store, document, nodes), strict=True)
    ]
    told = [sys.executable, "-c", WITHOUT_NETGPT, str(tmp_path / "model")]
    done = subprocess.run(told, input=json.dumps(rows), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    expected = {row["id"]: row for row in pq.read_table(whole / "predictions.parquet").to_pylist()}
    for v, found in zip(nodes, json.loads(done.stdout), strict=True):
        row = expected[run.store.ids[v]]
        assert found["score"] == pytest.approx(row["stage3_score"], abs=1e-5)
        assert found["level"] == row["stage3_level"]
    scorer = package.load(tmp_path / "model")
    assert scorer.predict(rows[:1]) == json.loads(done.stdout)[:1]
    for bad, words in (
        ({"embedding": rows[0]["embedding"]}, "row: found no document"),
        ({**rows[0], "embedding": [0.0]}, r"embedding: found \[1\], expected \[8\]"),
        ({**rows[0], "document": {"标题": "long " * 9000}}, "tokens, expected at most"),
    ):
        with pytest.raises(ValueError, match=words):
            scorer.predict([bad])


@pytest.mark.all
def test_the_lora_baseline_joins_the_evaluation(whole: Path, data: tuple[Path, Path]) -> None:
    """The last test of this file: it adds to the finished run."""
    before = json.loads(called("evaluate", whole, "--json").stdout)
    done = netgpt("lora", "--config", "demo", "--data", data[0], "--out", whole, *SETTINGS, "lora.rank=2")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "lora trains" in done.stderr and "adapters" in done.stderr
    # In a process of its own: the evaluation is made again
    metrics = json.loads(netgpt("evaluate", whole, "--json").stdout)
    assert {"lora", "lora_generated"} <= metrics["stages"].keys()
    assert metrics["stages"]["lora"]["test"]["num"] == metrics["stages"]["stage3"]["test"]["num"] > 0
    assert {name: metrics["stages"][name] for name in before["stages"]} == before["stages"]
