"""The stage of modalities: what it reads and what it must not, the same bits however it is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.dataset import BuildConfig
from netgpt.graphstore.datasets.microlens import LABELS, MicroLens, MicroLensConfig
from netgpt.graphstore.datasets.tables import write_tables
from netgpt.trainers.config import EvaluationConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.multimodal.rows import ModalRows
from netgpt.trainers.multimodal.train import MultimodalTrainer, load_scores
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.tasks.baselines import ridge, ridge_of_others
from netgpt.trainers.tasks.names import make_task, task_class
from netgpt.trainers.tasks.regression import RegressionConfig
from netgpt.trainers.tasks.split import SplitConfig
from tests.ranks import job_of, kill_in_an_epoch, torchrun

TASK = RegressionConfig(
    name="regression", label="comments", transform="log2", split=SplitConfig(by="column", column="part")
)
CONFIG = MultimodalConfig(text="video", width=8, epochs=3, patience=3, batch_size=16, lr=0.003, k=4)


def built(folder: Path, data: Path, **config: Any) -> Store:
    graphstore.build(data, folder, MicroLensConfig(encoder="hash:32", **{"similar": 6, **config}))
    return graphstore.open(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos") / "data"
    MicroLens().write_synthetic(folder, 0.005, 0)
    return folder


@pytest.fixture(scope="module")
def videos(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return built(tmp_path_factory.mktemp("stores") / "store", data)


def trained(store: Store, folder: Path, config: MultimodalConfig = CONFIG, task: Any = TASK) -> np.ndarray:
    folder.mkdir(exist_ok=True)
    MultimodalTrainer(config, 0, store, make_task(task), EvaluationConfig(), folder).run()
    return load_scores(folder, store)


def relabelled(data: Path, folder: Path, parts: set[str], store: Store) -> Path:
    """The same videos with other labels in some parts."""
    codes, values = store.category("video", "part")
    rng, lines = np.random.default_rng(5), (data / LABELS).read_text().splitlines()
    for i, (line, code) in enumerate(zip(lines[1:], codes.tolist(), strict=True), start=1):
        if values[code] in parts:
            lines[i] = f"{line.split(',')[0]},{rng.integers(1, 10_000)}"
    folder.mkdir()
    for file in data.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / LABELS).write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.parametrize(
    ("select", "parts", "bank"),
    [("best", {"test"}, "train"), ("last", {"test", "val"}, "train"), ("last", {"test", "val"}, "all")],
)
def test_labels_outside_train_leave_all_predictions_bit_for_bit(
    select: str, parts: set[str], bank: str, data: Path, videos: Store, tmp_path: Path
) -> None:
    """Also where videos of other parts are retrieved: their features are read, their labels are not."""
    config = replace(CONFIG, select=select)
    one = trained(built(tmp_path / "a", data, bank=bank), tmp_path / "1", config)
    other_data = relabelled(data, tmp_path / "other", parts, videos)
    other = trained(built(tmp_path / "b", other_data, bank=bank), tmp_path / "2", config)
    assert one.tobytes() == other.tobytes()


def test_the_alarm_rings_where_labels_of_all_are_read(data: Path, videos: Store, tmp_path: Path) -> None:
    config = replace(CONFIG, select="last", labels="all")
    one = trained(built(tmp_path / "a", data, bank="all"), tmp_path / "1", config)
    other_data = relabelled(data, tmp_path / "other", {"test"}, videos)
    assert not np.array_equal(
        one, trained(built(tmp_path / "b", other_data, bank="all"), tmp_path / "2", config)
    )


def test_what_is_retrieved_is_weighed_by_the_softmax_of_its_scores(videos: Store) -> None:
    examples = make_task(TASK).examples(videos)
    rows = ModalRows(videos, CONFIG, examples, near=True)
    relation = videos.relation(("video", "is_similar_to", "video"))
    nodes = np.array([5, 0, 44, 98])
    near = rows.batch(nodes).near
    assert near is not None
    x = videos.features("video").gather(np.arange(videos.num_nodes["video"])).astype(np.float64)
    for i, v in enumerate(nodes.tolist()):
        heads, begin = relation.neighbors(v)[:4], relation.begin[v]
        weights = np.exp(relation.numbers["score"][begin : begin + 4].astype(np.float64))
        weights /= weights.sum()
        np.testing.assert_allclose(near.x["text"][i, 0], weights @ x[heads], atol=1e-6)
        assert set(heads.tolist()) <= set(examples.train.tolist()) and bool(near.has[i] and near.has_label[i])
        assert float(near.label[i]) == pytest.approx(weights @ examples.truth[heads], rel=1e-6)


def films(folder: Path) -> Store:
    """Films whose gross is final 10 days after their release; films are released a day after another."""
    rng, num = np.random.default_rng(0), 60
    rows = {
        "key": [f"f{i}" for i in range(num)],
        "title": [" ".join(rng.choice(["war", "love", "sea", "night"], 3)) for _ in range(num)],
        "shots": list(rng.normal(size=(num, 6)).astype(np.float32)),
        "at": np.arange(num) * 86_400,
        "gross": rng.integers(1, 99, num).astype(np.float64),
        "part": ["train"] * 40 + ["val"] * 10 + ["test"] * 10,
    }
    columns = {"title": "text", "shots": "vector", "at": "time", "gross": "number", "part": "category"}
    said = {
        "tables": {"film": {"key": "key", "time": "at", "columns": columns, "features": ["title"]}},
        "relations": [{"name": "alike", "of": "film", "nearest": ["title", "shots"], "k": 5}],
    }
    path = write_tables(folder / "tables", {"film": rows}, said)
    graphstore.build(path, folder / "store", BuildConfig(encoder="hash:16"))
    return graphstore.open(folder / "store")


FILMS = RegressionConfig(name="regression", label="gross", split=SplitConfig(by="column", column="part"))


def test_a_label_is_read_once_it_is_final_and_of_train_alone(tmp_path: Path) -> None:
    store = films(tmp_path)
    config = replace(CONFIG, text="film", visual="film_shots", visual_tokens=3, k=5)
    config = replace(config, known_from="at", known_days=10)
    examples = make_task(FILMS).examples(store)
    rows = ModalRows(store, config, examples, near=True)
    relation, nodes = store.relation(("film", "alike", "film")), np.arange(60)
    heads, weights, of_labels = rows.weights(nodes)
    near = rows.batch(nodes).near
    assert near is not None and rows.shape(1).dims == {"visual": 2, "text": 16}
    some = 0
    for v in nodes.tolist():
        own = relation.neighbors(v)
        known = [u <= v - 10 and u < 40 for u in own.tolist()]
        assert heads[v][: len(own)].tolist() == own.tolist()
        assert (weights[v] > 0).tolist() == [True] * len(own) + [False] * (5 - len(own))
        assert (of_labels[v] > 0).tolist() == known + [False] * (5 - len(own))
        assert of_labels[v].sum() == pytest.approx(float(any(known)))
        some += any(known) and not all(known)
        expected = of_labels[v][: len(own)] @ examples.truth[own] if any(known) else 0
        assert float(near.label[v]) == pytest.approx(expected, rel=1e-5)
        assert bool(near.has[v]) == (len(own) > 0) and bool(near.has_label[v]) == any(known)
    assert some > 5
    for model in ("mmra", "mmra-released", "cban", "clstm", "hmmved", "massl", "tmall"):
        scores = trained(store, tmp_path / model, replace(config, model=model, epochs=1), FILMS)
        assert scores.shape == (60,) and np.isfinite(scores).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "title"}, "multimodal.text: found 'title', expected one of video"),
        ({"text": ""}, "multimodal: found 'visual none, text none', expected a type with features"),
        ({"text_tokens": 5}, "multimodal.text_tokens: found 5, expected a part of the width 32"),
        ({"relation": "likes"}, "multimodal.relation: found 'likes', expected one of is_similar_to"),
        ({"known_from": "comments"}, "multimodal.known_from: found 'comments', expected a time column"),
    ],
)
def test_what_the_graph_has_not_is_refused_before_anything_starts(
    changes: dict[str, Any], message: str, videos: Store
) -> None:
    stage = stage_of("multimodal")
    stage.check_graph(settings_with(CONFIG), videos)
    with pytest.raises(TrainerError, match=message):
        stage.check_graph(settings_with(replace(CONFIG, **changes)), videos)


def test_labels_among_what_is_read_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        "key": [f"f{i}" for i in range(60)],
        "title": ["a b"] * 60,
        "gross": rng.integers(1, 99, 60).astype(np.float64),
        "genre": rng.choice(["war", "love"], 60).tolist(),
        "part": ["train"] * 40 + ["val"] * 10 + ["test"] * 10,
    }
    columns = {"title": "text", "gross": "number", "genre": "category", "part": "category"}
    for features, nearest, label, message in (
        (["gross"], "title", "gross", "found 'gross' among the features of film"),
        (["title"], "genre", "genre", "found 'genre', by which film/alike/film tells it"),
    ):
        said = {
            "tables": {"film": {"key": "key", "columns": columns, "features": features}},
            "relations": [{"name": "alike", "of": "film", "nearest": nearest}],
        }
        folder = tmp_path / label
        graphstore.build(write_tables(folder / "t", {"film": rows}, said), folder / "s", BuildConfig())
        store = graphstore.open(folder / "s")
        name = "regression" if label == "gross" else "classification"
        kind = settings_type(name, ("multimodal", "evaluation"))
        own = {} if label == "gross" else {"classes": ["war", "love"]}
        split = SplitConfig(by="column", column="part")
        task = task_class(name).Config(name=name, label=label, split=split, **own)
        settings = kind(
            stages=["multimodal"], baselines=[], task=task, multimodal=replace(CONFIG, text="film")
        )  # type: ignore[call-arg]
        with pytest.raises(TrainerError, match=message):
            stage_of("multimodal").check_graph(settings, store)


def test_retrieved_by_another_time_is_not_earlier(tmp_path: Path) -> None:
    """By it a film would be told its own gross, by way of films that came later."""
    store = films(tmp_path)
    relation = store.schema.relation_type(("film", "alike", "film"))
    assert store.schema.is_strict(relation) and relation.nearest is not None
    for column in ("", "gross"):
        other = replace(relation.nearest, time=column)
        assert not store.schema.is_strict(replace(relation, nearest=other))


def test_a_picture_that_a_neighbour_has_not_is_not_taken_for_zeros(tmp_path: Path) -> None:
    store = films(tmp_path)
    config = replace(CONFIG, text="film", visual="film_shots", visual_tokens=3, k=5)
    rows = ModalRows(store, config, make_task(FILMS).examples(store), near=True)
    features, tokens = rows._features["visual"]
    x = np.ones_like(features.x)
    x[::2, 2:4] = 0  # every other film lacks its second shot
    rows._features["visual"] = (type(features)(features.num_nodes, x, features.x_row), tokens)
    near = rows.batch(np.arange(20, 60)).near
    assert near is not None
    shots = near.x["visual"]
    assert bool(((shots - 1).abs() < 1e-6).logical_or(shots == 0).all())
    heads = [store.relation(("film", "alike", "film")).neighbors(v) for v in range(20, 60)]
    for i, own in enumerate(heads):
        assert bool((shots[i, 1] == 0).all()) == bool((own % 2 == 0).all())


@pytest.mark.parametrize(("model", "part"), [("clstm", "RE"), ("tmall", "Neg")])
def test_a_model_is_not_said_to_be_without_what_it_never_had(model: str, part: str) -> None:
    with pytest.raises(
        TrainerError, match=rf"multimodal\.without: found \['{part}'\], expected some of V, T"
    ):
        stage_of("multimodal").check(settings_with(replace(CONFIG, model=model, without=[part])))


def test_one_network_for_both_and_one_modality_alone(tmp_path: Path) -> None:
    store = films(tmp_path)
    config = replace(CONFIG, text="film", visual="film_shots", visual_tokens=3, k=5, epochs=1)
    task, sizes = make_task(FILMS), {}
    for name, changes in (("own", {}), ("shared", {"share_branches": True}), ("text", {"without": ["V"]})):
        for model in ("mmra", "mmra-released"):
            own = replace(config, model=model, **changes)  # type: ignore[arg-type]
            folder = tmp_path / f"{model}-{name}"
            trainer = MultimodalTrainer(own, 0, store, task, EvaluationConfig(), folder)
            trainer.run()
            sizes[model, name] = sum(p.numel() for p in trainer.model.parameters())
            assert trainer.rows.types == (("film",) if name == "text" else ("film_shots", "film"))
            if name == "shared":
                assert trainer.model.branch is trainer.model.near.branch  # type: ignore[union-attr]
    for model in ("mmra", "mmra-released"):
        assert sizes[model, "shared"] < sizes[model, "own"] > sizes[model, "text"]


def test_a_graph_without_neighbours_needs_a_model_without_them(data: Path, tmp_path: Path) -> None:
    store, stage = built(tmp_path / "store", data, similar=0), stage_of("multimodal")
    with pytest.raises(
        TrainerError, match=r"multimodal\.model: found 'mmra', expected a model without neigh"
    ):
        stage.check_graph(settings_with(CONFIG), store)
    for config in (replace(CONFIG, without=["RE"]), replace(CONFIG, model="clstm")):
        stage.check_graph(settings_with(config), store)


@pytest.mark.parametrize(
    "wrong",
    [
        {"without": ["Neg", "Pos"]},
        {"without": ["X"]},
        {"alpha": 1.5},
        {"labels": "val"},
        {"select": "first"},
        {"k": 0},
        {"dropout": 1.0},
        {"known_days": 14.0},
        {"without": ["V"]},
        {"over": "trees"},
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(TrainerError, match=f"multimodal.{next(iter(wrong))}"):
        MultimodalConfig(**wrong)


def settings_with(config: MultimodalConfig) -> Settings:
    kind = settings_type("regression", ("multimodal", "evaluation"))
    return kind(stages=["multimodal", "evaluation"], baselines=[], task=TASK, multimodal=config)  # type: ignore[call-arg]


@pytest.mark.all
def test_one_rank_or_two_and_killed_or_not(videos: Store, tmp_path: Path) -> None:
    """Two ranks end within 1e-5 of one; killed with SIGKILL in an epoch they end in the same bits."""
    config = replace(CONFIG, epochs=6, patience=6, checkpoint_steps=1)
    for name in ("2", "killed"):
        job_of("multimodal", videos, tmp_path / name, settings_with(config))
    kill_in_an_epoch(tmp_path / "killed", "multimodal")
    alone = job_of("multimodal", videos, tmp_path / "1", settings_with(config))
    alone.prepare()
    run_stage(alone)
    for name in ("2", "killed"):
        assert torchrun(tmp_path / name, 2).wait(timeout=300) == 0
    found = {name: load_scores(tmp_path / name / "multimodal", videos) for name in ("1", "2", "killed")}
    np.testing.assert_allclose(found["1"], found["2"], rtol=1e-5, atol=1e-5)
    assert found["2"].tobytes() == found["killed"].tobytes()


def test_scores_of_another_store_are_refused(data: Path, videos: Store, tmp_path: Path) -> None:
    trained(videos, tmp_path / "run", replace(CONFIG, epochs=1))
    other = built(tmp_path / "other", data, split_seed=3)
    with pytest.raises(TrainerError, match="found scores of the store"):
        load_scores(tmp_path / "run", other)


def test_a_feature_that_is_not_finite_is_named(videos: Store) -> None:
    rows = ModalRows(videos, CONFIG, make_task(TASK).examples(videos), near=True)
    features = rows._features["text"][0]
    rows._features["text"] = (type(features)(features.num_nodes, np.array(features.x), features.x_row), 1)
    rows._features["text"][0].x[features.rows(np.array([7]))[0], 3] = np.nan
    with pytest.raises(TrainerError, match="node 7: text: found a number that is not finite"):
        rows.batch(np.array([7]))


def test_ranks_take_shares_of_a_step_that_make_it_whole(videos: Store, tmp_path: Path) -> None:
    trainer = MultimodalTrainer(CONFIG, 0, videos, make_task(TASK), EvaluationConfig(), tmp_path)
    steps = list(trainer.stream(0, 0))
    assert sorted(np.concatenate(steps).tolist()) == trainer.examples.train.tolist()
    assert [s.tolist() for s in trainer.stream(0, 2)] == [s.tolist() for s in steps[2:]]
    assert not np.array_equal(steps[0], next(trainer.stream(1, 0)))
    model, nodes = trainer.model.eval(), steps[0]
    with torch.no_grad():
        whole = float(trainer._loss(nodes))
        parts = [float(trainer._loss(nodes[rank::3])) for rank in range(3)]
    assert whole == pytest.approx(sum(parts), rel=1e-5) and not model.training


def test_over_a_ridge_it_learns_what_regressions_leave_that_have_not_seen_it(tmp_path: Path) -> None:
    data = tmp_path / "data"
    MicroLens().write_synthetic(data, 0.01, 0)
    videos = built(tmp_path / "a", data)
    config = replace(CONFIG, over="ridge", select="last")
    task = make_task(TASK)
    examples = task.examples(videos)
    trainer = MultimodalTrainer(config, 0, videos, task, EvaluationConfig(), tmp_path)
    offset, train = trainer.offset, examples.train
    whole = ridge(videos, examples.truth, train, np.arange(len(offset)))
    assert whole is not None
    rest = np.setdiff1d(np.arange(len(offset)), train)
    np.testing.assert_array_equal(offset[rest], whole[rest])
    # Of train each is by a regression without it: another label of its own changes nothing
    truth = examples.truth.copy()
    truth[train[3]] += 50
    other = ridge_of_others(videos, truth, train)
    assert other is not None and other[train[3]] == offset[train[3]] and not np.array_equal(other, offset)
    np.testing.assert_allclose(trainer.left.truth, examples.truth - offset)
    trainer.run()
    scores, left = load_scores(tmp_path, videos), trainer.model.eval()
    with torch.no_grad():
        own = left(trainer.rows.batch(rest)).double().numpy()
    np.testing.assert_allclose(scores[rest], own + offset[rest], atol=1e-5)
    other_data = relabelled(data, tmp_path / "other", {"test", "val"}, videos)
    again = trained(built(tmp_path / "b", other_data), tmp_path / "2", config)
    assert again.tobytes() == load_scores(tmp_path, videos).tobytes()


def test_over_a_ridge_it_wants_texts(tmp_path: Path) -> None:
    store = films(tmp_path)
    config = replace(CONFIG, text="film", over="ridge")
    with pytest.raises(TrainerError, match=r"multimodal\.over: found 'ridge', expected nothing, as the"):
        trained(store, tmp_path / "run", config, FILMS)
