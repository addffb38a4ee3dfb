"""`predict` for new rows of anyone's tables, by a graph model alone and by a language model beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from netgpt import graphstore
from netgpt.cluster.config import load_config
from netgpt.cluster.embeddings import write_embeddings
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.predict import Prediction, predict, write_predictions
from netgpt.cluster.serving.predictor import Answer, Predictor, Refused
from netgpt.graphstore import ExtendedGraph
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.writer import build_config
from netgpt.sampler import NeighborSampler
from netgpt.trainers.graph.exact import cache_digests, open_cache
from netgpt.trainers.graph.files import VECTORS
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.graph.train import MODEL, load_model
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.session import run_stage

pytestmark = pytest.mark.usefixtures("process_group")

TABLES = """
target: film
tables:
  film:
    path: films.csv
    key: film
    columns: {title: text, stars: number, genres: {categories: "|"}}
    features: [title]
    links: {genres: genre, studio: studio}
  studio: {features: []}
"""
RECIPE = """
dataset: tables
task: {name: regression, label: stars, val_share: 0.15, split: {by: random, test_share: 0.15}}
stages: STAGES
build: {encoder: "hash:16"}
sampler: {fanout: 10}
graph: {encoder: ENCODER, hidden: 16, heads: 2, batch_size: 64, epochs: 30, patience: 30, lr: 0.02}
language:
  model: tiny
  max_tokens: 128
  token_budget: 512
  tiny: {hidden: 32, heads: 2, vocab: 400}
stage3: {start: graph, epochs: 1, layers: 1}
cluster: {workers: 1}
"""
HEAD = "film,title,genres,studio"


def films(first: int, last: int) -> list[tuple[str, float]]:
    """Lines without stars, and stars: they follow from the studio."""
    rng = np.random.default_rng(first)
    made = []
    for i in range(first, last):
        studio = int(rng.integers(6))
        made.append(
            (f"f{i},title {rng.integers(99)},g{rng.integers(3)},s{studio}", studio + rng.normal() / 9)
        )
    return made


def trained(folder: Path, stages: str, encoder: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run over 200 films whose stages are made in this process."""
    lines = "".join(f"{line},{stars:.3f}\n" for line, stars in films(0, 200))
    (folder / "films.csv").write_text(f"{HEAD},stars\n{lines}")
    (folder / "graph.yaml").write_text(TABLES)
    graphstore.build(folder / "graph.yaml", folder / "store", BuildConfig(encoder="hash:16"))
    (folder / "recipe.yaml").write_text(RECIPE.replace("STAGES", stages).replace("ENCODER", encoder))
    run = Run.start(folder / "run", load_config(str(folder / "recipe.yaml"), []), None, folder / "store")
    for name in run.settings.stages:
        job = StageJob(
            stage=name, run=run.path, store=run.store.path, settings=run.settings, inputs={"stage": name}
        )
        job.prepare()
        run_stage(job)
    monkeypatch.setattr(Run, "require_trained", lambda run: None)  # as they are: the driver did not make them
    return run


