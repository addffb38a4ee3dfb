"""LightGCN and BPR-MF: embeddings of users and items, smoothed over the train pairs, and exact training.

E = Σ_k α_k Âᵏ E₀ with Â = D^−½ A D^−½ and α_k = 1 / (layers + 1) (He et al., "LightGCN", SIGIR 2020, eqs. 3
to 8); without layers it is matrix factorisation (Rendle et al., "BPR", UAI 2009). Â is symmetric and nothing
lies between the layers, so the gradient of E₀ is the same smoothing of E's: no activations are kept.

Legend: U users, I items, N = U + I nodes, D width, B pairs of a step.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import block_array, csr_array, diags_array
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from netgpt.graphstore.files import Json
from netgpt.sampler.kernels.generator import row_key
from netgpt.sampler.links import uniform_negatives
from netgpt.trainers.errors import require
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.ranking import ScoresOf, full_ranking
from netgpt.trainers.schedule import seed_torch

PAIRS = ("item", "negatives|pairs-1", "user")
"""Whose draws negatives are."""


class LightGCN(nn.Module):
    """Users are nodes 0 to U − 1, items those behind them."""

    adjacency: Tensor

    def __init__(self, train: Pairs, *, width: int = 64, num_layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        self.num_users, self.num_items, self.num_layers = train.num_users, train.num_items, num_layers
        seed_torch(seed, "lightgcn")
        self.embedding = nn.Parameter(torch.empty(self.num_users + self.num_items, width))
        nn.init.xavier_uniform_(self.embedding)
        self.register_buffer("adjacency", _tensor(normalized(train)), persistent=False)

    def forward(self) -> Tensor:
        """Smoothed embeddings of all nodes: [N, D]."""
        smoothed: Tensor = _Smoothing.apply(self.embedding, self.adjacency, self.num_layers)
        return smoothed

    def loss(self, users: Tensor, items: Tensor, negatives: Tensor, penalty: float) -> Tensor:
        """BPR of triples [B], mean over them, and `penalty` times half the squared norms of their own
        embeddings (not the smoothed ones), divided by B."""
        smoothed = self()
        items, negatives = items + self.num_users, negatives + self.num_users
        user, item, negative = smoothed[users], smoothed[items], smoothed[negatives]
        margin = (user * item).sum(1) - (user * negative).sum(1)
        own = self.embedding[torch.cat([users, items, negatives])]
        return -logsigmoid(margin).mean() + penalty * own.square().sum() / 2 / len(users)

    def scores(self) -> ScoresOf:
        """Inner products of the smoothed embeddings."""
        with torch.no_grad():
            smoothed = self().cpu()
        users, items = smoothed.split([self.num_users, self.num_items])
        return lambda chosen: (users[torch.from_numpy(chosen)] @ items.T).numpy()


class _Smoothing(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x_ND: Tensor, adjacency: Tensor, num_layers: int) -> Tensor:
        context.adjacency, context.num_layers = adjacency, num_layers
        return _smoothed(x_ND, adjacency, num_layers)

    @staticmethod
    def backward(context: Any, gradient_ND: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _smoothed(gradient_ND, context.adjacency, context.num_layers), None, None


def _smoothed(x_ND: Tensor, adjacency: Tensor, num_layers: int) -> Tensor:
    total, power = x_ND.clone(), x_ND
    for _ in range(num_layers):
        power = adjacency @ power
        total += power
    return total / (num_layers + 1)


def normalized(train: Pairs) -> csr_array:
    """D^−½ A D^−½ of users and items: [N, N] float64; nodes without a pair have empty rows."""
    matrix = train.matrix.astype(np.float64)
    both = block_array([[None, matrix], [matrix.T, None]], format="csr")
    scale = 1 / np.sqrt(np.maximum(1, both.sum(axis=1)))
    return csr_array(diags_array(scale) @ both @ diags_array(scale))


def _tensor(matrix: csr_array) -> Tensor:
    indptr, indices = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    data = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():  # that sparse tensors may change
        warnings.simplefilter("ignore", UserWarning)
        return torch.sparse_csr_tensor(indptr, indices, data, size=matrix.shape)


@dataclass(frozen=True, kw_only=True)
class BprConfig:
    epochs: int = 200
    batch_size: int = 2048
    lr: float = 2e-3
    penalty: float = 1e-4
    patience: int = 20
    """Epochs without a better validation NDCG@10 before training stops."""
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "patience"):
            require(getattr(self, name) >= 1, f"recommend.{name}", getattr(self, name), "at least 1")
        require(
            self.lr > 0 and self.penalty >= 0,
            "recommend.lr, penalty",
            (self.lr, self.penalty),
            "above 0, from 0",
        )


def triples(train: Pairs, config: BprConfig, epoch: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Users, items and negatives [B] of an epoch's steps: each train pair once, in an order by (seed, epoch).

    The negative of a pair is a function of (seed, epoch, its number), alike among the items that the user has
    not in train. Pairs of users who have all items are left out.
    """
    key, rows = row_key(config.seed, epoch, PAIRS), (train.indptr, train.items)
    order = np.random.default_rng([config.seed, epoch]).permutation(len(train))
    for first in range(0, len(order), config.batch_size):
        numbers = order[first : first + config.batch_size]
        users = train.users[numbers]
        negatives, found = uniform_negatives(key, numbers, users, rows, train.num_items, 1)
        parts = (users[found], train.items[numbers][found], negatives[found, 0])
        user, item, negative = (torch.from_numpy(part) for part in parts)
        if len(user):
            yield user, item, negative


def train_bpr(model: LightGCN, train: Pairs, val: Pairs, config: BprConfig) -> Json:
    """Train by Adam until validation NDCG@10 (full ranking, train pairs masked) has not been better for
    `patience` epochs; the model keeps its best weights. Returns the best epoch's metrics and the history."""
    require(len(val) > 0, "val", "no pair", "some, to choose an epoch by")
    optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
    device = model.embedding.device
    best, weights, history = -1.0, model.embedding.detach().clone(), []
    for epoch in range(config.epochs):
        total, num = 0.0, 0
        for user, item, negative in triples(train, config, epoch):
            loss = model.loss(user.to(device), item.to(device), negative.to(device), config.penalty)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, num = total + float(loss.detach()) * len(user), num + len(user)
        metrics = full_ranking(model.scores(), val, [train]).metrics(10)
        history.append({"epoch": epoch, "loss": total / max(1, num), **metrics})
        if metrics["ndcg@10"] > best:
            best, weights, best_epoch = metrics["ndcg@10"], model.embedding.detach().clone(), epoch
        elif epoch - best_epoch >= config.patience:
            break
    with torch.no_grad():
        model.embedding.copy_(weights)
    return {"best": history[best_epoch], "history": history}
