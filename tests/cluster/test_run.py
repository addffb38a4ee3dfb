"""The command line end to end: a whole run, the same run killed in each stage, and predictions."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import torch
from browser import Page, browser
from serving import TOKEN, Service, service
from test_jobs import grpc_codes, http_status, listening

from netgpt import graphstore
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.serving.predictor import Answer, Predictor
from netgpt.graphstore import Graph, Relation
from netgpt.graphstore.documents import documents
from netgpt.graphstore.features import Features
from netgpt.graphstore.files import file_digest
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import load_model
from netgpt.trainers.language.text.prompt import visible_record
from netgpt.trainers.stages import folder as stage_folder
from tests.program import called

SETTINGS = [
    *("build.encoder=hash:32", "build.time_dim=8", "build.video_dim=4", "sampler.fanout=5"),
    *("graph.hidden=8", "graph.epochs=8", "graph.patience=8", "graph.batch_size=32", "task.val_share=0.5"),
    "without=CV",
    *("language.max_tokens=700", "language.token_budget=1400", "language.max_comments=2"),
    *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=600"),
    *("language.tiny.warmup_steps=2", "stage2.epochs=1", "stage2.checkpoint_steps=3"),
    *("stage3.epochs=2", "stage3.checkpoint_steps=3"),
]
GPUS = ["cluster.device=cuda", "cluster.workers=512", "graph.batch_size=512", "language.packs_per_step=512"]
WEIGHTS = {
    "stage1": "model.safetensors",
    "base": "model/model.safetensors",
    "stage2": "netgpt.safetensors",
    "stage3": "netgpt.safetensors",
}


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "netgpt", *(str(a) for a in args)]


def netgpt(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=1700, cwd=cwd, check=False)


@pytest.fixture(scope="module")
def data(records: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(records of most videos, records of the last videos without their level)."""
    root = tmp_path_factory.mktemp("run-data")
    urls = list(dict.fromkeys(r["url"] for r in records.values()))
    new_urls = set(urls[-3:])
    old = {k: r for k, r in records.items() if r["url"] not in new_urls}
    new = {
        k: {key: value for key, value in r.items() if key != "影响力等级"}
        for k, r in records.items()
        if r["url"] in new_urls
    }
    for name, value in (("old", old), ("new", new)):
        (root / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return root / "old.json", root / "new.json"


@pytest.fixture(scope="module")
def whole(data: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    done = netgpt("run", "--config", "demo", "--data", data[0], "--out", run, *SETTINGS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RGCN" in done.stdout and "lookup" in done.stdout and "NetGPT" in done.stdout
    return run


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


def alone(data: Path) -> dict[str, Any]:
    """New records, none of which speaks of another."""
    return {k: {**r, "历史状态": []} for k, r in json.loads(data.read_text(encoding="utf-8")).items()}


@pytest.fixture(scope="module")
def served(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with service(whole, tmp_path_factory.mktemp("serve") / "log", "--max-bytes", 400_000) as made:
        yield made


def test_a_service_answers_as_predict_does(
    served: Service, whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Whatever is asked together, in any order and form."""
    records = alone(data[1])
    sent = [{"id": key, **record} for key, record in records.items()]
    expected = {}
    for key in list(records)[:3]:
        (tmp_path / "one.json").write_text(json.dumps({key: records[key]}, ensure_ascii=False))
        expected[key] = json.loads(called("predict", whole, "--data", tmp_path / "one.json").stdout)
    for one in sent[:3]:
        answer = served.answers(one)
        assert answer["id"] == one["id"] and answer["level"] == expected[one["id"]]["level"]
        assert answer["score"] == pytest.approx(expected[one["id"]]["score"], abs=2e-6)
    together = served.answers(sent)["answers"]
    turned = served.answers({"records": sent[::-1]})["answers"][::-1]
    lines = served.ask("/predict", "\n".join(json.dumps(one) for one in sent).encode())[1]
    assert len(together) == len(sent) > 3
    for a, b, c, one in zip(together, turned, map(json.loads, lines.splitlines()), sent, strict=True):
        assert a["id"] == b["id"] == c["id"] == one["id"]
        assert a["score"] == pytest.approx(b["score"], abs=2e-6) == c["score"]
        if one["id"] in expected:
            assert a["score"] == pytest.approx(expected[one["id"]]["score"], abs=2e-6)
    status, text = served.ask("/predict?explain=true", [sent[0], {"a": 1}])
    explained, refused = json.loads(text)["answers"]
    assert (
        status == 200
        and "error" in refused
        and {one["kind"] for one in explained["why"]} >= {"relation", "field"}
    )
    assert explained["score"] == pytest.approx(together[0]["score"], abs=2e-6)
    assert served.ask("/predict?explain=true", sent * 9)[0] == 413
    status, text = served.ask("/predict?embedding=true", sent[0])
    vector = json.loads(text)["embedding"]
    assert status == 200 and len(vector) == 8 and np.isfinite(vector).all()


def test_a_service_refuses_by_record_and_by_request(served: Service, data: tuple[Path, Path]) -> None:
    first, second, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    bad = {**first, "当前点赞量": "many"}
    answers = served.answers([first, 7, bad, second, {"a": 1}])["answers"]
    assert ["error" in one for one in answers] == [False, True, True, False, True]
    assert "record 3" in answers[2]["error"] and "当前点赞量" in answers[2]["error"]
    assert answers[2]["error"].count("/") == 0  # no path of the service's machine
    status, text = served.ask("/predict", bad)
    assert status == 422 and json.loads(text)["error"].startswith("record: ")
    assert served.ask("/predict", b"{bad")[0] == 400 and served.ask("/predict", b"")[0] == 400
    large = b"[" + b" " * 500_000 + b"]"
    status, text = served.ask("/predict", large)
    assert status == 413 and "500,002 bytes, expected at most 400,000" in text
    assert served.ask("/predict", iter([large]))[0] == 413
    for path, body in (("/predict", first), ("/metrics", None)):
        for token in ("", "another", TOKEN[:-1]):
            status, text = served.ask(path, body, token=token)
            assert status == 401 and "Authorization: Bearer TOKEN" in text
    counts = served.ask("/metrics")[1]
    assert 'status="401"} 3.0' in counts and "netgpt_request_seconds_bucket" in counts
    assert json.loads(served.ask("/openapi.json", token="")[1])["paths"].keys() >= {"/predict", "/healthz"}


def test_no_port_of_a_service_answers_without_a_token(served: Service) -> None:
    places = listening(served.pids)
    assert ("127.0.0.1", served.port) in places and len(places) > 5
    for place in places - {("127.0.0.1", served.port)}:
        statuses = {http_status(place, path) for path in ("/", "/metrics", "/api/jobs/")}
        assert statuses <= {401, 403, None}, (place, statuses)
        codes = grpc_codes(place) if statuses == {None} else set()
        assert "OK" not in codes and (not codes or "UNAUTHENTICATED" in codes), (place, codes)


def test_reasons_are_what_an_answer_is_without_them(whole: Path, data: tuple[Path, Path]) -> None:
    """By exact inference over the whole graph with an empty row, and prompts whose JSON lacks a field."""
    check_reasons(Run.open_(whole), [{"id": k, **r} for k, r in alone(data[1]).items()][1])


def check_reasons(run: Run, record: dict[str, Any]) -> None:
    cpu = torch.device("cpu")
    predictor = Predictor(run, cpu)
    answer = predictor.explain(record, "record")
    reasons = answer.prediction.why or ()
    (plain,) = predictor.answers([("record", record)])
    assert isinstance(plain, Answer) and plain.prediction == replace(answer.prediction, why=None)
    assert [abs(r.change) for r in reasons] == sorted((abs(r.change) for r in reasons), reverse=True)
    graph = predictor.join(record, "record")
    model, task, (node,) = predictor._new_nodes.model, run.task, graph.new.tolist()
    language = predictor._language
    assert language is not None
    ((name, text),) = documents(graph, language.document, [node])

    def score(changed: Graph, text: str) -> float:
        h, of_graph = embed(model, FeatureTables.of(changed, cpu, model.shape, max_bytes=0))
        own = h[node : node + 1], of_graph[node : node + 1]
        found = language.of(language.tokens([(name, text)]), *own, [record["id"]], lambda *_: None)
        return float(task.reported(found)[0])

    full, seen = score(graph, text), {}
    for reason in reasons:
        changed, words = copy.copy(graph), text
        if reason.kind == "relation":
            (edge_type,) = (e for e in model.shape.edge_types if e[1] == reason.name and e[2] == "video")
            old = graph.relation(edge_type)
            rows = [[] if v == node else old.neighbors(v).tolist() for v in range(old.num_dst)]
            ends = np.cumsum([len(row) for row in rows])
            heads = np.array([head for row in rows for head in row], old.indices.dtype)
            emptied = Relation(edge_type, "csr", heads, ends - [len(row) for row in rows], ends)
            changed._relations = {**graph._relations, edge_type: emptied}
        elif reason.name == "当前时间":
            continue  # what comments are shown depends on it too, where it is not there at all
        elif reason.kind == "field":
            words = json.dumps({k: v for k, v in json.loads(text).items() if k != reason.name})
        else:
            x = graph.features("video").gather(np.arange(graph.num_nodes["video"]))
            x[node] = 0
            changed._features = {**graph._features, "video": Features(len(x), x, None)}
        assert reason.change == pytest.approx(full - score(changed, words), abs=3e-5), reason
        seen[reason.kind] = seen.get(reason.kind, 0) + 1
    assert seen["relation"] > 5 and seen["field"] > 5
    assert max(abs(r.change) for r in reasons) > 1e-3


@pytest.mark.parametrize("width", [400, 1300])
def test_a_person_asks_in_a_browser(
    width: int, served: Service, data: tuple[Path, Path], tmp_path: Path
) -> None:
    first, second, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    expected = served.answers(first)

    def asked(page: Page, body: str, ready: str) -> None:
        page.value(f"document.getElementById('record').value = {json.dumps(body)}")
        page.value("document.getElementById('ask').click()")
        page.wait(f"!document.getElementById('ask').disabled && ({ready})")
        assert page.value("document.documentElement.scrollWidth") <= width

    with browser(tmp_path / "profile") as page:
        page.open(f"http://127.0.0.1:{served.port}/#token={TOKEN}", width, 900)
        page.wait("document.getElementById('about').textContent !== ''")
        assert page.value("location.hash") == ""
        assert page.value("document.getElementById('title').textContent") == "whole"
        asked(page, json.dumps(first), "!document.getElementById('one').hidden")
        assert page.value("document.getElementById('value').textContent") == str(expected["level"])
        assert f"score {expected['score']}" in page.value("document.getElementById('said').textContent")
        assert page.value("document.querySelectorAll('#bars div').length") == 10
        assert (
            page.value("[...document.querySelectorAll('#bars div')].findIndex(b => b.className)")
            == (expected["level"])
        )
        why = json.loads(served.ask("/predict?explain=true", first)[1])["why"]
        told = page.value(
            "[...document.querySelectorAll('#why tbody tr')].map(row => row.cells[0].textContent)"
        )
        shown = [one["name"] for one in why if abs(one["change"]) >= 5e-5][:16]
        assert sorted(told) == sorted(shown) and len(told) > 3
        evil = {**second, "id": "<img src=x onerror=alert(1)>", "当前点赞量": "many"}
        asked(page, json.dumps([first, evil]), "!document.getElementById('many').hidden")
        assert page.value("document.querySelectorAll('#many tbody tr').length") == 2
        assert page.value("document.images.length") == 0
        bad = [
            page.value(f"document.querySelectorAll('#many tr:last-child td')[{i}].textContent")
            for i in (0, 3)
        ]
        assert bad[0] == evil["id"] and "当前点赞量" in bad[1]
        asked(page, "{bad", "!document.getElementById('error').hidden")
        assert "found no JSON" in page.value("document.getElementById('error').textContent")
        page.value("document.getElementById('token').value = 'another'")
        asked(page, json.dumps(first), "!document.getElementById('error').hidden")
        assert "no known token" in page.value("document.getElementById('error').textContent")
        # The browser itself tells of the answers 400 and 401
        assert not [one for one in page.said if "status of 40" not in one]


@pytest.mark.all
def test_a_replica_that_is_killed_comes_back(served: Service, data: tuple[Path, Path]) -> None:
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    expected = served.answers(first)
    (replica,) = served.replicas()
    replica.kill()
    end, seen = time.monotonic() + 120, set()
    while time.monotonic() < end:
        status, text = served.ask("/predict", first)
        seen.add(status)
        if status == 200:
            break
        time.sleep(0.5)
    assert json.loads(text) == expected and seen <= {200, 500, 503}
    assert served.replicas()[0].pid != replica.pid


@pytest.mark.all
def test_slow_clients_keep_nobody_waiting(whole: Path, data: tuple[Path, Path], tmp_path: Path) -> None:
    """Forty that send a byte now and then, and one a body of 100 MB; each gets an end of its own."""
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    body = json.dumps(first).encode()
    with service(whole, tmp_path / "log", "--seconds", 6, "--max-bytes", 400_000) as served:
        expected = served.answers(first)
        head = (
            f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()
        slow = [socket.create_connection(("127.0.0.1", served.port), timeout=60) for _ in range(40)]
        for one in slow:
            one.sendall(head)
        for place in range(4):
            for one in slow:
                one.sendall(body[place : place + 1])
            assert served.answers(first) == expected
        said = [one.recv(1 << 16) for one in slow]  # their time is over some time
        assert all(text.startswith(b"HTTP/1.1 504") for text in said), set(said)
        for one in slow:
            one.close()
        with suppress(urllib.error.URLError):  # the service hangs up on who does not stop
            status, text = served.ask("/predict", iter([b"[" + b" " * (1 << 20)] * 100))
            assert status == 413 and "400,000" in text
        assert served.answers(first) == expected


@pytest.mark.all
def test_a_run_that_is_trained_again_meanwhile_changes_no_answer(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    """Who was there answers as before; who comes later refuses another model, also where it is whole."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    log = tmp_path / "log"
    with service(run, log, "--seconds", 5, ends=2) as served:
        expected = served.answers(first)
        other = ("graph.lr=0.02", "seed=5", "stages=[stage1,embeddings,base,tokens,stage2,stage3,evaluation]")
        told = ("--config", "demo", "--data", data[0], "--out", run, *SETTINGS, *other)
        done = netgpt("pretrain", *told)
        assert done.returncode == 0, done.stderr[-2000:]
        assert served.answers(first) == expected
        (replica,) = served.replicas()
        replica.kill()
        end, seen = time.monotonic() + 40, set()
        while time.monotonic() < end:
            status, text = served.ask("/predict", first)
            seen.add(status)
            assert status != 200 or json.loads(text) == expected
            time.sleep(1)
        assert seen <= {200, 408, 500, 503, 504} and seen != {200}
        assert served.process.wait(150) == 2  # no replica comes back
    assert "found another model than the service began with" in log.read_text().splitlines()[-1]


@pytest.mark.all
def test_a_service_whose_ray_is_gone_ends_and_says_so(
    whole: Path, data: tuple[Path, Path], tmp_path: Path
) -> None:
    first, *_ = ({"id": key, **record} for key, record in alone(data[1]).items())
    log = tmp_path / "log"
    with service(whole, log, ends=2) as served:
        served.answers(first)
        children = psutil.Process(served.process.pid).children(recursive=True)
        for one in children:
            if one.name() in ("raylet", "gcs_server"):
                one.kill()
        assert served.process.wait(150) == 2
        with pytest.raises(OSError):
            served.ask("/predict", first)
        _, alive = psutil.wait_procs(children, timeout=30)
        assert not alive
    last = log.read_text().strip().splitlines()[-1]
    assert "found no head of Ray, expected the service: start it again" in last


def test_a_run_that_is_not_done_is_not_served(data: tuple[Path, Path], whole: Path, tmp_path: Path) -> None:
    done = called("serve", tmp_path)
    assert done.returncode == 2
    done = called("serve", whole, "--host", "0.0.0.0", "--open")
    assert done.returncode == 2 and "without a token, expected a loopback address" in done.stderr
