"""One layer of means over the whole graph: relation after relation is added to one array of sums a type.

Relations from types that have states of their own are walked (running sums where rows are prefixes). From
types without heads the states of all distinct contents are made first, or block by block where those are too
many.

Shape suffixes: N nodes of a type, D hidden width.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from time import perf_counter

import numpy as np
import torch
from numba import njit
from torch import Tensor

from netgpt.graphstore import EdgeType
from netgpt.graphstore.schema import edge_name
from netgpt.trainers.graph.aggregate import MeanWalk, walk_order
from netgpt.trainers.graph.encoders import MeanLayer
from netgpt.trainers.graph.exact.workspace import States, Workspace, to_input
from netgpt.trainers.graph.rows import SampledRows
from netgpt.trainers.graph.tables import WholeContents


@njit(cache=True, nogil=True)
def _add_rows(total, tails, block):  # type: ignore[no-untyped-def]
    for i in range(len(tails)):
        row, new = total[tails[i]], block[i]
        for d in range(len(new)):
            row[d] += new[d]


class MeanLayers:
    """Runs layers of means; remembers the orders of walks from layer to layer."""

    def __init__(self, work: Workspace) -> None:
        self.work = work
        self._orders: dict[EdgeType, np.ndarray] = {}

    def run(self, layer: MeanLayer, index: int, states: Mapping[str, States]) -> dict[str, States]:
        """States behind a layer of the types that get some from their heads, by node."""
        degree: dict[str, np.ndarray] = {}
        sent = dict(states)
        if layer.uses_degrees:
            for name, of_type in states.items():
                degree[name], sent[name] = self._sent(layer, name, of_type)
        return {
            name: States(self._of_type(layer, index, name, states[name], sent, degree.get(name)), None)
            for name in self.work.model.parts[index].tail_types
        }

    def _sent(self, layer: MeanLayer, name: str, states: States) -> tuple[np.ndarray, States]:
        """Heads over all relations of each node of a type, [N], and what the nodes send."""
        work, num = self.work, self.work.graph.num_nodes[name]
        relations = (work.graph.relation(e) for e in work.model.shape.ending_in(name))
        degree = np.sum([relation.degree() for relation in relations], axis=0)
        sent = work.array(num)
        for block in work.blocks(num):
            sent[block] = layer.send(name, states.of(block), torch.from_numpy(degree[block])).numpy()
        return degree, States(sent, None)

    def _of_type(
        self,
        layer: MeanLayer,
        index: int,
        name: str,
        own: States,
        sent: Mapping[str, States],
        degree: np.ndarray | None,
    ) -> np.ndarray:
        work, num = self.work, self.work.graph.num_nodes[name]
        total = work.array(num)
        for edge_type in layer.ending_in(name):
            start, source = perf_counter(), edge_type[0]
            if source in sent:
                walk = self._walk(edge_type, sent[source].row)
                self._add(layer, edge_type, walk, sent[source].h, False, total)
            else:
                contents = WholeContents.of(work.tables, source)
                if work.is_small(len(contents.x)):
                    self._add_from_table(layer, index, edge_type, contents, total)
                else:
                    self._add_in_blocks(layer, index, edge_type, contents, total)
            work.count(edge_name(edge_type), start)
        start = perf_counter()
        last = index + 1 == work.model.shape.num_layers
        for block in work.blocks(num):
            degree_B = None if degree is None else torch.from_numpy(degree[block])
            out = layer.finish(name, own.of(block), torch.from_numpy(total[block]), degree_B)
            total[block] = (out if last else work.model.between(out)).numpy()
        work.count("own", start)
        return total

    def _walk(self, edge_type: EdgeType, content: np.ndarray | None) -> MeanWalk:
        relation = self.work.graph.relation(edge_type)
        if edge_type not in self._orders:
            self._orders[edge_type] = walk_order(relation)
        return MeanWalk(relation, content, self.work.threads, self._orders[edge_type])

    def _add(
        self,
        layer: MeanLayer,
        edge_type: EdgeType,
        walk: MeanWalk,
        sent: np.ndarray,
        done: bool,
        total: np.ndarray,
    ) -> None:
        """Add a relation's means of `sent` to `total`; `done`: they are transformed already."""
        work, name = self.work, edge_name(edge_type)
        degree = work.graph.relation(edge_type).degree()
        start = perf_counter()
        for tails, means in walk.blocks(sent, work.block_rows, work.buffer("means", work.block_rows)):
            work.mean_seconds[name] = work.mean_seconds.get(name, 0.0) + perf_counter() - start
            some = degree[tails] > 0
            if 2 * some.sum() < len(tails):  # rows without heads bring nothing, and most are such
                tails, means = tails[some], means[some]
            mean = torch.from_numpy(means)
            if not done:
                mean = layer.transform(edge_type, mean)
            _add_rows(total, tails, layer.weighted(mean, torch.from_numpy(degree[tails])).numpy())
            start = perf_counter()

    def _add_from_table(
        self, layer: MeanLayer, index: int, edge_type: EdgeType, contents: WholeContents, total: np.ndarray
    ) -> None:
        """From another type whose states by content are held at once."""
        source, model = edge_type[0], self.work.model
        # The smaller side is multiplied; features both at once
        at_once = index == 0 and layer.averages_features
        first = at_once or len(contents.x) < self.work.graph.num_nodes[edge_type[2]]

        def sending(x: Tensor) -> Tensor:
            if at_once:
                return model.projected(source, x).mapped(partial(layer.transform, edge_type))
            sent = layer.send(source, model.source(source, x, index), None)
            return layer.transform(edge_type, sent) if first else sent

        table = self.work.buffer("table", len(contents.x))
        sent = self.work.source_table(contents, sending, table)
        self._add(layer, edge_type, self._walk(edge_type, contents.row), sent, first, total)

    def _add_in_blocks(
        self, layer: MeanLayer, index: int, edge_type: EdgeType, contents: WholeContents, total: np.ndarray
    ) -> None:
        """From another type, block by block: each distinct content of a block's heads is computed once."""
        work = self.work
        relation = work.graph.relation(edge_type)
        degree = relation.degree()
        for block in work.edge_blocks(degree, work.block_rows, work.block_rows):
            tails = np.flatnonzero(degree[block]) + block.start
            heads = relation.heads_of(block.start, block.stop)
            rows, where = np.unique(
                heads if contents.row is None else contents.row[heads], return_inverse=True
            )
            x = to_input(contents.x[rows])
            sent = layer.send(edge_type[0], work.model.source(edge_type[0], x, index), None)
            counts = torch.from_numpy(degree[tails])
            means = SampledRows(torch.from_numpy(where), counts).mean(sent)
            _add_rows(total, tails, layer.weighted(layer.transform(edge_type, means), counts).numpy())
