"""The contract of a recommender: vectors of users and items, whose inner product is the score.

Legend: U users, I items, D width, B pairs of a step, b of this rank.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.neighbors import Bipartite
from netgpt.trainers.recommend.pairs import Pairs
from netgpt.trainers.recommend.sampled import SampledStep
from netgpt.trainers.recommend.triples import Triples


class Recommender(nn.Module):
    """Made on the CPU, with weights that torch's generator makes. Of the data it may read `train`, `history`
    and what items have, and nothing that is held out."""

    title: ClassVar[str]
    """For people."""
    by_user: ClassVar[bool] = False
    """Whether a step should be of whole users."""
    samples: ClassVar[bool] = False
    """Whether it has a loss of sampled steps."""
    wants_modalities: ClassVar[bool] = False
    """Whether it can do nothing without features of the items."""

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__()
        self.num_users, self.num_items, self.config = data.train.num_users, data.train.num_items, config
        self._train: Pairs = data.train
        self._graph: Bipartite | None = None

    def graph(self, device: torch.device) -> Bipartite:
        """The pairs of train as rows of both ends."""
        if self._graph is None or self._graph.device != device:
            self._graph = Bipartite(self._train, device)
        return self._graph

    def vectors(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [U, D] and items [I, D]."""
        raise NotImplementedError

    def loss(self, step: Triples) -> Tensor:
        """Summed over this rank's pairs; divided by those of all ranks it is the step's mean. By default BPR
        of the vectors, and the penalty of `penalized`."""
        user, item, negative = step.own
        users, items = self.vectors()
        squares = half_squares(*self.penalized(user, item, negative))
        return bpr(users[user], items[item], items[negative]) + self.config.penalty * squares

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        """Rows of learnt tables that triples [b] have a part in, [b, D] each: what is kept small."""
        raise NotImplementedError

    def sampled_loss(self, step: SampledStep) -> Tensor:
        """The same of a step with a sample of the graph. TrainerError of models that want all of it."""
        raise TrainerError(
            f"recommender.neighbors: found 'sampled', expected all for {self.config.model}, whose steps are "
            "over the whole graph"
        )


def bpr(user_bD: Tensor, item_bD: Tensor, negative_bD: Tensor) -> Tensor:
    """−ln σ(user·item − user·negative), summed (Rendle et al., "BPR", UAI 2009)."""
    return -logsigmoid((user_bD * (item_bD - negative_bD)).sum(1)).sum()


def half_squares(*rows: Tensor) -> Tensor:
    """Half the squared norms of some rows, summed."""
    return torch.stack([one.square().sum() for one in rows]).sum() / 2


def embedding(num: int, width: int) -> nn.Parameter:
    """A table [num, width] by Xavier's uniform rule: within ± √(6 / (num + width))."""
    made = torch.empty(num, width)
    nn.init.xavier_uniform_(made)
    return nn.Parameter(made)


def nodes(num_users: int, users: Tensor, *items: Tensor) -> list[Tensor]:
    """Numbers in a table that has users first, and items behind them."""
    return [users, *(num_users + one for one in items)]


class ItemInputs(nn.Module):
    """What a model has of the items: some modalities side by side, projected; or a learnt table."""

    def __init__(self, data: Interactions, names: tuple[str, ...], config: RecommenderConfig) -> None:
        """names: the modalities; none, or settings without features: a table."""
        super().__init__()
        self.table: nn.Parameter | None = None
        if config.features and names:
            x = np.concatenate([data.standardized(name) for name in names], axis=1)
            self.register_buffer("features", torch.from_numpy(x), persistent=False)
            self.project = nn.Linear(x.shape[1], config.width)
        else:
            self.table = embedding(data.train.num_items, config.width)

    def forward(self) -> Tensor:
        """[I, D]"""
        made: Tensor = self.project(self.features) if self.table is None else self.table
        return made

    def own(self, *ids: Tensor) -> list[Tensor]:
        """Rows of the table, for a penalty; none without one."""
        return [] if self.table is None else [self.table[one] for one in ids]


def chosen_modalities(data: Interactions, config: RecommenderConfig) -> tuple[str, ...]:
    """Those that the settings name, by default all. TrainerError for others, and where there are none."""
    for name in config.modalities:
        known = ", ".join(data.modalities) or "none"
        require(name in data.modalities, "recommender.modalities", name, f"those of the items: {known}")
    if not data.modalities:
        raise TrainerError(
            f"recommender.model: found {config.model!r}, which reads modalities, expected items with texts "
            "or vectors"
        )
    return tuple(name for name in data.modalities if not config.modalities or name in config.modalities)
