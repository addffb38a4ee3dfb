"""LightGCN, trained over the whole graph, and matrix factorisation, which is LightGCN without layers.

He et al., "LightGCN", SIGIR 2020; Rendle et al., "BPR", UAI 2009.

Legend: U users, I items, N = U + I nodes, D width.
"""

from __future__ import annotations

from torch import Tensor

from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import Recommender, bpr, embedding, half_squares, nodes
from netgpt.trainers.recommend.neighbors import smoothed
from netgpt.trainers.recommend.sampled import SampledStep
from netgpt.trainers.recommend.triples import Triples


class LightGCN(Recommender):
    """Users are nodes 0 to U − 1, items those behind them. Activations of a step are of O(nodes)."""

    title, samples = "LightGCN", True

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        self.num_layers = config.layers
        self.embedding = embedding(self.num_users + self.num_items, config.width)

    def smoothed(self) -> Tensor:
        """Embeddings of all nodes: [N, D]."""
        if not self.num_layers:
            return self.embedding
        return smoothed(self.graph(self.embedding.device), self.embedding, self.num_layers)

    def vectors(self) -> tuple[Tensor, Tensor]:
        users, items = self.smoothed().split([self.num_users, self.num_items])
        return users, items

    def loss(self, step: Triples) -> Tensor:
        """As it is by default, from the one table of all nodes."""
        made, triple = self.smoothed(), nodes(self.num_users, *step.own)
        squares = half_squares(*self.penalized(*step.own))
        return bpr(*(made[ids] for ids in triple)) + self.config.penalty * squares

    def penalized(self, users: Tensor, items: Tensor, negatives: Tensor) -> list[Tensor]:
        """Of the embeddings themselves, not of the smoothed ones."""
        return [self.embedding[ids] for ids in nodes(self.num_users, users, items, negatives)]

    def sampled_vectors(self, step: SampledStep) -> tuple[Tensor, Tensor]:
        """The same of a step's nodes by their sampled neighbours: sums of a row are its mean times the node's
        own degree. Right for the step's own ends, and, where all neighbours are sampled, exact."""
        num = self.num_users
        x = (self.embedding[step.nodes[0]], self.embedding[num + step.nodes[1]])
        if not self.num_layers:
            return x
        graph = self.graph(self.embedding.device)
        root = tuple(
            degree[ids].sqrt()[:, None]
            for degree, ids in zip((graph.user_degree, graph.item_degree), step.nodes, strict=True)
        )
        total, power = x, x
        for _ in range(self.num_layers):
            means = step.means((power[0] / root[0], power[1] / root[1]))
            power = (means[0] * root[0], means[1] * root[1])
            total = (total[0] + power[0], total[1] + power[1])
        return total[0] / (self.num_layers + 1), total[1] / (self.num_layers + 1)

    def sampled_loss(self, step: SampledStep) -> Tensor:
        users, items = self.sampled_vectors(step)
        own = self.penalized(
            step.nodes[0][step.users], *(step.nodes[1][at] for at in (step.items, step.negatives))
        )
        total = bpr(users[step.users], items[step.items], items[step.negatives])
        return total + self.config.penalty * half_squares(*own)


class MatrixFactorization(LightGCN):
    title = "BPR-MF"

    def __init__(self, data: Interactions, config: RecommenderConfig) -> None:
        super().__init__(data, config)
        self.num_layers = 0
