"""Embeddings of nodes that join a graph in memory, from states of the others that are kept.

No new head enters a row of an old node, so that what was computed for those stays true: their states before
every layer are kept once (`KeptStates`), and each new node costs its own rows alone. Nodes that join apart
are computed together, and hear nothing of each other.

Legend: N nodes of a type, M new ones of a type, D hidden width.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from netgpt.graphstore import EdgeType, JoinedGraph
from netgpt.trainers.graph.encoders import AttentionLayer, Layer, LayerEdges
from netgpt.trainers.graph.exact.inference import ExactInference
from netgpt.trainers.graph.exact.workspace import DEFAULT_MEMORY, States
from netgpt.trainers.graph.model import GraphModel
from netgpt.trainers.graph.rows import HeadRows, SampledRows
from netgpt.trainers.graph.tables import FeatureTables
from netgpt.trainers.progress import OnProgress


@dataclass(frozen=True)
class KeptStates:
    """A store's states before each layer."""

    layers: Sequence[Mapping[str, States]]
    """By layer, of the types that relations end in."""
    mean_scores: list[list[float]]
    """As `ExactInference` has them."""

    @staticmethod
    def of(
        model: GraphModel,
        tables: FeatureTables,
        *,
        memory_bytes: int = DEFAULT_MEMORY,
        progress: OnProgress | None = None,
        scratch: Path | None = None,
        mean_scores: list[list[float]] | None = None,
    ) -> KeptStates:
        """By an exact inference on the CPU. Beyond half of `memory_bytes` states lie in mapped files, which
        have no name: they are gone with the object."""
        with tempfile.TemporaryDirectory(dir=scratch, prefix=".states-") as folder:
            inference = ExactInference(
                model,
                tables,
                Path(folder),
                memory_bytes=memory_bytes,
                progress=progress,
                keep_layers=True,
                mean_scores=mean_scores,
            )
            inference.run()
        assert inference.mean_scores is not None
        return KeptStates(inference.layers, inference.mean_scores)


@dataclass(frozen=True)
class _Table:
    """States of one node type that one layer reads: those of the new nodes, then those of old heads."""

    first: list[int]
    """Where the new nodes of each graph begin, and where the last's end."""
    old: np.ndarray
    """Old heads' node numbers, rising: [n]."""

    @property
    def num_new(self) -> int:
        return self.first[-1]

    def places(self, graph: int, heads: np.ndarray, num_old: int) -> np.ndarray:
        """Rows of heads by node number in one of the graphs."""
        is_new = heads >= num_old
        return np.where(
            is_new,
            self.first[graph] + heads - num_old,
            self.num_new + np.searchsorted(self.old, np.where(is_new, 0, heads)),
        )


