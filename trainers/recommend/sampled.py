"""Steps over mini-batches of sampled neighbours, for graphs too large to be walked whole in each step.

A step's users, items and negatives are the seeds of a sample of as many hops as the model has layers. Its
own pairs are taken out of the sample, so a model is not told what it is asked.

Legend: B pairs of a step, n nodes of a batch, T tails that have a row, E sampled edges, D width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from netgpt.sampler import LinkLoader, SamplingOptions
from netgpt.sampler.links import LinkBatch
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.triples import has_negatives

if TYPE_CHECKING:
    from netgpt.sampler import SamplingEngine


def sampling_options(data: Interactions, config: RecommenderConfig, seed: int) -> SamplingOptions:
    """What is sampled around the ends of pairs: of the two relations between users and items alone."""
    wanted = (data.edge_type, data.reverse)
    others = [e for e in data.store.edge_types if e not in wanted]
    return SamplingOptions(
        fanout=config.fanout, hops=max(1, config.layers), exclude=sorted(others), seed=seed
    )


@dataclass(frozen=True)
class SampledStep:
    """A step as this rank sees it: tensors of its pairs and of the graph around them.

    Of both ends `nodes` are node numbers in the whole graph; pairs are places in them. rows: by the end that
    has them, 0 of users and 1 of items, the other end's places and where each tail's begin.
    """

    nodes: tuple[Tensor, Tensor]
    """Users and items [n] int64."""
    rows: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]
    """Of users and of items: [E] places of heads among the other end's nodes, and [T] begins."""
    users: Tensor
    """[B] int64 places; so are items and negatives."""
    items: Tensor
    negatives: Tensor
    num_all: int
    """Pairs of the step over all ranks, those without a negative too."""

    def __len__(self) -> int:
        return self.num_all

    def means(self, x: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Means over the sampled neighbours of users and items, zero where a node has no row: [n, D] each."""
        made = []
        for part in range(2):
            heads, begins = self.rows[part]
            rows = embedding_bag(heads, x[1 - part], begins, mode="mean")
            rest = len(self.nodes[part]) - len(begins)
            made.append(torch.cat([rows, rows.new_zeros(rest, rows.shape[1])]))
        return made[0], made[1]


class SampledLoader:
    """The steps of an epoch, as `TripleLoader` has them, each with a sample around it."""

    def __init__(
        self,
        data: Interactions,
        config: RecommenderConfig,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        engine: SamplingEngine | None = None,
    ) -> None:
        self.data, self.device = data, device or torch.device("cpu")
        self.loader = LinkLoader(
            data.store,
            data.reverse,
            negatives=1,
            draw=config.negatives,  # type: ignore[arg-type]  # checked by the settings
            reverse=data.edge_type,
            batch_size=config.batch_size,
            rank=rank,
            world_size=world_size,
            engine=engine,
            **vars(sampling_options(data, config, seed)),
        )
        if config.negatives == "earlier":
            _, found = self.loader.pairs.negatives(self.loader.pairs.edges, 1, 0)  # in all epochs alike
            self.num_skipped = int((~found).sum())
        else:
            by_user = data.train.num_by_user
            self.num_skipped = int(by_user[~has_negatives(data.train, config.negatives)].sum())
        """Pairs without a negative, of users who have all items that are drawn."""

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def num_usable(self) -> int:
        return len(self.data.train) - self.num_skipped

    def stream(self, epoch: int, first: int = 0) -> Iterator[SampledStep]:
        self.loader.load_state_dict({"epoch": epoch, "next_batch": first})
        for number, batch in enumerate(self.loader, start=first):
            yield self._step(batch, len(self.loader.global_seeds(epoch, number)))

    def _step(self, batch: LinkBatch, num_all: int) -> SampledStep:
        user, _, item = self.data.edge_type
        graph = batch.graph
        nodes = tuple(self._tensor(graph.nodes[name]) for name in (user, item))
        rows = []
        for relation in (self.data.reverse, self.data.edge_type):  # rows of users, and of items
            degrees = graph.degrees[relation].astype(np.int64)
            begins = np.concatenate([[0], np.cumsum(degrees)[:-1]]) if len(degrees) else degrees
            rows.append((self._tensor(graph.heads[relation]), self._tensor(begins)))
        ends = (self._tensor(one) for one in (batch.tail, batch.head, batch.negative[:, 0]))
        users, items, negatives = ends
        return SampledStep((nodes[0], nodes[1]), (rows[0], rows[1]), users, items, negatives, max(1, num_all))

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.asarray(values, np.int64)).to(self.device)
