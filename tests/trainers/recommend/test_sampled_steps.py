"""Steps over sampled neighbours: exact where all are sampled, and not told what they are asked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.lightgcn import LightGCN
from netgpt.trainers.recommend.sampled import SampledLoader
from netgpt.trainers.recommend.triples import Triples
from tests.recommend import CONFIG, made


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_of_all_neighbours_sampled_steps_are_exact(data: Interactions, num_layers: int) -> None:
    """With a fanout of −1, and the step's own pairs left in: vectors, loss, gradient of the whole graph."""
    config = replace(CONFIG, layers=num_layers, neighbors="sampled", fanout=-1, batch_size=40)
    model = made("lightgcn", data, config).double()
    assert isinstance(model, LightGCN)
    loader = SampledLoader(data, config, 1)
    loader.loader.excluded = ()
    steps = list(loader.stream(0))
    assert len(steps) == len(loader) and sum(len(step) for step in steps) == len(data.train)
    exact = model.vectors()
    seen = set()
    for step in steps:
        ends = (step.users, torch.cat([step.items, step.negatives]))
        for part, own in enumerate(model.sampled_vectors(step)):
            places = torch.unique(ends[part])
            torch.testing.assert_close(
                own[places], exact[part][step.nodes[part][places]], atol=1e-6, rtol=1e-6
            )
        users, items, negatives = (
            step.nodes[part][places].tolist()
            for part, places in ((0, step.users), (1, step.items), (1, step.negatives))
        )
        known = set(zip(data.train.users.tolist(), data.train.items.tolist(), strict=True))
        assert (
            set(zip(users, items, strict=True)) <= known
            and not set(zip(users, negatives, strict=True)) & known
        )
        seen |= set(zip(users, items, strict=True))
        whole = Triples(*map(torch.tensor, (users, items, negatives)), torch.zeros(1), slice(None))  # type: ignore[arg-type]
        torch.testing.assert_close(model.sampled_loss(step), model.loss(whole))
        one, other = (
            torch.autograd.grad(loss, [model.embedding])[0]
            for loss in (model.sampled_loss(step), model.loss(whole))
        )
        torch.testing.assert_close(one, other)
    assert seen == known


def test_a_sampled_step_is_not_told_its_own_pairs(data: Interactions) -> None:
    config = replace(CONFIG, layers=1, neighbors="sampled", fanout=-1, batch_size=40)
    for step in SampledLoader(data, config, 1).stream(0):
        asked = set(zip(step.users.tolist(), step.items.tolist(), strict=True))
        heads, begins = step.rows[0]
        ends = [*begins.tolist()[1:], len(heads)]
        rows = {
            (user, item)
            for user, (first, last) in enumerate(zip(begins.tolist(), ends, strict=True))
            for item in heads[first:last].tolist()
        }
        assert rows and not rows & asked


def test_models_of_the_whole_graph_take_no_sample(data: Interactions) -> None:
    config = replace(CONFIG, neighbors="sampled", batch_size=40)
    step = next(iter(SampledLoader(data, config, 1).stream(0)))
    with pytest.raises(TrainerError, match=r"recommender\.neighbors: found 'sampled', expected all for shl"):
        made("shl", data, config).sampled_loss(step)
