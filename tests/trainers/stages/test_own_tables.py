"""Anyone's tables, from files to predictions: relations end in many types, one of them without features.

In this process, without Ray; `netgpt run` does the same over a cluster.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from netgpt import graphstore
from netgpt.cluster.config import load_config
from netgpt.cluster.report.results import _confusions
from netgpt.graphstore import Store
from netgpt.graphstore.dataset import BuildConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.tasks.names import make_task

pytestmark = pytest.mark.usefixtures("process_group")

TABLES = """
target: film
tables:
  film:
    path: films.csv
    key: film
    columns: {title: text, stars: number, tall: number, mood: category, genres: {categories: "|"}}
    features: [title]
    document: [title, genres]
    links: {genres: genre, studio: studio}
  studio: {path: studios.csv, key: studio}
  plays: {path: plays.csv, links: {user: user, film: film}}
  user: {path: users.csv, key: user, columns: {about: text}}
"""
RECIPE = """
dataset: tables
task: {name: regression, label: stars, val_share: 0.15, split: {by: random, seed: 3, test_share: 0.15}}
stages: [stage1, embeddings, evaluation]
build: {encoder: "hash:16"}
sampler: {fanout: 10}
graph: {encoder: sage, hidden: 16, batch_size: 64, epochs: 25, patience: 25, lr: 0.02, dropout: 0.0}
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Films whose stars follow from their studio and from who plays them: not from their titles."""
    folder, rng = tmp_path_factory.mktemp("films"), np.random.default_rng(0)
    quality, taste = rng.normal(size=8), rng.integers(0, 2, 60)
    films, plays = ["film,title,stars,tall,mood,genres,studio"], ["user,film"]
    for i in range(300):
        studio, kind = int(rng.integers(8)), int(rng.integers(0, 2))
        mood, tall = ["sad", "glad"][kind], 2 * kind + int(quality[studio] > 0)
        stars = 5 + 2 * quality[studio] + 2 * kind + rng.normal() / 10
        genres = "|".join(sorted(set(rng.choice(["war", "love", "noir"], 2).tolist())))
        films.append(f"f{i},title {rng.integers(1000)},{stars:.4f},{tall},{mood},{genres},s{studio}")
        fans = rng.choice(np.flatnonzero(taste == kind), 6, replace=False)
        plays += [f"u{u},f{i}" for u in fans.tolist()]
    for name, lines in (
        ("films", films),
        ("plays", plays),
        ("studios", ["studio", *(f"s{i}" for i in range(8))]),
        ("users", ["user,about", *(f"u{i},likes {'ab'[taste[i]] * 4}" for i in range(60))]),
    ):
        (folder / f"{name}.csv").write_text("\n".join(lines))
    (folder / "graph.yaml").write_text(TABLES)
    graphstore.build(folder / "graph.yaml", folder / "store", BuildConfig(encoder="hash:16"))
    return graphstore.open(str(folder / "store"))


def settings_with(tmp_path: Path, *changes: str) -> Settings:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return load_config(str(tmp_path / "recipe.yaml"), ["cluster.workers=1", *changes]).settings


def make_run(run: Path, store: Store, settings: Settings, metric: str = "nmse") -> dict[str, float]:
    """All stages of some settings in this process; a metric on test of all that is measured."""
    for name in settings.stages:
        stage_of(name).check(settings)
        stage_of(name).check_graph(settings, store)
        job = StageJob(stage=name, run=run, store=store.path, settings=settings, inputs={"stage": name})
        job.prepare()
        run_stage(job)
    metrics = json.loads((run / "evaluation" / "metrics.json").read_text())
    return {name: parts["test"][metric] for name, parts in (metrics["baselines"] | metrics["stages"]).items()}


@pytest.mark.parametrize("featureless", ["table", "degree"])
def test_the_graph_tells_what_texts_do_not(store: Store, tmp_path: Path, featureless: str) -> None:
    settings = settings_with(tmp_path, f"graph.featureless={featureless}")
    run = tmp_path / "run"
    found = make_run(run, store, settings)
    assert found["ridge on the texts"] > 0.9 and found["constant (mean)"] > 0.9
    assert found["stage1"] < (0.3 if featureless == "table" else 0.8)
    table = pq.read_table(run / "evaluation" / "predictions.parquet").to_pydict()
    assert set(table["id"]) == set(store.node_ids("film")) == {f"f{i}" for i in range(300)}
    assert pq.read_table(run / "embeddings" / "ids.parquet")["id"].to_pylist() == list(store.node_ids("film"))
    test = np.array(table["split"]) == "test"
    scores, truth = (np.array(table[name])[test] for name in ("stage1_score", "truth"))
    assert found["stage1"] == pytest.approx(np.mean((scores - truth) ** 2) / truth.var())


LANGUAGE = [
    "stages=[stage1,embeddings,base,tokens,stage3,evaluation]",
    *("language.model=tiny", "language.max_tokens=160", "language.token_budget=640"),
    *("language.tiny.hidden=32", "language.tiny.heads=2", "language.tiny.vocab=400"),
    "language.packs_per_step=4",
    *("stage3.epochs=2", "stage3.layers=1", "stage3.lr=0.003"),
]


@pytest.mark.parametrize("start", ["graph", pytest.param("mean", marks=pytest.mark.all)])
def test_a_language_model_reads_rows_and_graph(store: Store, tmp_path: Path, start: str) -> None:
    """Prompts are the rows' columns; without stage 2 the head starts on fresh projector and markers."""
    settings = settings_with(tmp_path, *LANGUAGE, f"stage3.start={start}")
    run = tmp_path / "run"
    found = make_run(run, store, settings)
    assert found["stage1"] < 0.3 and found["ridge on the texts"] > 0.9
    assert found["stage3"] < (0.4 if start == "graph" else 1.2)
    table = pq.read_table(run / "evaluation" / "predictions.parquet").to_pydict()
    assert np.isfinite(table["stage3_score"]).all()
    assert np.ptp(table["stage3_score"]) > 0