class NewNodes:
    """Embeddings of new target nodes of graphs that extend one store: `of(graphs)`."""

    def __init__(self, model: GraphModel, tables: FeatureTables, kept: KeptStates) -> None:
        """tables: the store's own, on the CPU."""
        self.model, self.tables, self.kept = model.eval(), tables, kept

    @torch.no_grad()
    def of(self, graphs: Sequence[JoinedGraph]) -> list[np.ndarray]:
        """Embeddings [M, D] of each graph's new target nodes, in order; of each graph what it has alone.

        Equal to exact inference over each graph with the store's mean scores, up to float32 rounding.
        """
        model, shape = self.model, self.model.shape
        own = [self.tables.extended(g) for g in graphs]
        new = {n: self.model.inputs(n, self._features(n, graphs, own)) for n in shape.tail_types}
        for index in range(shape.num_layers):
            layer, tails = model.layer(index), model.parts[index].tail_types
            h, block = self._block(index, graphs, own, new)
            out = self._run(layer, index, h, block)
            last = index + 1 == shape.num_layers
            new = {name: out[name] if last else model.between(out[name]) for name in tails}
        if shape.target in new:
            found = new[shape.target]
        else:  # no relation ends in it: its states are of its features alone
            at = shape.num_layers - 1
            x = self._features(shape.target, graphs, own)
            found = model.layer(at).alone(shape.target, model.source(shape.target, x, at))
        sizes = [len(g.new) for g in graphs]
        return [part.numpy() for part in found.split(sizes)]

    def _first(self, name: str) -> int:
        """Number of the first new node of a type."""
        return self.tables.graph.num_nodes[name]

    def _features(self, name: str, graphs: Sequence[JoinedGraph], own: Sequence[FeatureTables]) -> Tensor:
        """Of the new nodes of all graphs: [n, F]."""
        first = self._first(name)
        ids = [np.arange(first, g.num_nodes[name]) for g in graphs]
        return torch.cat([t.gather(name, one) for t, one in zip(own, ids, strict=True)])

    def _block(
        self,
        index: int,
        graphs: Sequence[JoinedGraph],
        own: Sequence[FeatureTables],
        new: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], LayerEdges]:
        """States that a layer reads, by type, and the rows of the new nodes over them."""
        part = self.model.parts[index]
        heads: dict[EdgeType, list[np.ndarray]] = {}
        counts: dict[EdgeType, list[np.ndarray]] = {}
        for e in part.edge_types:
            relations = [g.relation(e) for g in graphs]
            spans = [(self._first(e[2]), g.num_nodes[e[2]]) for g in graphs]
            heads[e] = [r.heads_of(*span).astype(np.int64) for r, span in zip(relations, spans, strict=True)]
            counts[e] = [r.degree(np.arange(*span)) for r, span in zip(relations, spans, strict=True)]
        h: dict[str, Tensor] = {}
        degree: dict[str, Tensor] = {}
        places: dict[str, _Table] = {}
        for name in part.node_types:
            first = self._first(name)
            read = [x[x < first] for e in part.edge_types if e[0] == name for x in heads[e]]
            table = places[name] = self._table(name, graphs, np.unique(np.concatenate([*read, _NONE])))
            h[name] = torch.cat([self._new(name, index, graphs, own, new), self._old(name, index, table.old)])
            if self.model.uses_degrees and name in self.model.tail_types:
                degree[name] = self._degrees(name, graphs, table.old)
        rows: dict[EdgeType, HeadRows] = {}
        for e in part.edge_types:
            first, table = self._first(e[0]), places[e[0]]
            found = [table.places(i, one, first) for i, one in enumerate(heads[e])]
            rows[e] = SampledRows(
                torch.from_numpy(np.concatenate([*found, _NONE])),
                torch.from_numpy(np.concatenate([*counts[e], _NONE])),
            )
        return h, LayerEdges(rows, {name: places[name].num_new for name in part.tail_types}, degree)

    def _table(self, name: str, graphs: Sequence[JoinedGraph], old: np.ndarray) -> _Table:
        sizes = [g.num_nodes[name] - self._first(name) for g in graphs]
        return _Table([0, *np.cumsum(sizes).tolist()], old)

    def _new(
        self,
        name: str,
        index: int,
        graphs: Sequence[JoinedGraph],
        own: Sequence[FeatureTables],
        new: Mapping[str, Tensor],
    ) -> Tensor:
        """States before a layer of the new nodes of a type: [n, D]."""
        if name in new:
            return new[name]
        return self.model.source(name, self._features(name, graphs, own), index)

    def _old(self, name: str, index: int, nodes: np.ndarray) -> Tensor:
        """States before a layer of nodes of the store: [n, D]."""
        if name in self.kept.layers[index]:
            states = self.kept.layers[index][name]
            return torch.from_numpy(np.array(states.h[nodes if states.row is None else states.row[nodes]]))
        return self.model.source(name, self.tables.gather(name, nodes), index)

    def _degrees(self, name: str, graphs: Sequence[JoinedGraph], old: np.ndarray) -> Tensor:
        """Heads over all relations of the nodes whose states are there: [n]."""
        first, store = self._first(name), self.tables.graph
        total = []
        for e in self.model.shape.ending_in(name):
            parts = [g.relation(e).degree(np.arange(first, g.num_nodes[name])) for g in graphs]
            total.append(np.concatenate([*parts, store.relation(e).degree(old)]).astype(np.int64))
        return torch.from_numpy(np.sum(total, axis=0))

    def _run(self, layer: Layer, index: int, h: Mapping[str, Tensor], block: LayerEdges) -> dict[str, Tensor]:
        """New states of the new nodes, by type."""
        if not isinstance(layer, AttentionLayer):
            return layer(h, block)  # type: ignore[no-any-return]
        values = {name: layer.values_of(name, x) for name, x in h.items()}
        keys = {e: layer.key(e, values[e[0]]) for e in layer.edge_types}
        out, used, given = {}, 0, self.kept.mean_scores[index]
        for name, num in block.num_tails.items():
            parts_KTD = layer.attend(name, keys, values, values[name][:, :num], block.rows)
            mean_K = torch.tensor(given[used : used + len(parts_KTD)])
            used += len(parts_KTD)
            out[name] = layer.combine(name, h[name][:num], parts_KTD, mean_K)
        return out


_NONE = np.empty(0, np.int64)