@pytest.mark.parametrize("encoder", ["sage", "hgt"])
def test_a_graph_model_predicts_new_rows(
    encoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By exact inference; as its forward pass over all sampled neighbours of the joined graph."""
    run = trained(tmp_path, "[stage1, embeddings, evaluation]", encoder, monkeypatch)
    new = films(500, 530)
    data = tmp_path / "new.csv"
    data.write_text(f"{HEAD}\n" + "".join(f"{line}\n" for line, _ in new))
    made = list(predict(run, data))
    assert [one.id for one in made] == [f"f{i}" for i in range(500, 530)]
    scores = np.array([one.answer["number"] for one in made])
    for name in ("made.parquet", "made.jsonl"):
        write_predictions(tmp_path / name, made)
    expected_rows = [{"id": one.id, "number": one.answer["number"]} for one in made]
    assert pq.read_table(tmp_path / "made.parquet").to_pylist() == expected_rows
    assert [json.loads(line) for line in (tmp_path / "made.jsonl").open()] == expected_rows
    wide = Prediction("f1", {"class": "glad", "chances": {"sad": 0.25, "glad": 0.75}})
    assert wide.to_row() == {"id": "f1", "class": "glad", "chance_sad": 0.25, "chance_glad": 0.75}
    error, spread = scores - np.array([stars for _, stars in new]), np.var([stars for _, stars in new])
    assert np.mean(error**2) < 0.3 * spread
    graph = ExtendedGraph(run.store, run.store.dataset.open_new(run.store, data, build_config(run.store)))
    model = load_model(run.path / "stage1", run.store, run.task, torch.device("cpu")).eval()
    tables = FeatureTables.of(graph, torch.device("cpu"), model.shape, max_bytes=0)
    batch = NeighborSampler(graph, fanout=-1, hops=model.shape.num_layers).sample(graph.new)
    degrees = None
    if model.uses_degrees:
        from netgpt.trainers.graph.model import Degrees

        degrees = Degrees(graph, model.shape, torch.device("cpu"))
    with torch.no_grad():
        blocks = model.blocks(batch, torch.device("cpu"), degrees)
        expected = model(model.gather(batch, tables), blocks)[0].numpy()
    np.testing.assert_allclose(scores, expected[: len(scores)], rtol=1e-4, atol=1e-4)


def test_embeddings_of_all_types_by_their_own_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, "[stage1, embeddings, evaluation]", "sage", monkeypatch)
    assert write_embeddings(run, tmp_path / "all") == ["film", "genre", "studio"]
    found = {name: pq.read_table(tmp_path / "all" / f"{name}.parquet") for name in run.store.node_types}
    for name, table in found.items():
        assert table["id"].to_pylist() == list(run.store.node_ids(name))
    h, _ = open_cache(
        run.path / "embeddings" / VECTORS, cache_digests(run.path / "stage1" / MODEL, run.store)
    )
    np.testing.assert_allclose(np.stack(found["film"]["embedding"].to_numpy()), h, rtol=1e-5, atol=1e-6)
    assert write_embeddings(run, tmp_path / "one", ["studio"]) == ["studio"]
    assert pq.read_table(tmp_path / "one" / "studio.parquet").equals(found["studio"])
    with pytest.raises(ClusterError, match=r"--of: found 'actor', expected .*: film, genre, studio"):
        write_embeddings(run, tmp_path / "none", ["actor"])
    assert not (tmp_path / "none").exists()


def test_a_language_model_predicts_new_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row's prediction is its own: alone or among others."""
    stages = "[stage1, embeddings, base, tokens, stage3, evaluation]"
    run = trained(tmp_path, stages, "sage", monkeypatch)
    lines = [f"{line}\n" for line, _ in films(500, 506)]
    for name, some in (("all", lines), ("one", lines[3:4])):
        (tmp_path / f"{name}.csv").write_text(f"{HEAD}\n" + "".join(some))
    made = list(predict(run, tmp_path / "all.csv"))
    (alone,) = predict(run, tmp_path / "one.csv")
    assert len(made) == 6 and np.ptp([one.answer["number"] for one in made]) > 0
    assert alone.id == made[3].id
    assert alone.answer["number"] == pytest.approx(made[3].answer["number"], abs=1e-3)


@pytest.mark.parametrize("stages", ["[stage1, embeddings, base, tokens, stage3, evaluation]", ""])
def test_a_service_answers_for_rows_as_predict_does(
    stages: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a title that looks like a time, which JSON lines would be read as; bad rows are told by field."""
    run = trained(tmp_path, stages or "[stage1, embeddings, evaluation]", "hgt", monkeypatch)
    rows = [line.split(",") for line, _ in films(500, 503)]
    rows[1][1] = "2024-01-02"
    records, expected = [], []
    for i, row in enumerate(rows):
        (tmp_path / "row.csv").write_text(f"{HEAD}\n{','.join(row)}\n")
        expected += predict(run, tmp_path / "row.csv")
        records.append((f"record {i}", dict(zip(HEAD.split(","), row, strict=True))))
    predictor = Predictor(run, torch.device("cpu"))
    bad = [
        ("record 3", {"film": "f0", "title": "t", "genres": "", "studio": ""}),
        ("record 4", {"film": "f9999"}),
    ]
    bad += [("record 5", {"film": "f9998", "title": {"a": 1}, "genres": "", "studio": ""})]
    *answers, taken, lacking, nested = predictor.answers([*records, *bad])
    for one, other in zip(answers, expected, strict=True):
        assert isinstance(one, Answer) and one.prediction.id == other.id
        assert one.prediction.answer["number"] == pytest.approx(other.answer["number"], abs=2e-6)
    for refused, name, words in (
        (taken, "f0", "expected each key once"),
        (lacking, "f9999", "no such column"),
        (nested, "f9998", "title"),
    ):
        assert isinstance(refused, Refused) and refused.id == name
        assert words in refused.error and str(tmp_path) not in refused.error
    answer = predictor.explain(records[0][1], "record")
    reasons = answer.prediction.why or ()
    assert isinstance(answers[0], Answer) and replace(answer.prediction, why=None) == answers[0].prediction
    (tmp_path / "row.csv").write_text(f"{HEAD}\n{','.join(rows[0])}\n")
    (same,) = predict(run, tmp_path / "row.csv", explain=True)
    for one, other in zip(reasons, same.why or (), strict=True):
        assert (one.kind, one.name) == (other.kind, other.name)
        assert one.change == pytest.approx(other.change, abs=3e-6)
    assert {one.kind for one in reasons} == (
        {"relation", "features", "field"} if stages else {"relation", "features"}
    )
