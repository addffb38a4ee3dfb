"""The recommender's stage: the same bits however it is run, what it learns from, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from netgpt.graphstore import Store
from netgpt.trainers import weights
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.loop import StepResult
from netgpt.trainers.recommend.config import RecommenderConfig, ShlConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.ranking import full_ranking
from netgpt.trainers.recommend.sampled import SampledLoader, SampledStep
from netgpt.trainers.recommend.train import MODEL, VECTORS, RecommenderTrainer, load_vectors, scores_of
from netgpt.trainers.recommend.triples import TripleLoader, Triples
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.stages.folder import read_manifest
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.session import run_stage
from netgpt.trainers.tasks.ranking import RankingConfig
from tests.ranks import job_of, kill_in_an_epoch, torchrun
from tests.recommend import ITEMS, USERS, pairs_of_tastes, store_of

CONFIG = RecommenderConfig(
    width=8,
    layers=2,
    epochs=6,
    batch_size=40,
    lr=0.02,
    patience=6,
    checkpoint_steps=2,
    shl=ShlConfig(hyperedges=4),
)
TASK = RankingConfig(name="ranking", k=5)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return store_of(tmp_path_factory.mktemp("pairs"))


def trainer_of(
    store: Store, folder: Path, config: RecommenderConfig = CONFIG, seed: int = 0
) -> RecommenderTrainer:
    folder.mkdir(exist_ok=True)
    return RecommenderTrainer(config, seed, store, TASK, folder)


def test_the_best_epoch_by_full_ranking_is_kept(pairs: Store, tmp_path: Path) -> None:
    found = trainer_of(pairs, tmp_path, replace(CONFIG, epochs=30, patience=3)).run()
    history, data = found["history"], Interactions.of(pairs)
    best = max(range(len(history)), key=lambda i: history[i]["val_ndcg@5"])
    assert found["best"] == history[best] and len(history) in (30, best + 1 + 3)
    users, items = load_vectors(tmp_path, pairs)
    assert users.shape == (USERS, 8) and items.shape == (ITEMS, 8)
    metrics = full_ranking(scores_of(users, items), data.val, [data.train]).metrics(5)
    for name, value in metrics.items():
        assert name == "num" or history[best][f"val_{name}"] == value
    test = full_ranking(scores_of(users, items), data.test, [data.train, data.val])
    assert test.metrics(5, data.train.num_by_item[test.items] > 0)["recall@5"] > 0.5


class KilledError(Exception):
    pass


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "lightgcn"},
        {"model": "shl"},
        {"model": "sasrec"},
        {"model": "lightgcn", "neighbors": "sampled", "fanout": 3},
    ],
)
@pytest.mark.parametrize("fault", [0, 3, 8])
def test_a_training_killed_at_any_step_ends_in_the_same_bits(
    pairs: Store, tmp_path: Path, changes: dict[str, Any], fault: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, **changes, epochs=3)
    whole = trainer_of(pairs, tmp_path / "whole", config).run()
    killed = trainer_of(pairs, tmp_path / "killed", config)
    step = killed.train

    def fail(one: Triples | SampledStep, number: int) -> StepResult:
        if number == fault:
            raise KilledError
        return step(one, number)

    monkeypatch.setattr(killed, "train", fail)
    with pytest.raises(KilledError):
        killed.run()
    assert trainer_of(pairs, tmp_path / "killed", config).run() == whole
    for name in (MODEL, VECTORS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    other = trainer_of(pairs, tmp_path / "other", config, seed=1).run()
    assert other != whole


def test_other_pairs_in_the_test_part_train_the_same_bits(pairs: Store, tmp_path: Path) -> None:
    """Stores that differ in their test pairs alone: no bit of what is trained knows of them."""
    rows = pairs_of_tastes()
    known = {(u, i) for u, i, *_ in rows}
    moved = [(u, (i + 1) % ITEMS, t, 2) for u, i, t, part in rows if part == 2]
    others = {(u, i): (u, i, t, part) for u, i, t, part in moved if (u, i) not in known}
    changed = store_of(tmp_path / "data", [*(row for row in rows if row[3] != 2), *others.values()])
    assert changed.digest != pairs.digest
    config = replace(CONFIG, model="shl", epochs=2)
    found = [trainer_of(s, tmp_path / name, config).run() for name, s in (("a", pairs), ("b", changed))]
    assert found[0] == found[1]
    tensors = [weights.load(tmp_path / name / MODEL)[0] for name in "ab"]
    assert tensors[0].keys() == tensors[1].keys()
    assert all(torch.equal(tensors[0][key], tensors[1][key]) for key in tensors[0])


def test_triples_are_functions_of_the_pair_and_the_epoch(pairs: Store) -> None:
    data = Interactions.of(pairs)
    known = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))

    def drawn(epoch: int, **options: object) -> dict[tuple[int, int], int]:
        loader = TripleLoader(data.train, seed=3, **{"batch_size": 40, **options})  # type: ignore[arg-type]
        steps = list(loader.stream(epoch))
        assert len(steps) == len(loader)
        rows = [
            tuple(zip(s.users.tolist(), s.items.tolist(), s.negatives.tolist(), strict=True)) for s in steps
        ]
        return {(user, item): negative for some in rows for user, item, negative in some}

    whole = drawn(0)
    assert set(whole) == known and not {(user, n) for (user, _), n in whole.items()} & known
    assert whole == drawn(0, batch_size=7) == drawn(0, by_user=True) != drawn(1)
    halves: list[tuple[int, ...]] = []
    for rank in range(2):
        for step in TripleLoader(data.train, seed=3, batch_size=40, rank=rank, world_size=2).stream(0):
            halves += list(zip(*(x.tolist() for x in step.own), strict=True))
    assert sorted(halves) == sorted((u, i, n) for (u, i), n in whole.items())
    steps = list(TripleLoader(data.train, seed=3, batch_size=40).stream(0))
    later = list(TripleLoader(data.train, seed=3, batch_size=40).stream(0, 2))
    assert [s.pairs.tolist() for s in later] == [s.pairs.tolist() for s in steps[2:]]
    for step in TripleLoader(data.train, seed=3, batch_size=40, by_user=True).stream(0):
        for user in set(step.users.tolist()):  # a step has all pairs of its users
            assert (step.users == user).sum() == data.train.num_by_user[user]


def test_negatives_by_degree_come_as_often_as_their_weights() -> None:
    rng = np.random.default_rng(0)
    users, items = np.repeat(np.arange(400), 3), np.minimum(rng.geometric(0.3, 1200) - 1, 9)
    train = Pairs.of(users, items, 400, 12)
    degree = train.num_by_item
    counts = np.zeros(12)
    expected = np.zeros(12)
    weight = np.where(degree > 0, degree**0.75, 0.0)
    loader = TripleLoader(train, batch_size=5000, seed=0, negatives="degree")
    for epoch in range(40):
        (step,) = loader.stream(epoch)
        counts += np.bincount(step.negatives.numpy(), minlength=12)
    for user, num in enumerate(train.num_by_user.tolist()):
        free = weight.copy()
        free[train.of_user(user)] = 0
        expected += 40 * num * free / free.sum()
    assert not counts[degree == 0].any()
    there = expected > 0
    chi = ((counts - expected)[there] ** 2 / expected[there]).sum()
    assert chi < 40  # of at most 9 degrees of freedom: a chance of 1e-5


def test_negatives_of_before_were_there(pairs: Store, tmp_path: Path) -> None:
    data = Interactions.of(pairs)
    users, items = ([int(name) for name in pairs.node_names(kind)] for kind in ("user", "item"))
    at = {(u, i): t for u, i, t, part in pairs_of_tastes() if part == 0}
    first = {item: min(t for (_, i), t in at.items() if i == item) for item in {i for _, i in at}}
    known = [(users[u], items[i]) for u, i in zip(data.train.users, data.train.items, strict=True)]
    assert data.times is not None and data.times.tolist() == [at[pair] for pair in known]
    loader = TripleLoader(data.train, batch_size=40, seed=2, negatives="earlier", times=data.times)
    free = [{i for i, t in first.items() if t < at[pair] and (pair[0], i) not in at} for pair in known]
    assert loader.usable.tolist() == [number for number, some in enumerate(free) if some]
    assert 0 < loader.num_skipped < len(known)
    drawn: dict[int, set[int]] = {}
    for epoch in range(30):
        for step in loader.stream(epoch):
            for number, item in zip(step.pairs.tolist(), step.negatives.tolist(), strict=True):
                drawn.setdefault(number, set()).add(items[item])
    assert all(some <= free[number] for number, some in drawn.items())
    assert sum(map(len, drawn.values())) > 0.8 * sum(map(len, free))  # and not the same ones again
    config = replace(CONFIG, model="lightgcn", negatives="earlier")
    assert trainer_of(pairs, tmp_path / "all", replace(config, epochs=1)).run()["skipped_pairs"] == (
        SampledLoader(data, replace(config, neighbors="sampled"), 0).num_skipped
    )
    with pytest.raises(TrainerError, match="negatives: found 'earlier', expected another"):
        TripleLoader(data.train, batch_size=40, seed=2, negatives="earlier")


def test_users_who_have_all_items_teach_nothing(tmp_path: Path) -> None:
    rows = [(0, i, i, 0) for i in range(6)] + [(u, i, i, (u + i) % 3) for u in range(1, 5) for i in range(6)]
    store = store_of(tmp_path / "full", rows, vectors=False)
    trainer = trainer_of(store, tmp_path / "run")
    assert trainer.run()["skipped_pairs"] == 6 and trainer.loader.num_skipped == 6
    steps = list(TripleLoader(trainer.data.train, batch_size=9, seed=0).stream(0))
    assert steps and not any((step.users == 0).any() for step in steps)
    only = store_of(tmp_path / "only", [*rows[:6], (1, 0, 0, 1), (1, 1, 0, 2)], vectors=False)
    with pytest.raises(TrainerError, match="train: found 'no pair that has a negative', expected some"):
        trainer_of(only, tmp_path / "other")


def test_users_who_have_all_items_that_are_drawn_teach_nothing(tmp_path: Path) -> None:
    """By degree only items of train are drawn: items 3 and 4 are none."""
    rows = [(0, 0, 0, 0), (0, 1, 1, 0), (0, 2, 2, 0), (1, 0, 0, 0), (2, 1, 1, 0), (1, 3, 0, 1), (2, 4, 0, 2)]
    data = Interactions.of(store_of(tmp_path / "data", rows, vectors=False))
    for negatives, num in (("uniform", 5), ("degree", 2)):
        loader = TripleLoader(data.train, batch_size=1, seed=0, negatives=negatives)
        steps = list(loader.stream(0))
        assert [len(step) for step in steps] == [1] * num and loader.num_skipped == 5 - num
        sampled = SampledLoader(data, replace(CONFIG, neighbors="sampled", negatives=negatives), 0)
        assert sampled.num_usable == num == sum(len(step.users) for step in sampled.stream(0))


def test_what_a_model_cannot_do_is_refused_before_anything_starts(pairs: Store, tmp_path: Path) -> None:
    stage = stage_of("recommender")
    for model in ("shl", "ngcf", "sasrec"):
        wrong = replace(CONFIG, model=model, neighbors="sampled")
        with pytest.raises(TrainerError, match=f"found 'sampled', expected all for {model}"):
            stage.check(settings_with(wrong))
    stage.check(settings_with(replace(CONFIG, neighbors="sampled")))
    stage.check_graph(settings_with(replace(CONFIG, model="shl")), pairs)
    with pytest.raises(TrainerError, match=r"modalities: found 'sound'"):
        stage.check_graph(settings_with(replace(CONFIG, model="shl", modalities=["sound"])), pairs)
    bare = store_of(tmp_path / "bare", vectors=False)
    with pytest.raises(TrainerError, match="found 'mmgcn', which reads modalities"):
        stage.check_graph(settings_with(replace(CONFIG, model="mmgcn")), bare)
    rows = [(u, i, 0, 2 if i == 3 else 0) for u in range(4) for i in range(5)]
    with pytest.raises(TrainerError, match="validation: found 'no pair'"):
        stage.check_graph(settings_with(CONFIG), store_of(tmp_path / "novalid", rows, vectors=False))


def test_stores_that_cannot_be_learnt_from_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(
        TrainerError, match="found no pairs that are held out of the edges, expected a store of"
    ):
        trainer_of(store, tmp_path / "run")
    rows = [(u, i, 0, 2 if i == 3 else 0) for u in range(4) for i in range(5)]
    without = store_of(tmp_path / "data", rows, vectors=False)
    with pytest.raises(
        TrainerError, match="validation: found 'no pair', expected some, to choose an epoch by"
    ):
        trainer_of(without, tmp_path / "run")


def settings_with(config: RecommenderConfig) -> Settings:
    kind = settings_type("ranking", ("recommender", "evaluation"))
    return kind(stages=["recommender", "evaluation"], baselines=[], task=TASK, recommender=config)  # type: ignore[call-arg]


@pytest.mark.all
@pytest.mark.parametrize(
    "changes", [{"model": "lightgcn", "neighbors": "sampled"}, {"model": "shl"}, {"model": "lightgcn"}]
)
def test_one_rank_or_two_train_the_same_model(pairs: Store, tmp_path: Path, changes: dict[str, Any]) -> None:
    """And a run that is killed with SIGKILL in an epoch ends in the bits of one that is not."""
    config = replace(CONFIG, **changes, epochs=4, checkpoint_steps=1)
    for name in ("2", "killed"):
        job_of("recommender", pairs, tmp_path / name, settings_with(config))
    kill_in_an_epoch(tmp_path / "killed", "recommender")
    assert not (tmp_path / "killed" / "recommender" / "manifest.json").exists()
    alone = job_of("recommender", pairs, tmp_path / "1", settings_with(config))
    alone.prepare()
    run_stage(alone)
    for name in ("2", "killed"):
        assert torchrun(tmp_path / name, 2).wait(timeout=300) == 0
    found = {name: load_vectors(tmp_path / name / "recommender", pairs) for name in ("1", "2", "killed")}
    for one, other in zip(found["1"], found["2"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(one, other) for one, other in zip(found["2"], found["killed"], strict=True))
    manifest = read_manifest(tmp_path / "2" / "recommender")
    assert manifest is not None and len(manifest["metrics"]["history"]) == 4


def test_the_stage_wants_a_task_of_pairs_and_stage_1_one_of_nodes() -> None:
    settings = settings_with(CONFIG)
    stage_of("recommender").check(settings)
    with pytest.raises(TrainerError, match=r"task\.name: found 'ranking', expected a task of nodes"):
        stage_of("stage1").check(settings)
    of_nodes = settings_type("rating", ("recommender",))(stages=["recommender"], baselines=[])
    with pytest.raises(TrainerError, match=r"task\.name: found 'rating', expected ranking"):
        stage_of("recommender").check(of_nodes)
