"""Small random heterogeneous graphs in memory, for the tests of encoders."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from netgpt.graphstore import EdgeType, Relation
from netgpt.graphstore.relations import group_relation
from netgpt.trainers.graph.encoders import LayerEdges
from netgpt.trainers.graph.rows import HeadRows, SampledRows, WholeRows

CPU = torch.device("cpu")
TOPIC: EdgeType = ("v", "same", "v")
CITES: EdgeType = ("v", "cites", "v")
WRITES: EdgeType = ("a", "writes", "v")
SHOWN: EdgeType = ("v", "shown_by", "a")
OWNS: EdgeType = ("b", "owns", "a")


@dataclass(frozen=True)
class RandomGraph:
    relations: dict[EdgeType, Relation]
    num_nodes: dict[str, int]

    @staticmethod
    def of(seed: int, num_v: int = 23, num_a: int = 7, degree: int = 3, *, star: bool = False) -> RandomGraph:
        """A prefix relation, a csr relation with repeated edges, one from another type; and, unless it is a
        star, one back to that type, and one to it from a type that no relation ends in."""
        rng = np.random.default_rng(seed)
        key, time = rng.integers(-1, 4, num_v), rng.integers(0, 5, num_v)
        relations = {TOPIC: group_relation(TOPIC, key, time, strict=False)}
        for edge_type, num in ((CITES, num_v), (WRITES, num_a)):
            indptr = np.r_[0, np.cumsum(rng.integers(0, 2 * degree, num_v))]
            indices = rng.integers(0, num, indptr[-1])
            if edge_type == CITES:  # PyG's GCN takes a loop that is there for the one that it adds
                tails = np.repeat(np.arange(num_v), np.diff(indptr))
                indices = (tails + rng.integers(1, num_v, len(tails))) % num_v
            indices = indices.astype(np.int32)
            relations[edge_type] = Relation(edge_type, "csr", indices, indptr[:-1], indptr[1:])
        if star:
            return RandomGraph(relations, {"v": num_v, "a": num_a})
        num_b = 5
        for edge_type, num in ((SHOWN, num_v), (OWNS, num_b)):
            indptr = np.r_[0, np.cumsum(rng.integers(0, 2 * degree, num_a))]
            indices = rng.integers(0, num, indptr[-1]).astype(np.int32)
            relations[edge_type] = Relation(edge_type, "csr", indices, indptr[:-1], indptr[1:])
        return RandomGraph(relations, {"v": num_v, "a": num_a, "b": num_b})

    @property
    def edge_types(self) -> tuple[EdgeType, ...]:
        return tuple(self.relations)

    def edge_index(self, edge_type: EdgeType) -> torch.Tensor:
        """[2, E], by the plain meaning of rows."""
        relation = self.relations[edge_type]
        pairs = [(int(u), v) for v in range(relation.num_dst) for u in relation.neighbors(v)]
        return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T

    def states(self, width: int, seed: int = 0) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(num, width, generator=generator, dtype=torch.float64)
            for name, num in self.num_nodes.items()
        }

    def block(self, kind: str) -> LayerEdges:
        """All edges, as sampled rows or as whole ones."""
        rows: dict[EdgeType, HeadRows] = {}
        for edge_type, relation in self.relations.items():
            if kind == "whole":
                rows[edge_type] = WholeRows(relation, CPU)
            else:
                heads = torch.from_numpy(relation.heads_of(0, relation.num_dst).astype(np.int64))
                rows[edge_type] = SampledRows(heads, torch.from_numpy(relation.degree()))
        tails = dict.fromkeys(e[2] for e in self.edge_types)
        degree = {
            name: torch.stack([row.degree_T for e, row in rows.items() if e[2] == name]).sum(0)
            for name in tails
        }
        return LayerEdges(rows, {name: self.num_nodes[name] for name in tails}, degree)
