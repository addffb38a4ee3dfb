"""SHL against loops over nodes and pairs, in all of its forms."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from netgpt.trainers.recommend.attention import by_pairs
from netgpt.trainers.recommend.config import ShlConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.shl import SHL, Modality, contrast
from tests.recommend import CONFIG, ITEMS, USERS, made, step_of

SHL_PLAIN = ShlConfig(hyperedges=6, dropout=0.0)


def test_shl_by_torchs_operations_is_the_same(data: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it runs on GPUs: attention by pairs."""
    model, step = made("shl", data).double(), step_of(data)
    losses = [model.loss(step)]
    monkeypatch.setattr("netgpt.trainers.recommend.models.shl.gated_attention", by_pairs)
    losses.append(model.loss(step))
    torch.testing.assert_close(*losses)
    for one, other in zip(*(torch.autograd.grad(x, list(model.parameters())) for x in losses), strict=True):
        torch.testing.assert_close(one, other)


GATES = ("outside", "inside", "none")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *({"gate": gate, "attention": attends} for gate in GATES for attends in (True, False)),
        {"users": "own"},
        {"inputs": "mean"},
        {"scale": "unit"},
        {"scale": "unit", "inputs": "mean"},
        {"fusion": "softmax"},
        {"residual": "outer"},
        {"hyperedges": 0},
    ],
)
def test_shl_is_its_equations(data: Interactions, changes: dict[str, object]) -> None:
    """Eqs. 1 to 8 node by node and pair by pair."""
    shl = replace(SHL_PLAIN, **changes)  # type: ignore[arg-type]
    model = made("shl", data, replace(CONFIG, layers=1, shl=shl)).double()
    assert isinstance(model, SHL)
    train, e = data.train, model.embedding
    items_of = [train.of_user(u).tolist() for u in range(USERS)]
    users_of = [[u for u in range(USERS) if i in items_of[u]] for i in range(ITEMS)]
    by_modality: list[tuple[list[Tensor], list[Tensor]]] = []
    for name, one in zip(data.modalities, model.modalities, strict=True):
        assert isinstance(one, Modality)
        x_I = one.item.project(torch.from_numpy(data.standardized(name)).double())
        if shl.scale == "unit":
            x_I = normalize(torch.tanh(x_I))
        of_mean = [x_I[own].mean(0) if own else torch.zeros(8).double() for own in items_of]
        x = [torch.stack(of_mean) if one.user is None else one.user, x_I]
        x[0] = normalize(x[0]) if shl.scale == "unit" else x[0]
        w = {key: layer.weight for key, layer in one.layers[0].weights.items()}  # type: ignore[union-attr,operator]
        local: list[list[Tensor]] = [[], []]
        for part, near_of in ((0, items_of), (1, users_of)):
            for h, near in enumerate(near_of):
                own, total = x[part][h], torch.zeros(8, dtype=torch.float64)
                scores, gates = [], []
                for t in near:
                    degree = len(users_of[t]) if part == 0 else len(items_of[t])
                    other = x[1 - part][t]
                    gates.append(torch.sigmoid(own @ other / math.sqrt(degree)))
                    score = (w["head"] @ own) @ torch.tanh(w["tail"] @ other)
                    scores.append(score if shl.attention else score * 0)
                if near:
                    logits = torch.stack(scores)
                    if shl.gate == "inside":
                        logits = logits * torch.stack(gates)
                    share = torch.softmax(logits, 0)
                    for t, a, g in zip(near, share, gates, strict=True):
                        opened = g if shl.gate == "outside" else 1.0
                        total = total + a * opened * (w["message"] @ x[1 - part][t])
                n = leaky_relu(total)
                own_id = e[h if part == 0 else USERS + h]
                if shl.residual == "inner":
                    residual = leaky_relu(w["residual"] @ own) + own_id
                else:
                    residual = leaky_relu(w["residual"] @ own + own_id)
                local[part].append(leaky_relu(w["out"] @ n) + residual)
        wide = [torch.zeros(USERS, 8).double(), torch.zeros(ITEMS, 8).double()]
        if shl.hyperedges:
            edges_I = torch.softmax(x_I @ one.edges, dim=1)
            if shl.users == "own":
                assert one.user_edges is not None
                edges_U = torch.softmax(x[0] @ one.user_edges, dim=1)
            else:
                edges_U = torch.stack(
                    [edges_I[own].mean(0) if own else torch.zeros(6).double() for own in items_of]
                )
            states = torch.stack(
                [(edges_I[:, k : k + 1] * x_I).sum(0) / edges_I[:, k].sum() for k in range(6)]
            )
            wide = [edges_U @ states, edges_I @ states]
        by_modality.append(
            tuple(
                [leaky_relu(a + b) for a, b in zip(local[part], wide[part], strict=True)] for part in (0, 1)
            )  # type: ignore[arg-type]
        )
    expected = []
    for part in (0, 1):
        for rows in zip(*(one[part] for one in by_modality), strict=True):
            if shl.fusion == "gated":
                z = torch.cat(rows)
                assert model.gate is not None
                expected.append(torch.sigmoid(model.gate.weight @ z + model.gate.bias) * z)
            else:
                assert model.mixer is not None
                weights = torch.softmax(torch.stack([model.mixer(row)[0] for row in rows]), 0)
                expected.append(sum(weight * row for weight, row in zip(weights, rows, strict=True)))
    found = torch.cat(model.vectors())
    torch.testing.assert_close(found, torch.stack(expected))
    of_users, of_items = model.vectors()
    step = step_of(data)
    margin = (of_users[step.users] * (of_items[step.items] - of_items[step.negatives])).sum(1)
    loss = -torch.log(torch.sigmoid(margin)).sum()
    tables = [e[step.users], e[USERS + step.items], e[USERS + step.negatives]]
    tables += [one.user[step.users] for one in model.modalities if one.user is not None]  # type: ignore[index]
    loss = loss + 0.02 * sum(table.square().sum() for table in tables) / 2
    if not shl.hyperedges:
        torch.testing.assert_close(model.loss(step), loss)
    else:
        without = made("shl", data, replace(CONFIG, layers=1, shl=replace(shl, contrast=0.0))).double()
        torch.testing.assert_close(without.loss(step), loss)
        terms = []
        for local, wide in model._states(torch.unique(step.users), torch.unique(step.items)):
            terms += [contrast(a, b, shl.temperature, (0.0, 1.0)) for a, b in zip(local, wide, strict=True)]
        assert len(terms) == 4
        torch.testing.assert_close(model.loss(step), loss + shl.contrast * len(step) * sum(terms))