@pytest.mark.parametrize("task", ["classification", pytest.param("ordinal", marks=pytest.mark.all)])
def test_chances_go_through_graph_and_language(store: Store, tmp_path: Path, task: str) -> None:
    """A score is a number for each class: from the head to the cache, language stages and predictions."""
    asked = {
        "classification": "{name: classification, label: mood, classes: [sad, glad]",
        "ordinal": "{name: rating, label: tall, levels: 4, head: ordinal",
    }
    recipe = RECIPE.replace("{name: regression, label: stars", asked[task])
    (tmp_path / "recipe.yaml").write_text(recipe)
    more = [*LANGUAGE, "stages=[stage1,embeddings,base,tokens,stage2,stage3,evaluation]"]
    more += ["stage2.epochs=1", "stage2.lr=0.003", "stage3.start=graph"]
    settings = load_config(str(tmp_path / "recipe.yaml"), ["cluster.workers=1", *more]).settings
    run = tmp_path / "run"
    found = make_run(run, store, settings, "acc")
    assert found["stage1"] > (0.9 if task == "classification" else 0.7)
    assert found["stage3"] > 0.6
    assert set(found) >= {"stage1_sampled", "stage2", "stage2_generated"} and "stage2_mean" not in found
    scores = graphstore.arrays.map_array(run / "embeddings" / "vectors", "score")
    assert scores.shape == (300, 2 if task == "classification" else 4)
    path = run / "evaluation" / "predictions.parquet"
    table = {name: np.array(column) for name, column in pq.read_table(path).to_pydict().items()}
    test = table["split"] == "test"
    measured = json.loads((run / "evaluation" / "metrics.json").read_text())["stages"]["stage3"]["test"]
    if task == "classification":
        assert found["constant (shares)"] < 0.7
        chances = np.stack([table["stage3_chance_sad"], table["stage3_chance_glad"]], 1)
        np.testing.assert_allclose(chances.sum(1), 1)
        said = np.array(["sad", "glad"])[chances.argmax(1)]
        assert said.tolist() == table["stage3_class"].tolist()
        right = said == table["class"]
    else:
        right = table["stage3_level"] == table["level"]
        median = table["stage3_median"]
        assert measured["mae"] == pytest.approx(np.abs(median - table["level"])[test].mean())
        assert measured["mse"] == pytest.approx(((table["stage3_score"] - table["level"])[test] ** 2).mean())
        assert np.abs(table["stage3_score"] - median).max() <= 3 and (median != table["stage3_score"]).any()
    assert found["stage3"] == pytest.approx(right[test].mean()) == measured["acc"]
    (confusion,) = _confusions(make_task(settings.task), path, {"stage3": "NetGPT"})
    assert np.trace(confusion.counts) == right[test].sum() and np.sum(confusion.counts) == test.sum()


@pytest.mark.all
def test_a_number_is_said_in_words(store: Store, tmp_path: Path) -> None:
    """By the likeliest of a list, by their mean, and as text; beside a head's."""
    more = [
        *LANGUAGE,
        "stages=[stage1,embeddings,base,tokens,stage2,stage3,evaluation]",
        "task.said=[0,12,0.5]",
    ]
    settings = settings_with(tmp_path, *more, "stage2.epochs=1", "stage2.lr=0.003", "stage3.start=graph")
    found = make_run(tmp_path / "run", store, settings, "mae")
    assert set(found) >= {"stage1", "stage2", "stage2_mean", "stage2_generated", "stage3"}
    table = pq.read_table(tmp_path / "run" / "evaluation" / "predictions.parquet").to_pandas()
    grid = np.arange(0, 12.5, 0.5)
    assert np.isin(table["stage2_score"], grid).all() and not np.isin(table["stage2_mean_score"], grid).any()
    assert table["stage2_mean_score"].between(0, 12).all()


def test_a_label_that_prompts_would_show_is_refused_before_a_stage_starts(
    store: Store, tmp_path: Path
) -> None:
    settings = settings_with(tmp_path, *LANGUAGE, "task.label=title")
    with pytest.raises(TrainerError, match=r"task\.label: found 'title', expected a column that prompts"):
        stage_of("tokens").check_graph(settings, store)


def test_stages_that_say_choices_are_refused_for_a_number_before_anything_starts(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "stages=[stage1,embeddings,base,tokens,stage2,evaluation]")
    for name in ("stage2", "lora"):
        with pytest.raises(
            TrainerError, match=f"^{name}: found 'the task regression', expected one whose"
        ) as one:
            stage_of(name).check(settings)
        assert "\n" not in str(one.value)
    assert make_task(settings.task).choices == () and not stage_of("lora").applies(settings)
