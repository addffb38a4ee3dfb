"""Exact full-neighbour inference, layer by layer, within a memory budget.

States of the target and of the layer under way are two arrays, in memory where the budget allows it and
else in mapped files; everything else is made in blocks. Nodes of other types have no heads: their
states follow from their features alone, so they are made once for each distinct content.

Shape suffixes: N target nodes, B nodes of a block, D hidden width, K parts, H attention heads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numba import njit
from torch import Tensor

from graphstore import EdgeType
from graphstore.schema import edge_name
from trainers.graph.aggregate import MeanWalk, walk_order
from trainers.graph.encoders import AttentionLayer, MeanLayer
from trainers.graph.model import GraphModel, WholeGraph
from trainers.graph.rows import Rows, SampledRows
from trainers.graph.tables import FeatureTables, WholeContents

DEFAULT_MEMORY = 8 * 10**9
MAX_BLOCK_ROWS, MIN_BLOCK_ROWS = 16_384, 256
BLOCK_EDGES = 1 << 22
"""Edges of a block of attention: some 100 bytes each are held."""
Progress = Callable[[int, int], None]


@njit(cache=True, nogil=True)
def _add_rows(total, tails, block):  # type: ignore[no-untyped-def]
    for i in range(len(tails)):
        row, new = total[tails[i]], block[i]
        for d in range(len(new)):
            row[d] += new[d]


def _float(x: np.ndarray) -> Tensor:
    """A copy in float32: torch is faster at it than numpy, and does not take read-only maps."""
    return torch.from_numpy(np.array(x)).float()


class ExactInference:
    """Embeddings of all target nodes over all their neighbours.

    memory_bytes bounds what is held at once, without Python, its packages and the mapped store; half of
    it is for states, the rest for tables of contents and blocks.
    """

    def __init__(
        self,
        model: GraphModel,
        tables: FeatureTables,
        scratch: Path,
        *,
        memory_bytes: int = DEFAULT_MEMORY,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.tables, self.graph, self.scratch = model, tables, tables.graph, scratch
        self.memory_bytes, self.progress = memory_bytes, progress
        self.num, self.width = self.graph.num_nodes[model.target], model.shape.hidden
        self.threads = torch.get_num_threads()
        # A block is there a few times over: features, states, means, products
        rows = memory_bytes // (32 * 4 * max(self.width, *model.shape.feature_dims.values()))
        self.block_rows = int(np.clip(rows, MIN_BLOCK_ROWS, MAX_BLOCK_ROWS))
        self.seconds: dict[str, float] = {}
        """Time by relation, over all layers, and of all that is not one relation's."""
        self.mean_seconds: dict[str, float] = {}
        """Of it the walk over rows, where rows are walked."""
        self._done, self._arrays = 0, 0
        self._orders: dict[EdgeType, np.ndarray] = {}
        self._lent: dict[str, np.ndarray] = {}

    @torch.no_grad()
    def run(self) -> np.ndarray:
        """[N, D] float32, perhaps mapped from `scratch`.

        Equal to the model's forward pass with no sampling and no dropout, up to float32 rounding.
        """
        training = self.model.training
        self.model.eval()
        self.graph.check_unchanged()  # reading a file that was cut off would end the process
        try:
            if self.tables.device.type == "cuda":
                return WholeGraph(self.model, self.tables).run(self.model)[1].cpu().numpy()
            h, row = self._inputs()
            for index in range(self.model.shape.num_layers):
                layer = self.model.layer(index)
                if isinstance(layer, MeanLayer):
                    h = self._mean_layer(layer, index, h, row)
                else:
                    assert isinstance(layer, AttentionLayer)
                    h = self._attention_layer(layer, index, h, row)
                row = None
            return h
        finally:
            self.graph.check_unchanged()
            self.model.train(training)

    # What all layers need

    def _array(self, rows: int) -> np.ndarray:
        """Zeros [rows, D]: in memory where two such arrays take half of the budget."""
        if 2 * rows * self.width * 4 <= self.memory_bytes // 2:
            return np.zeros((rows, self.width), np.float32)
        self._arrays += 1
        path = self.scratch / f"states-{self._arrays}.f32"
        return np.memmap(path, np.float32, "w+", shape=(rows, self.width))

    def _buffer(self, name: str, rows: int) -> np.ndarray:
        """[rows, D] of any content, the same memory at each call: fresh pages cost more than sums."""
        if name not in self._lent or len(self._lent[name]) < rows:
            self._lent.pop(name, None)
            self._lent[name] = np.empty((rows, self.width), np.float32)
        return self._lent[name][:rows]

    def _blocks(self, num: int) -> Iterator[slice]:
        return (slice(a, min(a + self.block_rows, num)) for a in range(0, num, self.block_rows))

    def _count(self, what: str, since: float) -> None:
        """One step of a layer is done."""
        self.seconds[what] = self.seconds.get(what, 0.0) + perf_counter() - since
        self._done += 1
        if self.progress:
            steps = self.model.shape.num_layers * (len(self.model.shape.edge_types) + 1)
            self.progress(min(self._done, steps), steps)

    def _inputs(self) -> tuple[np.ndarray, np.ndarray | None]:
        """Projected features of the target by distinct content, and the row of each node."""
        start = perf_counter()
        contents = WholeContents.of(self.tables, self.model.target)
        # Degrees are a node's own, so the states that depend on them are too
        row = None if self.model.uses_degrees else contents.row
        h = self._array(self.num if row is None else len(contents.x))
        for block in self._blocks(len(h)):
            x = contents.x[block if contents.row is None or row is not None else contents.row[block]]
            h[block] = self.model.inputs(self.model.target, _float(x)).numpy()
        self.seconds["input"] = perf_counter() - start
        return h, row

    def _own(self, h: np.ndarray, row: np.ndarray | None, block: slice) -> Tensor:
        """States of the target nodes of a block."""
        return torch.from_numpy(h[block] if row is None else h[row[block]])

    def _source_table(
        self,
        node_type: str,
        contents: WholeContents,
        layer: int,
        then: Callable[[Tensor], Tensor],
        found: np.ndarray,
    ) -> np.ndarray:
        """`then` of the states before `layer` of every distinct content of a type that no relation ends
        in, into `found`: [rows, D]."""
        for block in self._blocks(len(found)):
            found[block] = then(self.model.source(node_type, _float(contents.x[block]), layer)).numpy()
        return found

    # Layers of means

    def _mean_layer(self, layer: MeanLayer, index: int, h: np.ndarray, row: np.ndarray | None) -> np.ndarray:
        total = self._array(self.num)
        degree: np.ndarray | None = None
        if layer.uses_degrees:
            degree = np.sum([self.graph.relation(e).degree() for e in layer.edge_types], axis=0)
        for edge_type in layer.edge_types:
            start = perf_counter()
            if edge_type[0] == layer.target:
                self._add_target_means(layer, edge_type, h, row, degree, total)
            else:
                contents = WholeContents.of(self.tables, edge_type[0])
                if 8 * len(contents.x) * self.width * 4 <= self.memory_bytes:
                    self._add_table_means(layer, index, edge_type, contents, total)
                else:
                    self._add_block_means(layer, index, edge_type, contents, total)
            self._count(edge_name(edge_type), start)
        start = perf_counter()
        last = index + 1 == self.model.shape.num_layers
        for block in self._blocks(self.num):
            of_block = None if degree is None else torch.from_numpy(degree[block])
            out = layer.finish(self._own(h, row, block), torch.from_numpy(total[block]), of_block)
            total[block] = (out if last else self.model.between(out)).numpy()
        self._count("own", start)
        return total

    def _walk(self, edge_type: EdgeType, content: np.ndarray | None) -> MeanWalk:
        relation = self.graph.relation(edge_type)
        if edge_type not in self._orders:
            self._orders[edge_type] = walk_order(relation)
        return MeanWalk(relation, content, self.threads, self._orders[edge_type])

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
        degree = self.graph.relation(edge_type).degree()
        name, start = edge_name(edge_type), perf_counter()
        for tails, means in walk.blocks(sent, self.block_rows, self._buffer("means", self.block_rows)):
            self.mean_seconds[name] = self.mean_seconds.get(name, 0.0) + perf_counter() - start
            some = degree[tails] > 0
            if 2 * some.sum() < len(tails):  # rows without heads bring nothing, and most are such
                tails, means = tails[some], means[some]
            found = torch.from_numpy(means)
            if not done:
                found = layer.transform(edge_type, found)
            _add_rows(total, tails, layer.weighted(found, torch.from_numpy(degree[tails])).numpy())
            start = perf_counter()

    def _add_target_means(
        self,
        layer: MeanLayer,
        edge_type: EdgeType,
        h: np.ndarray,
        row: np.ndarray | None,
        degree: np.ndarray | None,
        total: np.ndarray,
    ) -> None:
        sent = h
        if degree is not None:
            sent = self._array(len(h))
            for block in self._blocks(len(h)):
                scale = torch.from_numpy(degree[block])
                sent[block] = layer.send(layer.target, torch.from_numpy(h[block]), scale).numpy()
        self._add(layer, edge_type, self._walk(edge_type, row), sent, False, total)

    def _add_table_means(
        self, layer: MeanLayer, index: int, edge_type: EdgeType, contents: WholeContents, total: np.ndarray
    ) -> None:
        """From another type whose states by content are held at once."""
        first = len(contents.x) < self.num  # the smaller side is multiplied

        def sending(h: Tensor) -> Tensor:
            found = layer.send(edge_type[0], h, None)
            return layer.transform(edge_type, found) if first else found

        sent = self._source_table(
            edge_type[0], contents, index, sending, self._buffer("table", len(contents.x))
        )
        self._add(layer, edge_type, self._walk(edge_type, contents.row), sent, first, total)

    def _add_block_means(
        self, layer: MeanLayer, index: int, edge_type: EdgeType, contents: WholeContents, total: np.ndarray
    ) -> None:
        """From another type, block by block: each distinct content of a block's heads is computed once."""
        relation = self.graph.relation(edge_type)
        degree = relation.degree()
        for block in self._edge_blocks(degree, self.block_rows):
            tails = np.flatnonzero(degree[block]) + block.start
            heads = relation.heads_of(block.start, block.stop)
            rows, where = np.unique(
                heads if contents.row is None else contents.row[heads], return_inverse=True
            )
            x = _float(contents.x[rows])
            sent = layer.send(edge_type[0], self.model.source(edge_type[0], x, index), None)
            counts = torch.from_numpy(degree[tails])
            means = SampledRows(torch.from_numpy(where), counts).mean(sent)
            _add_rows(total, tails, layer.weighted(layer.transform(edge_type, means), counts).numpy())

    def _edge_blocks(self, degree: np.ndarray, max_edges: int) -> Iterator[slice]:
        """Ranges of tails with so many edges at most (or one tail), and no more rows than a block has."""
        ends, first = np.cumsum(degree), 0
        while first < len(degree):
            before = ends[first - 1] if first else 0
            last = int(np.searchsorted(ends, before + max_edges, side="right"))
            last = min(max(last, first + 1), first + self.block_rows)
            yield slice(first, last)
            first = last

    # Layers of attention

    def _attention_layer(
        self, layer: AttentionLayer, index: int, h: np.ndarray, row: np.ndarray | None
    ) -> np.ndarray:
        """Every row is walked: a softmax has no running sum. Values of all node types are held at once."""
        start = perf_counter()
        contents = {
            e[0]: WholeContents.of(self.tables, e[0]) for e in layer.edge_types if e[0] != layer.target
        }
        values = {}
        for name, found in contents.items():
            table = self._array(len(found.x))
            then = partial(layer.values_of, name)
            values[name] = self._by_heads(layer, self._source_table(name, found, index, then, table))
        own_values = self._array(len(h))
        for block in self._blocks(len(h)):
            own_values[block] = layer.values_of(layer.target, torch.from_numpy(h[block])).numpy()
        values[layer.target] = self._by_heads(layer, own_values)
        row_of = {name: found.row for name, found in contents.items()} | {layer.target: row}
        relations = {e: self.graph.relation(e) for e in layer.edge_types}
        degrees = {e: relation.degree() for e, relation in relations.items()}
        parts: list[np.ndarray] = []
        scores = torch.zeros(0, dtype=torch.float64)
        for block in self._edge_blocks(np.sum(list(degrees.values()), axis=0), BLOCK_EDGES):
            rows: dict[EdgeType, Rows] = {}
            for e, relation in relations.items():
                heads = relation.heads_of(block.start, block.stop)
                found_row = row_of[e[0]]
                if found_row is not None:
                    heads = found_row[heads]
                rows[e] = SampledRows(
                    torch.from_numpy(heads.astype(np.int64)), torch.from_numpy(degrees[e][block])
                )
            target_values = values[layer.target]
            own = (
                target_values[block]
                if row is None
                else target_values[torch.from_numpy(row[block].astype(np.int64))]
            )
            of_block = layer.attend(values, own, rows)
            if not parts:
                parts = [self._array(self.num) for _ in of_block]
                scores = torch.zeros(len(of_block), dtype=torch.float64)
            for part, one in zip(parts, of_block, strict=True):
                part[block] = one.numpy()
            scores += layer.scores(of_block).double()
        out = self._array(self.num)
        last = index + 1 == self.model.shape.num_layers
        mean_scores = (scores / max(1, self.num)).float()
        for block in self._blocks(self.num):
            stacked = torch.stack([torch.from_numpy(part[block]) for part in parts])
            states = layer.combine(self._own(h, row, block), stacked, mean_scores)
            out[block] = (states if last else self.model.between(states)).numpy()
        self._count("attention", start)
        self._done = (index + 1) * (len(layer.edge_types) + 1)
        return out

    @staticmethod
    def _by_heads(layer: AttentionLayer, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).view(len(values), layer.heads, layer.width)


@torch.no_grad()
def exact_scores(model: GraphModel, h_ND: np.ndarray) -> np.ndarray:
    """Scores of embeddings: [N, D] → [N] float32."""
    training = model.training
    model.eval()
    device = model.predictor.weight.device
    parts = [
        model.score(torch.from_numpy(np.array(h_ND[a : a + MAX_BLOCK_ROWS])).to(device)).cpu().numpy()
        for a in range(0, len(h_ND), MAX_BLOCK_ROWS)
    ]
    model.train(training)
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def embed(
    model: GraphModel,
    tables: FeatureTables,
    *,
    memory_bytes: int = DEFAULT_MEMORY,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings [N, D] and scores [N] of all target nodes, in memory."""
    with tempfile.TemporaryDirectory() as scratch:
        inference = ExactInference(model, tables, Path(scratch), memory_bytes=memory_bytes, progress=progress)
        h = np.array(inference.run())
        return h, exact_scores(model, h)
