"""The input of one node type: features and the map that makes states of them, not multiplied yet.

Between a type's projection and what the first layer does with it there is no activation. So where features
are narrow, or few tails hear of many nodes, their means are taken first, and one product with the two
weights' product makes the rest.

Legend: C rows of a table, N nodes, T tails, E edges, F feature width, D hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from netgpt.trainers.graph.rows import HeadRows, SampledRows

GATHER = 32
"""Multiplications that cost as much as one number that is gathered, on CPUs."""


class LearntTable(nn.Embedding):
    """A vector for each node of a type without features: [n, 1] node numbers → [n, D].

    Nodes that the table does not know, those of rows that came later, have the zero vector.
    """

    def __init__(self, num_nodes: int, width: int) -> None:
        super().__init__(num_nodes, width)
        nn.init.normal_(self.weight, std=width**-0.5)

    def forward(self, ids_N1: Tensor) -> Tensor:
        ids_N = ids_N1[:, 0]
        known_N = ids_N < self.num_embeddings
        h_ND: Tensor = super().forward(torch.where(known_N, ids_N, 0))
        return h_ND * known_N[:, None]


def by_node_where_fewer(x_CF: Tensor, row_N: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The same contents, by node where a table has more rows than there are nodes."""
    return (x_CF[row_N], None) if row_N is not None and len(x_CF) > len(row_N) else (x_CF, row_N)


@dataclass(frozen=True, eq=False)
class Projected:
    """States of nodes before the first layer: project(x[row]); with shares share · x[row] weight + bias."""

    x_CF: Tensor
    """Features, scalars encoded; of a learnt table node numbers, [C, 1]."""
    row_N: Tensor | None
    """Each node's row; None: its number."""
    project: nn.Linear | LearntTable
    share_N: Tensor | None = None
    """Of each node's content what is shown: 0, or what makes up for those that are hidden."""

    @property
    def num_nodes(self) -> int:
        return len(self.x_CF if self.row_N is None else self.row_N)

    @cached_property
    def table(self) -> tuple[Tensor, Tensor | None]:
        """States by content, [C, D], and the row of each node; by node, where nodes hide their content or a
        table has more rows than there are nodes."""
        x, row_N = by_node_where_fewer(self.x_CF, self.row_N)
        if self.share_N is None or isinstance(self.project, LearntTable):
            return self.project(x), row_N
        # A node's whole content or none, not that of all who share it: words must not be learnt by heart
        h_ND = F.linear(x, self.project.weight)
        h_ND = h_ND if row_N is None else F.embedding(row_N, h_ND)
        return h_ND * self.share_N[:, None] + self.project.bias, None

    @property
    def states(self) -> Tensor:
        """[N, D]."""
        return self.first(self.num_nodes)

    def first(self, num: int) -> Tensor:
        """States of the first nodes, [n, D], without those of others where none has asked for them."""
        if "table" not in vars(self) and num < min(self.num_nodes, len(self.x_CF)):
            x = self.x_CF[:num] if self.row_N is None else self.x_CF[self.row_N[:num]]
            share = None if self.share_N is None else self.share_N[:num]
            return Projected(x, None, self.project, share).table[0]
        h, row_N = self.table
        return h[:num] if row_N is None else F.embedding(row_N[:num], h)

    @property
    def affine(self) -> Tensor:
        """The map from features and a one to states: [F + 1, D]."""
        assert isinstance(self.project, nn.Linear)
        return torch.cat([self.project.weight.t(), self.project.bias[None]])

    def mapped(self, affine: Callable[[Tensor], Tensor]) -> Tensor:
        """An affine map's values of all nodes' states, [N, D] → [N, D']: in one product where nodes are more
        than features."""
        plain = isinstance(self.project, nn.Linear) and self.share_N is None and self.row_N is None
        if not plain or self.x_CF.shape[0] <= self.x_CF.shape[1]:
            return affine(self.states)
        made = affine(torch.cat([self.affine, torch.zeros_like(self.affine[:1])]))
        return torch.addmm(made[-2], self.x_CF, made[:-2] - made[-1])

    def means(self, rows: SampledRows, out_TF: Tensor) -> None:
        """Means over heads of features, and of a one: [T, F + 1], zero where there are no heads."""
        rows.input_mean(self.x_CF, self.row_N, self.share_N, out_TF[:, :-1])
        out_TF[:, -1] = rows.counts_T > 0

    def averages_features(self, rows: Iterable[HeadRows], own: int) -> bool:
        """Whether means of features cost less than means of states over these rows: multiplications, there
        and back, and what is gathered. Features have no gradient.

        own: nodes whose states are wanted in any case.
        """
        if isinstance(self.project, LearntTable):
            return False
        width, hidden = self.project.in_features, self.project.out_features
        contents = min(len(self.x_CF), self.num_nodes)
        first, later = 2 * min(own, contents) * width * hidden, 2 * contents * width * hidden
        for one in rows:
            if not isinstance(one, SampledRows):
                return False
            first += 2 * one.num_tails * width * hidden + GATHER * one.num_edges * width
            later += 3 * min(one.num_tails, contents) * hidden**2 + 2 * GATHER * one.num_edges * hidden
        return first < later
