"""A language model that puts the recommender's first in order: from pairs with titles to an evaluation."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.graphstore import Store
from netgpt.trainers import weights
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.cases import CaseAssembly
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.ranking import full_ranking
from netgpt.trainers.recommend.train import load_vectors, scores_of
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import Tools
from netgpt.trainers.stages.folder import read_manifest
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.rerank import Reranker
from netgpt.trainers.stages.session import run_stage
from tests.program import called
from tests.recommend import pairs_of_tastes, store_of, titled_store

pytestmark = pytest.mark.usefixtures("process_group")
QUICK = [
    *("cluster.workers=1", "cluster.threads=1", "build.encoder=hash:8", "task.k=3", "task.candidates=4"),
    *("recommender.epochs=6", "recommender.width=8", "recommender.lr=0.02", "recommender.batch_size=40"),
    *("rerank.history=4", "rerank.epochs=2", "rerank.layers=2", "language.tiny.hidden=32"),
    *("language.tiny.layers=6", "language.tiny.heads=2", "language.tiny.vocab=320"),
    *("language.max_tokens=300", "language.token_budget=2048", "language.packs_per_step=1"),
]


def settings_with(*changes: str) -> Settings:
    return load_config("rerank-ml100k", [*QUICK, *changes]).settings


def make_run(path: Path, store: Store, *changes: str) -> Run:
    """All stages in this process, without Ray."""
    run = Run.start(path, load_config("rerank-ml100k", [*QUICK, *changes]), None, store.path)
    for name in run.stages:
        stage_of(name).check(run.settings)
        stage_of(name).check_graph(run.settings, store)
        job = run.job(name)
        job.prepare()
        run_stage(job)
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return titled_store(tmp_path_factory.mktemp("titled"))


@pytest.fixture(scope="module")
def finished(store: Store, tmp_path_factory: pytest.TempPathFactory, process_group: None) -> Run:
    return make_run(tmp_path_factory.mktemp("rerank") / "run", store)


@pytest.fixture
def run(finished: Run) -> Path:
    return finished.path


def test_validation_chooses_the_weight(run: Path, store: Store) -> None:
    manifest = read_manifest(run / "rerank")
    assert manifest is not None
    found = manifest["metrics"]["val_ndcg_by_weight"]
    assert list(found) == ["0", "0.1", "0.2", "0.5", "1", "2", "5"]
    assert found[f"{manifest['metrics']['weight']:g}"] == max(found.values())
    data, scores = Interactions.of(store), scores_of(*load_vectors(run / "recommender", store))
    assert found["0"] == full_ranking(scores, data.val, [data.train]).metrics(3)["ndcg@3"]
    assert len(set(found.values())) > 1  # the language model says something of its own


def test_the_evaluation_has_both(run: Path, store: Store) -> None:
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    manifest = read_manifest(run / "rerank")
    assert list(metrics["stages"]) == ["recommender", "rerank"] and metrics["encoder"] == "LightGCN"
    assert manifest is not None
    chosen = manifest["metrics"]["val_ndcg_by_weight"][f"{manifest['metrics']['weight']:g}"]
    assert metrics["stages"]["rerank"]["val"]["ndcg@3"] == chosen
    assert stage_of("rerank").titles(settings_with()) == {"rerank": "reranked"}


def test_a_sample_is_a_users_exact_vector_and_the_titles_of_its_list(finished: Run, store: Store) -> None:
    run = finished.path
    assembly = stage_of("rerank").assembly(finished.job("rerank"), tools_of(finished))  # type: ignore[attr-defined]
    assert isinstance(assembly, CaseAssembly)
    data, vectors = Interactions.of(store), load_vectors(run / "recommender", store)[0].double().numpy()
    warm = vectors[data.train.num_by_user > 0]
    length = np.sqrt(((warm - warm.mean(axis=0)) ** 2).sum(axis=1).mean())
    samples = assembly.samples(assembly.examples.train, assembly.graph_states(scores=False))
    batch = samples.batch([0, 1], [assembly.builder.response(2), assembly.builder.response(0)])
    assert batch.graph_nD is not None
    expected = (vectors[assembly.cases.users[:2]] - warm.mean(axis=0)) / length
    np.testing.assert_allclose(batch.graph_nD.numpy(), expected, rtol=1e-5)
    text = assembly.builder.tokenizer.decode(batch.input_ids_L.tolist())
    titles = store.strings("item", "title")
    for case in range(2):
        for letter, item in zip("ABCD", assembly.cases.candidates[case].tolist(), strict=True):
            assert f'"{letter}": "{titles[item] or item}"' in text
    assert "The next one is C<|im_end|>" in text and "say which of the candidates" in text
    num = assembly.num_train
    assert (assembly.cases.answers[:num] >= 0).all() and len(assembly.examples.val) > 0


def test_test_pairs_change_no_weight(run: Path, store: Store, tmp_path: Path) -> None:
    """Another test part, the same train and validation: the same bits in all that was learnt."""
    rows = pairs_of_tastes()
    kept, taken = [row for row in rows if row[3] != 2], {row[:2] for row in rows}
    free = [(u, i, 0, 2) for u in range(18) for i in range(24) if (u, i) not in taken][::2]
    other = titled_store(tmp_path / "pairs", [*kept, *[(17, 22, 0, 2)], *free])
    make_run(tmp_path / "run", other, "stages=[recommender,base,rerank]")
    for stage, file in (("recommender", "vectors.safetensors"), ("rerank", "netgpt.safetensors")):
        a, b = (weights.load(one / stage / file)[0] for one in (run, tmp_path / "run"))
        assert set(a) == set(b) and all((a[name] == b[name]).all() for name in a)
    found = [read_manifest(one / "rerank") for one in (run, tmp_path / "run")]
    assert found[0] is not None and found[1] is not None
    assert found[0]["metrics"]["val_ndcg_by_weight"] == found[1]["metrics"]["val_ndcg_by_weight"]


def test_of_a_prompt_that_is_too_long_the_earliest_items_go(finished: Run, store: Store) -> None:
    whole = Reranker(stage_of("rerank"), finished.job("rerank"), tools_of(finished))  # type: ignore[arg-type]
    cases = whole.lists(np.arange(6))
    assembly = whole.stage.of_cases(whole.job, whole.tools, whole.first, cases)
    longest = int(assembly.samples(np.arange(len(cases)), None).lengths.max())
    language = replace(assembly.settings.language, max_tokens=longest + 2)  # less than with a response
    short = replace(assembly, settings=replace(assembly.settings, language=language))
    histories = []
    for one in (assembly, short):
        texts = [one.builder.tokenizer.decode(one.samples(np.arange(6), None).prompt(i)) for i in range(6)]
        histories.append([re.search(r'"history": (\[.*?\])', text) for text in texts])
    lost = 0
    for before, after in zip(*histories, strict=True):
        assert before is not None and after is not None
        kept = json.loads(after[1])
        assert json.loads(before[1])[: len(kept)] == kept
        lost += len(json.loads(before[1])) - len(kept)
    assert lost > 0


def tools_of(run: Run) -> Tools:
    return Tools(run.store, run.task, lambda unit: lambda done, total: None)


@pytest.mark.parametrize("seen", ["train", "all"])
def test_lists_are_recommended_in_that_order(
    finished: Run, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: str
) -> None:
    monkeypatch.setattr(Reranker, "weight", 3.0)  # whatever validation chose
    reranker, data = (
        Reranker(stage_of("rerank"), finished.job("rerank"), tools_of(finished)),
        Interactions.of(store),
    )  # type: ignore[arg-type]
    users, masks = np.arange(6), [data.train] if seen == "train" else [data.train, data.val, data.test]
    (tmp_path / "users.txt").write_text("\n".join(store.node_names("user")[u] for u in users.tolist()))
    found = []
    for words, scores in (
        ([], scores_of(*load_vectors(finished.path / "recommender", store))),
        (["--rerank"], reranker.scores(users, masks)),
    ):
        options = ["--k", 3, "--seen", seen, "--users", tmp_path / "users.txt", *words]
        done = called("recommend", finished.path, "--out", tmp_path / "top.parquet", *options)
        assert done.returncode == 0, done.stderr
        found.append(pq.read_table(tmp_path / "top.parquet").to_pydict()["item"])
        expected = []
        for user, row in zip(users.tolist(), scores(users), strict=True):
            hidden = {item for mask in masks for item in mask.of_user(user).tolist()}
            best = sorted(set(range(len(row))) - hidden, key=lambda item: (-row[item], item))[:3]
            expected += [store.node_names("item")[item] for item in best]
        assert found[-1] == expected
    assert found[0] != found[1]


def test_a_run_without_it_recommends_without_it(finished: Run) -> None:
    config = finished.path / "config.yaml"
    before = config.read_text()
    config.write_text(before.replace("- rerank\n", "", 1))
    try:
        done = called("recommend", finished.path, "--out", finished.path / "no.parquet", "--rerank")
    finally:
        config.write_text(before)
    assert done.returncode == 2 and "found a run without rerank, expected one for --rerank" in done.stderr


def test_the_language_model_is_exported(finished: Run, tmp_path: Path) -> None:
    done = called("export", finished.path, "--out", tmp_path / "model")
    assert done.returncode == 0, done.stderr
    trained = weights.load(finished.path / "rerank" / "netgpt.safetensors")[0]
    exported = load_file(tmp_path / "model" / "netgpt.safetensors") | {
        name.split("layers.")[-1]: tensor
        for name, tensor in load_file(tmp_path / "model" / "model.safetensors").items()
        if "visual" not in name
    }
    for name, tensor in trained.items():
        if name != "markers_2H":  # rows of the embeddings there
            assert (exported[name.split("layers.")[-1]] == tensor).all(), name
    assert sum("layers." in name for name in trained) > 10


def test_what_cannot_be_asked_is_refused_before_anything_starts(tmp_path: Path) -> None:
    stage = stage_of("rerank")
    with pytest.raises(
        TrainerError, match=r"rerank\.objective: found 'score', expected one that says choices"
    ):
        stage.check(settings_with("rerank.objective=score"))
    with pytest.raises(TrainerError, match=r"stages: found .* expected a recommender before rerank"):
        stage.check(replace(settings_with(), stages=["base", "rerank"]))
    with pytest.raises(TrainerError, match=r"stages: found .* expected a recommender before rerank"):
        stage.check(replace(settings_with(), stages=["base", "rerank", "recommender"]))
    with pytest.raises(TrainerError, match=r"language\.pixels: found 'clips', expected none"):
        stage.check(settings_with("language.pixels=clips"))
    with pytest.raises(TrainerError, match=r"item: found 'no texts', expected some, for prompts"):
        stage.check_graph(settings_with(), store_of(tmp_path))
    with pytest.raises(ClusterError, match=r"task\.candidates: found 27, expected 2 to 26"):
        settings_with("task.candidates=27")
    with pytest.raises(TrainerError, match=r"task\.name: found 'rating', expected ranking"):
        stage.check(load_config("demo", ["stages=[recommender,base,rerank]"]).settings)
