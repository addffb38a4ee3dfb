"""Pairs of users and items from a file through `netgpt run` to recommendations."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from netgpt.cluster.compare import compare
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.serving.predictor import Answer, Refused, predictor_of
from tests.program import called
from tests.recommend import ITEMS, USERS, pairs_of_tastes, write_pairs

ROOT = Path(__file__).resolve().parents[2]
QUICK = [
    *("build.encoder=hash:16", "recommender.epochs=4", "recommender.width=8", "recommender.lr=0.02"),
    *(
        "recommender.batch_size=40",
        "cluster.threads=1",
        "task.k=5",
        "task.sampled=6",
        "recommender.model=sage",
    ),
]


def netgpt(*args: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "netgpt", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1700, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on pairs with two modalities: `shl-tiktok` with a model that compiles less."""
    made = tmp_path_factory.mktemp("recommend")
    write_pairs(made / "data", pairs_of_tastes())
    done = netgpt("run", "--config", "shl-tiktok", "--data", made / "data", "--out", made / "run", *QUICK)
    assert done.returncode == 0, done.stderr[-3000:]
    for words in (
        "GraphSAGE",
        "popularity",
        "ItemKNN",
        "EASE",
        "NDCG@5",
        "among 6 fixed items",
        "without a pair",
    ):
        assert words in done.stdout, words
    assert "1 user has no pair of train, such as '17': measured apart, as cold" in done.stderr
    return made


def test_metrics_are_those_of_the_places(folder: Path) -> None:
    metrics = json.loads(called("evaluate", folder / "run", "--json").stdout)
    assert (
        list(metrics["baselines"]) == ["popularity", "ItemKNN", "EASE"] and metrics["encoder"] == "GraphSAGE"
    )
    table = pq.read_table(folder / "run" / "predictions.parquet").to_pydict()
    rows = pairs_of_tastes()
    for name, part in (("val", 1), ("test", 2)):
        places: dict[str, list[int]] = {}
        own = {(str(u), str(i)) for u, i, _, p in rows if p == part}
        for user, item, split, rank in zip(*table.values(), strict=True):
            if split == name:
                own.remove((user, item))
                places.setdefault(user, []).append(rank)
        measured = metrics["stages"]["recommender"][name]
        assert not own and measured["num"] == len(places)
        recall = np.mean([np.mean([rank <= 5 for rank in ranks]) for ranks in places.values()])
        assert measured["recall@5"] == pytest.approx(recall)
    cold = metrics["stages"]["recommender"]["test_cold_users"]
    assert cold["num"] == 1 and metrics["stages"]["recommender"]["test_sampled"]["num"] > 10
    page = (folder / "run" / "report.html").read_text(encoding="utf-8")
    assert "was trained on the pairs of train" in page and "NDCG@5" in page and "pairs of test" in page


def test_recommendations_are_the_best_of_what_a_user_has_not(folder: Path) -> None:
    done = called("embeddings", folder / "run", "--out", folder / "vectors")
    assert done.returncode == 0, done.stderr[-3000:]
    vectors = {}
    for name, num in (("user", USERS), ("item", ITEMS)):
        table = pq.read_table(folder / "vectors" / f"{name}.parquet").to_pydict()
        assert table["id"] == [str(i) for i in range(num)]
        vectors[name] = np.array(table["embedding"], np.float32)
    scores = vectors["user"] @ vectors["item"].T
    (folder / "users.txt").write_text("11\n3\n\n17\n")
    rows = pairs_of_tastes()
    for seen, parts in (("all", (0, 1, 2)), ("train", (0,))):
        out = folder / f"{seen}.parquet"
        done = called(
            *("recommend", folder / "run", "--out", out, "--k", 4, "--seen", seen),
            *("--users", folder / "users.txt"),
        )
        assert done.returncode == 0, done.stderr[-3000:]
        table = pq.read_table(out).to_pylist()
        assert [row["user"] for row in table[::4]] == ["11", "3", "17"] and len(table) == 12
        for user in (11, 3, 17):
            had = {i for u, i, _, part in rows if u == user and part in parts}
            free = [i for i in range(ITEMS) if i not in had]
            best = sorted(free, key=lambda i: (-scores[user, i], i))[:4]
            found = [row for row in table if row["user"] == str(user)]
            assert [row["rank"] for row in found] == [1, 2, 3, 4]
            np.testing.assert_allclose([row["score"] for row in found], scores[user, best], rtol=1e-5)
            assert not {int(row["item"]) for row in found} & had


