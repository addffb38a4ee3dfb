"""Recommenders against dense algebra and loops over pairs, and what every one of them keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize
from torch_geometric.nn.models import LightGCN as PygLightGCN

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.config import RecommenderConfig, ShlConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.acf import ACF
from netgpt.trainers.recommend.models.lightgcn import LightGCN
from netgpt.trainers.recommend.models.mmgcn import MMGCN
from netgpt.trainers.recommend.models.names import MODELS, model_class
from netgpt.trainers.recommend.models.ngcf import NGCF
from netgpt.trainers.recommend.models.sage import SAGE
from netgpt.trainers.recommend.models.sasrec import SASRec
from netgpt.trainers.recommend.models.shl import SHL
from netgpt.trainers.recommend.neighbors import Bipartite
from netgpt.trainers.recommend.triples import TripleLoader
from tests.recommend import CONFIG, ITEMS, USERS, made, pairs_of_tastes, step_of, store_of


def dense(data: Interactions) -> np.ndarray:
    return data.train.matrix.toarray().astype(np.float64)


def test_the_data_are_those_of_the_file(data: Interactions) -> None:
    rows = pairs_of_tastes()
    for number, name in enumerate(("train", "val", "test")):
        pairs = getattr(data, name)
        found = set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))
        assert found == {(u, i) for u, i, _, part in rows if part == number}
    assert data.modalities == ("image", "text")
    indptr, items = data.history
    for user in range(USERS):
        own = sorted((t, i) for u, i, t, part in rows if u == user and part == 0)
        assert items[indptr[user] : indptr[user + 1]].tolist() == [i for _, i in own]
    x, raw = data.standardized("text"), data.features("text").astype(np.float64)
    there = data.train.num_by_item > 0
    assert not there.all()
    np.testing.assert_allclose(x, (raw - raw[there].mean(0)) / raw[there].std(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_lightgcn_is_pygs(data: Interactions, num_layers: int) -> None:
    model = made("lightgcn", data, replace(CONFIG, layers=num_layers))
    assert isinstance(model, LightGCN)
    theirs = PygLightGCN(USERS + ITEMS, 8, num_layers)
    with torch.no_grad():
        theirs.embedding.weight.copy_(model.embedding)
    one_way = torch.from_numpy(np.stack([data.train.users, data.train.items + USERS]))
    expected = theirs.get_embedding(torch.cat([one_way, one_way.flip(0)], dim=1))
    torch.testing.assert_close(torch.cat(model.vectors()), expected, rtol=1e-5, atol=1e-6)
    step = step_of(data)
    loss = model.loss(step) / len(step)
    ends = torch.cat([step.users, step.items + USERS, step.negatives + USERS])
    ranks = [
        (expected[step.users] * expected[other + USERS]).sum(1) for other in (step.items, step.negatives)
    ]
    of_theirs = theirs.recommendation_loss(*ranks, node_id=ends, lambda_reg=0.01)
    torch.testing.assert_close(loss, of_theirs, rtol=1e-5, atol=1e-6)
    loss.backward()
    of_theirs.backward()
    torch.testing.assert_close(model.embedding.grad, theirs.embedding.weight.grad, rtol=1e-4, atol=1e-7)


def norm_of(data: Interactions) -> Tensor:
    """D^−½ A D^−½ of users and items."""
    a = dense(data)
    whole = np.block([[np.zeros((USERS, USERS)), a], [a.T, np.zeros((ITEMS, ITEMS))]])
    scale = 1 / np.sqrt(np.maximum(1, whole.sum(1)))
    return torch.from_numpy(scale[:, None] * whole * scale)


def means_of(data: Interactions) -> tuple[Tensor, Tensor]:
    """Means of a user's items, and of an item's users."""
    a = dense(data)
    of_users, of_items = (
        a / np.maximum(1, a.sum(1, keepdims=True)),
        a.T / np.maximum(1, a.T.sum(1, keepdims=True)),
    )
    return torch.from_numpy(of_users), torch.from_numpy(of_items)


def test_sums_of_neighbours_are_those_of_the_matrix(data: Interactions) -> None:
    """By compiled rows, and by the sparse product that GPUs take."""
    graph, rng = Bipartite(data.train), np.random.default_rng(0)
    matrix = torch.from_numpy(dense(data)).float()
    for to_users, num, expected in ((True, ITEMS, matrix), (False, USERS, matrix.T)):
        x = torch.from_numpy(rng.normal(size=(num, 5))).float().requires_grad_()
        made_of = graph.to_users(x) if to_users else graph.to_items(x)
        torch.testing.assert_close(made_of, expected @ x)
        torch.testing.assert_close(graph._matrix(to_users) @ x.detach(), (expected @ x).detach())
        weight = torch.from_numpy(rng.normal(size=made_of.shape)).float()
        (gradient,) = torch.autograd.grad((made_of * weight).sum(), x)
        torch.testing.assert_close(gradient, expected.T @ weight)


def test_ngcf_is_its_formula(data: Interactions) -> None:
    model = made("ngcf", data).double()
    assert isinstance(model, NGCF)
    x, near = model.embedding, norm_of(data)
    layers = [x]
    for own, alike in zip(model.own, model.alike, strict=True):
        x = leaky_relu(own((near + torch.eye(len(near))) @ x) + alike((near @ x) * x), 0.2)
        layers.append(normalize(x))
    torch.testing.assert_close(torch.cat(model.vectors()), torch.cat(layers, dim=1))


def test_sage_is_its_formula(data: Interactions) -> None:
    model = made("sage", data).double()
    assert isinstance(model, SAGE)
    of_users, of_items = means_of(data)
    both = np.concatenate([data.standardized("image"), data.standardized("text")], axis=1)
    users: Tensor = model.user
    items = model.item.project(torch.from_numpy(both).double())
    for layer in range(2):
        new = [model.own[layer](users) + model.near[layer](of_users @ items)]
        new += [model.own[layer](items) + model.near[layer](of_items @ users)]
        users, items = new if layer else [leaky_relu(one) for one in new]
    for found, expected in zip(model.vectors(), (users, items), strict=True):
        torch.testing.assert_close(found, expected)


def test_mmgcn_is_its_formula(data: Interactions) -> None:
    model = made("mmgcn", data).double()
    assert isinstance(model, MMGCN)
    of_users, of_items = means_of(data)
    ids = model.embedding[:USERS], model.embedding[USERS:]
    found = []
    for name, one in zip(data.modalities, model.modalities, strict=True):
        x = torch.from_numpy(data.standardized(name)).double()
        users, items = normalize(one.user), normalize(torch.tanh(one.item.project(x)))  # type: ignore[operator,union-attr,arg-type]
        for layer in one.layers:  # type: ignore[union-attr]
            near = [leaky_relu(layer["near"](m)) for m in (of_users @ items, of_items @ users)]
            own = [leaky_relu(layer["own"](m)) + e for m, e in zip((users, items), ids, strict=True)]
            users, items = (leaky_relu(layer["out"](n) + o) for n, o in zip(near, own, strict=True))
        found.append(torch.cat([users, items]))
    torch.testing.assert_close(torch.cat(model.vectors()), (found[0] + found[1]) / 2)


def test_acf_weighs_the_items_of_a_user(data: Interactions) -> None:
    model = made("acf", data).double()
    assert isinstance(model, ACF) and model.content is not None
    users, items = model.vectors()
    torch.testing.assert_close(items, model.item)
    for user in range(USERS):
        own, vector = data.train.of_user(user), model.user[user]
        logits = [
            model.score(
                torch.relu(
                    model.of_user(model.user[user])
                    + model.of_item(model.item[i])
                    + model.of_taken(model.taken[i])
                    + model.content()[i]
                )
            ).item()
            for i in own
        ]
        weights = np.exp(logits) / max(1e-300, np.exp(logits).sum())
        for item, weight in zip(own.tolist(), weights, strict=True):
            vector = vector + float(weight) * model.taken[item]
        torch.testing.assert_close(users[user], vector)


def test_sasrec_reads_the_latest_items_and_none_after(data: Interactions) -> None:
    model = made("sasrec", data).double().eval()
    assert isinstance(model, SASRec)
    users, _ = model.vectors()
    indptr, history = data.history
    for user in range(USERS):
        own = history[indptr[user] : indptr[user + 1]][-4:]
        if not len(own):
            assert not users[user].any()
            continue
        x = model.item[own][None] * math.sqrt(8) + model.place[: len(own)]
        mask = torch.full((len(own), len(own)), -torch.inf, dtype=torch.float64).triu(1)
        for block in model.blocks:
            x = block(x, src_mask=mask)
        torch.testing.assert_close(users[user], model.norm(x)[0, -1])
    # Its loss, pair by pair: what came before the pair's item, at most four items, and none after it
    step = step_of(data, by_user=True)
    total, num_read = 0.0, 0
    for user, item, negative in zip(*(x.tolist() for x in step.own), strict=True):
        own = history[indptr[user] : indptr[user + 1]].tolist()
        place, window = own.index(item), own[:-1][-4:]
        first = len(own) - 1 - len(window)
        if place == 0 or place - 1 < first:
            continue
        read = own[first:place]
        x = model.item[read][None] * math.sqrt(8) + model.place[: len(read)]
        mask = torch.full((len(read), len(read)), -torch.inf, dtype=torch.float64).triu(1)
        for block in model.blocks:
            x = block(x, src_mask=mask)
        state = model.norm(x)[0, -1]
        for other, sign in ((item, -1), (negative, 1)):
            total += math.log1p(math.exp(sign * (state @ model.item[other]).item()))
            total += 0.02 * model.item[other].square().sum().item() / 2
        num_read += 1
    assert num_read > 5
    assert model.loss(step).item() == pytest.approx(total)


@pytest.mark.parametrize("name", MODELS)
class TestEvery:
    """What every recommender keeps."""

    def test_parts_of_a_step_make_its_loss_and_its_gradients(self, name: str, data: Interactions) -> None:
        model = made(name, data).double()
        by_user = model.by_user
        whole = model.loss(step_of(data, by_user=by_user))
        of_whole = torch.autograd.grad(whole, list(model.parameters()), allow_unused=True)
        parts = [model.loss(step_of(data, rank=r, world_size=3, by_user=by_user)) for r in range(3)]
        of_parts = torch.autograd.grad(sum(parts), list(model.parameters()), allow_unused=True)  # type: ignore[arg-type]
        torch.testing.assert_close(sum(parts), whole)
        assert any(one is not None and one.any() for one in of_whole)
        for one, other in zip(of_whole, of_parts, strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                torch.testing.assert_close(one, other)

    def test_its_weights_are_a_function_of_the_seed(self, name: str, data: Interactions) -> None:
        one, same, other = (made(name, data, seed=seed).state_dict() for seed in (0, 0, 1))
        assert all(torch.equal(one[key], same[key]) for key in one)
        assert any(not torch.equal(one[key], other[key]) for key in one)

    def test_it_learns_a_planted_taste(self, name: str, data: Interactions) -> None:
        model = made(name, data, replace(CONFIG, penalty=0.0, layers=1))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        loader = TripleLoader(data.train, batch_size=40, seed=0, by_user=model.by_user)
        for epoch in range(20):
            for step in loader.stream(epoch):
                optimizer.zero_grad()
                (model.loss(step) / len(step)).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        model.eval()
        with torch.no_grad():
            users, items = model.vectors()
        scores = users @ items.T
        warm_users, warm_items = data.train.num_by_user > 0, data.train.num_by_item > 0
        same = np.arange(USERS)[:, None] % 2 == np.arange(ITEMS) % 2
        asked = warm_users[:, None] & warm_items & ~dense(data).astype(bool)
        yes, no = (scores.detach().numpy()[asked & which] for which in (same, ~same))
        auc = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
        assert auc > 0.75

    def test_it_never_sees_what_is_held_out(self, name: str, data: Interactions, tmp_path: Path) -> None:
        """Other pairs in validation and test: the same vectors and the same loss, to the bit."""
        rows = pairs_of_tastes()
        moved = [(u, (i * 7 + 3) % ITEMS, t, part) if part else (u, i, t, part) for u, i, t, part in rows]
        train = {(u, i) for u, i, _, part in rows if part == 0}
        kept = {(u, i): (u, i, t, p) for u, i, t, p in moved if p == 0 or (u, i) not in train}
        other = Interactions.of(store_of(tmp_path, list(kept.values())))
        assert set(zip(other.test.users, other.test.items, strict=True)) != set(
            zip(data.test.users, data.test.items, strict=True)
        )
        models = [made(name, one) for one in (data, other)]
        for one, same in zip(models[0].vectors(), models[1].vectors(), strict=True):
            assert torch.equal(one, same)
        losses = [m.loss(step_of(d, by_user=m.by_user)) for m, d in zip(models, (data, other), strict=True)]
        assert torch.equal(*losses)


def test_models_of_modalities_want_some(tmp_path: Path) -> None:
    bare = Interactions.of(store_of(tmp_path, vectors=False))
    assert bare.modalities == ()
    for name in ("shl", "mmgcn"):
        with pytest.raises(TrainerError, match=f"found '{name}', which reads modalities, expected items"):
            made(name, bare)
    for name in ("sage", "acf"):
        assert made(name, bare).vectors()[1].shape == (ITEMS, 8)


def test_modalities_are_those_that_are_named(data: Interactions) -> None:
    one = made("shl", data, replace(CONFIG, modalities=["text"]))
    assert isinstance(one, SHL) and len(one.modalities) == 1
    without = made("shl", data, replace(CONFIG, features=False))
    assert not any("project" in name for name, _ in without.named_parameters())
    with pytest.raises(TrainerError, match=r"modalities: found 'sound', expected those of the items: image,"):
        made("shl", data, replace(CONFIG, modalities=["sound"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"width": 0}, r"recommender\.width: found 0, expected at least 1"),
        ({"lr": 0.0}, r"recommender\.lr: found 0\.0, expected above 0"),
        ({"negatives": "all"}, r"recommender\.negatives: found 'all', expected uniform, degree or earlier"),
        ({"dropout": 1.0}, "recommender.dropout"),
        ({"warmup": 2.0}, "recommender.warmup"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(TrainerError, match=words):
        RecommenderConfig(**changes)  # type: ignore[arg-type]
    for wrong in (
        {"gate": "in"},
        {"users": "x"},
        {"hyperedges": -1},
        {"temperature": 0.0},
        {"fusion": "sum"},
    ):
        with pytest.raises(TrainerError, match=r"recommender\.shl\."):
            ShlConfig(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TrainerError, match=r"recommender\.model: found 'gru', expected one of bpr, lightgcn"):
        model_class("gru")
