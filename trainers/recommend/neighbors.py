"""Sums over the neighbours of users and items, both ways, with their gradients.

On CPUs each row is summed in its order by one thread, so that nothing depends on their number; on GPUs
torch's sparse product does it.

Legend: U users, I items, E pairs, D width.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from netgpt.trainers.recommend.attention import Sides
from netgpt.trainers.recommend.pairs import Pairs


class Bipartite:
    """The train pairs as rows of both ends."""

    def __init__(self, train: Pairs, device: torch.device | None = None) -> None:
        self.num_users, self.num_items = train.num_users, train.num_items
        kind = np.int32 if max(self.num_users, self.num_items) < 2**31 else np.int64
        self.of_users = (train.indptr, train.items.astype(kind))
        """Items of each user: indptr [U + 1] and [E]."""
        begins = np.concatenate([[0], np.cumsum(train.num_by_item)]).astype(np.int64)
        of_items = np.empty(len(train), kind)
        _turn(train.indptr, train.items, begins[:-1].copy(), of_items)
        self.of_items = (begins, of_items)
        """Users of each item."""
        self.device = device or torch.device("cpu")
        self.user_degree, self.item_degree = (
            torch.from_numpy(np.maximum(1, num)).float().to(self.device)
            for num in (train.num_by_user, train.num_by_item)
        )
        """[U] and [I], at least 1."""
        self.scale = torch.cat([self.user_degree, self.item_degree]).rsqrt()[:, None]
        """D^−½ of users, then items: [N, 1]."""
        self.sides = Sides(self.of_users, self.of_items), Sides(self.of_items, self.of_users)
        """For attention of users over items, and of items over users."""
        self._sparse: dict[bool, Tensor] = {}

    def to_users(self, x_ID: Tensor) -> Tensor:
        """Sums of the items' rows: [I, D] → [U, D]."""
        made: Tensor = _Sum.apply(x_ID, self, True)
        return made

    def to_items(self, x_UD: Tensor) -> Tensor:
        """Sums of the users' rows: [U, D] → [I, D]."""
        made: Tensor = _Sum.apply(x_UD, self, False)
        return made

    def user_means(self, x_ID: Tensor) -> Tensor:
        """Means of the items' rows: [I, D] → [U, D]; zero of users without an item."""
        return self.to_users(x_ID) / self.user_degree[:, None]

    def item_means(self, x_UD: Tensor) -> Tensor:
        """Means of the users' rows: [U, D] → [I, D]."""
        return self.to_items(x_UD) / self.item_degree[:, None]

    def summed(self, x: Tensor, to_users: bool) -> Tensor:
        """The same without a gradient."""
        if x.device.type != "cpu":
            return self._matrix(to_users) @ x
        indptr, heads = self.of_users if to_users else self.of_items
        out = torch.empty(len(indptr) - 1, x.shape[1], dtype=x.dtype)
        _sum_rows(indptr, heads, x.detach().contiguous().numpy(), out.numpy())
        return out

    def _matrix(self, to_users: bool) -> Tensor:
        if to_users not in self._sparse:
            indptr, heads = self.of_users if to_users else self.of_items
            crow, column = (
                torch.from_numpy(part).to(self.device) for part in (indptr, heads.astype(np.int64))
            )
            size = (len(indptr) - 1, self.num_items if to_users else self.num_users)
            with warnings.catch_warnings():  # that sparse tensors may change
                warnings.simplefilter("ignore", UserWarning)
                ones = torch.ones(len(heads), device=self.device)
                self._sparse[to_users] = torch.sparse_csr_tensor(crow, column, ones, size=size)
        return self._sparse[to_users]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor, graph: Bipartite, to_users: bool) -> Tensor:
        context.graph, context.to_users = graph, to_users
        return graph.summed(x, to_users)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return context.graph.summed(gradient, not context.to_users), None, None


@njit(cache=True)
def _turn(indptr, items, cursor, out):  # type: ignore[no-untyped-def]
    """Users of each item, ascending, from the items of each user; cursor [I]: where each item's begin."""
    for user in range(len(indptr) - 1):
        for i in range(indptr[user], indptr[user + 1]):
            out[cursor[items[i]]] = user
            cursor[items[i]] += 1


@njit(cache=True, parallel=True)
def _sum_rows(indptr, heads, x, out):  # type: ignore[no-untyped-def]
    for v in prange(len(out)):
        total = out[v]
        total[:] = 0
        for i in range(indptr[v], indptr[v + 1]):
            head = x[heads[i]]
            for d in range(len(total)):
                total[d] += head[d]


def smoothed(graph: Bipartite, x_ND: Tensor, num_layers: int) -> Tensor:
    """Σ_k Âᵏ x / (layers + 1) with Â = D^−½ A D^−½, users before items: [N, D] → [N, D].

    Â is symmetric and nothing lies between the layers, so the gradient is the same smoothing of the
    gradient, and no activations are kept (He et al., "LightGCN", SIGIR 2020, eqs. 3 to 8).
    """
    made: Tensor = _Smoothing.apply(x_ND, graph, num_layers)
    return made


class _Smoothing(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x_ND: Tensor, graph: Bipartite, num_layers: int) -> Tensor:
        context.graph, context.num_layers = graph, num_layers
        return _smooth(graph, x_ND, num_layers)

    @staticmethod
    def backward(context: Any, gradient_ND: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return _smooth(context.graph, gradient_ND, context.num_layers), None, None


def _smooth(graph: Bipartite, x_ND: Tensor, num_layers: int) -> Tensor:
    total, power, num = x_ND.clone(), x_ND, graph.num_users
    for _ in range(num_layers):
        scaled = power * graph.scale
        power = torch.cat([graph.summed(scaled[num:], True), graph.summed(scaled[:num], False)])
        power *= graph.scale
        total += power
    return total.div_(num_layers + 1)