@pytest.mark.parametrize("combine", ["last", "mean"])
def test_layers_of_shl_read_each_other(data: Interactions, combine: str) -> None:
    """Of some users and items, each layer over all nodes by itself."""
    config = replace(CONFIG, layers=3, shl=replace(SHL_PLAIN, combine=combine))
    model = made("shl", data, config).double()
    assert isinstance(model, SHL)
    graph, everyone = model.graph(torch.device("cpu")), (torch.arange(USERS), torch.arange(ITEMS))
    users, items = torch.tensor([4, 9, 0]), torch.tensor([7, 1])
    for one in model.modalities:
        assert isinstance(one, Modality)
        x, states = torch.cat(one.inputs(graph)), []
        for layer in one.layers:
            of_users, of_items = layer(graph, x, model.embedding, everyone, config.shl)
            x = torch.cat([of_users, of_items])
            states.append((of_users[users], of_items[items]))
        (local, _) = one(graph, model.embedding, users, items)
        for part in (0, 1):
            every = torch.stack([state[part] for state in states])
            expected = every.mean(0) if combine == "mean" else every[-1]
            torch.testing.assert_close(local[part], expected)
        assert not torch.allclose(states[0][0], states[-1][0])


def test_the_contrast_is_a_cross_entropy_of_cosines() -> None:
    rng = np.random.default_rng(0)
    local, wide = (torch.from_numpy(rng.normal(size=(9, 4))).requires_grad_() for _ in range(2))
    total = 0.0
    for n in range(9):
        scores = [(local[n] @ wide[k] / local[n].norm() / wide[k].norm()).item() / 0.2 for k in range(9)]
        total += -scores[n] + math.log(sum(map(math.exp, scores)))
    found = contrast(local, wide, 0.2, (0.0, 1.0))
    assert float(found.detach()) == pytest.approx(total / 9)
    found.backward()
    assert local.grad is None and wide.grad is not None and wide.grad.any()
    shares = [contrast(local, wide, 0.2, share) for share in ((0.0, 0.4), (0.4, 0.75), (0.75, 1.0))]
    assert float(sum(shares).detach()) == pytest.approx(total / 9)  # type: ignore[union-attr]
