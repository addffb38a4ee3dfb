"""LightGCN against PyG's, matrix factorisation without layers, and training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_geometric.nn.models import LightGCN as PygLightGCN

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.lightgcn import BprConfig, LightGCN, train_bpr, triples
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.ranking import full_ranking

NUM_USERS, NUM_ITEMS = 30, 40


def made(seed: int, share: float = 0.15) -> Pairs:
    """Random pairs; the last user and the last item have none."""
    rng = np.random.default_rng(seed)
    users, items = np.nonzero(rng.random((NUM_USERS - 1, NUM_ITEMS - 1)) < share)
    return Pairs.of(users, items, NUM_USERS, NUM_ITEMS)


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_embeddings_loss_and_gradients_are_pygs(num_layers: int) -> None:
    train = made(0)
    model = LightGCN(train, width=8, num_layers=num_layers, seed=1)
    theirs = PygLightGCN(NUM_USERS + NUM_ITEMS, 8, num_layers)
    with torch.no_grad():
        theirs.embedding.weight.copy_(model.embedding)
    one_way = torch.from_numpy(np.stack([train.users, train.items + NUM_USERS]))
    index = torch.cat([one_way, one_way.flip(0)], dim=1)
    expected = theirs.get_embedding(index)
    torch.testing.assert_close(model(), expected, rtol=1e-5, atol=1e-6)
    (triple, *_) = triples(train, BprConfig(batch_size=50), 0)
    user, item, negative = triple
    loss = model.loss(user, item, negative, 0.02)
    ends = torch.cat([user, item + NUM_USERS, negative + NUM_USERS])
    ranks = [(expected[user] * expected[other + NUM_USERS]).sum(1) for other in (item, negative)]
    of_theirs = theirs.recommendation_loss(*ranks, node_id=ends, lambda_reg=0.01)
    torch.testing.assert_close(loss, of_theirs, rtol=1e-5, atol=1e-6)
    loss.backward()
    of_theirs.backward()
    assert model.embedding.grad is not None and model.embedding.grad.any()
    torch.testing.assert_close(model.embedding.grad, theirs.embedding.weight.grad, rtol=1e-4, atol=1e-7)
    scores = model.scores()(np.array([3, 0]))
    np.testing.assert_allclose(
        scores, (model()[[3, 0]] @ model()[NUM_USERS:].T).detach(), rtol=1e-5, atol=1e-6
    )


def test_each_pair_comes_once_with_a_negative_of_its_own() -> None:
    train = made(1)
    known = set(zip(train.users.tolist(), train.items.tolist(), strict=True))

    def epoch(number: int, batch_size: int) -> dict[tuple[int, int], int]:
        parts = list(triples(train, BprConfig(batch_size=batch_size), number))
        assert [len(user) for user, *_ in parts[:-1]] == [batch_size] * (len(parts) - 1)
        columns = [torch.cat(column).tolist() for column in zip(*parts, strict=True)]
        return {(user, item): negative for user, item, negative in zip(*columns, strict=True)}

    found = epoch(0, 16)
    assert set(found) == known and not {(user, n) for (user, _), n in found.items()} & known
    assert epoch(0, 50) == found != epoch(1, 16)
    full = Pairs.of(np.repeat([0, 1], [NUM_ITEMS, 1]), np.append(np.arange(NUM_ITEMS), 5), 2, NUM_ITEMS)
    ((user, item, _),) = triples(full, BprConfig(), 0)
    assert (user.tolist(), item.tolist()) == ([1], [5])  # user 0 has all items


def test_training_finds_groups_of_taste_and_keeps_its_best_epoch() -> None:
    """Users of two kinds have items of their kind alone: what is left out is ranked first."""
    rng = np.random.default_rng(0)
    users, items = (
        grid.ravel() for grid in np.meshgrid(np.arange(NUM_USERS), np.arange(NUM_ITEMS), indexing="ij")
    )
    same = users % 2 == items % 2
    users, items = users[same], items[same]
    part = rng.choice(3, len(users), p=[0.6, 0.2, 0.2])
    train, val, test = (
        Pairs.of(users[part == one], items[part == one], NUM_USERS, NUM_ITEMS) for one in range(3)
    )
    config = BprConfig(epochs=60, batch_size=64, lr=0.02, patience=5)
    runs = []
    for _ in range(2):
        model = LightGCN(train, width=8, num_layers=2)
        runs.append((train_bpr(model, train, val, config), model.embedding.detach().clone()))
    (metrics, weights), (again, same_weights) = runs
    assert metrics == again and torch.equal(weights, same_weights)
    history = metrics["history"]
    best = max(range(len(history)), key=lambda i: history[i]["ndcg@10"])
    assert metrics["best"] == history[best] and len(history) in (60, best + 1 + 5)
    kept = full_ranking(model.scores(), val, [train]).metrics(10)
    assert kept == {name: value for name, value in metrics["best"].items() if name not in ("epoch", "loss")}
    assert full_ranking(model.scores(), test, [train, val]).metrics(10)["recall@10"] > 0.9


def test_settings_that_cannot_be_meant_are_refused() -> None:
    train = made(0)
    with pytest.raises(TrainerError, match="val: found 'no pair', expected some, to choose an epoch by"):
        train_bpr(
            LightGCN(train),
            train,
            Pairs.of(train.users[:0], train.items[:0], NUM_USERS, NUM_ITEMS),
            BprConfig(),
        )
    for changes, words in (({"epochs": 0}, "recommend.epochs"), ({"lr": 0.0}, "recommend.lr, penalty")):
        with pytest.raises(TrainerError, match=words):
            BprConfig(**changes)  # type: ignore[arg-type]