def test_a_service_answers_with_the_lists_that_recommend_writes(folder: Path) -> None:
    made = predictor_of(Run.open_(folder / "run"), torch.device("cpu"))
    (folder / "three.txt").write_text("11\n3\n17\n")
    asked: list[tuple[str, dict[str, object]]] = []
    expected = []
    for seen in ("all", "train"):
        out = folder / f"served-{seen}.parquet"
        called(
            "recommend",
            folder / "run",
            "--out",
            out,
            "--k",
            4,
            "--seen",
            seen,
            "--users",
            folder / "three.txt",
        )
        table = pq.read_table(out).to_pylist()
        for user in ("11", "3", "17"):
            asked.append((f"record {len(asked)}", {"user": user, "k": 4, "seen": seen}))
            expected.append([(r["item"], round(r["score"], 6)) for r in table if r["user"] == user])
    bad = [
        {"user": "x1"},
        {"k": 3},
        {"user": "3", "k": 0},
        {"user": "3", "seen": "no"},
        {"user": "3", "top": 1},
    ]
    mixed = [*asked[:3], *((f"bad {i}", one) for i, one in enumerate(bad)), *asked[3:]]
    answers = made.answers(mixed)
    refused = [one.error for one in answers if isinstance(one, Refused)]
    for words, said in zip(
        ("'x1', expected a user", "user: found nothing", "k: found 0", "seen: found 'no'", "the field 'top'"),
        refused,
        strict=True,
    ):
        assert words in said
    found = [one for one in answers if isinstance(one, Answer)]
    for one, (_, record), rows in zip(found, asked, expected, strict=True):
        assert one.prediction.id == record["user"]
        assert [(row["item"], row["score"]) for row in one.prediction.answer["items"]] == rows
    assert made.about()["noun"] == "items"


def test_rankings_are_compared_by_user(folder: Path) -> None:
    compared = compare([folder / "run", folder / "run"])
    test = json.loads(called("evaluate", folder / "run", "--json").stdout)["stages"]["recommender"]["test"]
    first, second = compared.rows
    assert compared.unit == "users" and compared.num == test["num"]
    for metric in compared.metrics:
        assert first.figures[metric.name] == pytest.approx(test[metric.name])
        assert second.differences[metric.name].value == 0
    within = Run.open_(folder / "run").intervals()["recommender"]
    assert first.within == {name: pytest.approx(one) for name, one in within.items()}


def test_a_run_started_again_is_done(folder: Path) -> None:
    done = netgpt("run", "--config", folder / "run" / "config.yaml", "--out", folder / "run")
    assert done.returncode == 0 and "recommender: done before" in done.stderr
    states = json.loads(called("status", folder / "run", "--json").stdout)["stages"]
    assert [(one["stage"], one["state"]) for one in states] == [
        ("recommender", "done"),
        ("evaluation", "done"),
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["recommend", "RUN", "--out", "x.parquet", "--k", "0"], "--k: found 0, expected at least 1"),
        (["recommend", "RUN", "--out", "x.parquet", "--seen", "no"], "--seen: found 'no', expected all or"),
        (["recommend", "RUN", "--out", "x.parquet", "--users", "BAD"], "line 2: found 'x1', expected a user"),
        (["predict", "RUN", "--data", "DATA"], "found a recommender's run, expected: netgpt recommend RUN"),
        (["export", "RUN", "--out", "new"], "found no stage of a language model, expected one"),
        (
            ["plan", "--config", "shl-tiktok"],
            "plan: found a recipe with the stage recommender, expected another: those",
        ),
        (["append", "STORE", "--data", "DATA"], "whose relations follow from its rows"),
        (["embeddings", "RUN", "--out", "new", "--of", "image"], "--of: found 'image', expected types that"),
        (
            ["run", "--config", "shl-tiktok", "--data", "DATA", "stages=[stage1]"],
            "task.name: found 'ranking'",
        ),
        (["run", "--config", "shl-tiktok", "--data", "DATA", "task.k=0"], "task.k: found 0, expected at"),
        (
            ["run", "--config", "shl-tiktok", "--data", "DATA", "task.label=x"],
            "task.label: found 'x', expect",
        ),
        (
            ["run", "--config", "shl-tiktok", "--data", "DATA", "recommender.model=gru"],
            "recommender.model: found 'gru', expected one of bpr, lightgcn",
        ),
        (
            ["run", "--config", "shl-tiktok", "--data", "DATA", "build.split=user_times"],
            "build.split: found 'user_times', expected one of auto",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    folder: Path, tmp_path: Path, args: list[str], words: str
) -> None:
    (folder / "bad.txt").write_text("11\nx1\n")
    named = {"RUN": str(folder / "run"), "DATA": str(folder / "data"), "BAD": str(folder / "bad.txt")}
    named |= {"STORE": str(folder / "run" / "store")}
    named |= {name: str(tmp_path / name) for name in ("x.parquet", "new")}
    given = [named.get(arg, arg) for arg in args]
    if args[0] == "run":
        given[5:5] = ["--out", str(tmp_path / "other")]
    done = called(*given)
    assert done.returncode == 2 and words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not (tmp_path / "x.parquet").exists()
