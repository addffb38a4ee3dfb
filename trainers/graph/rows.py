"""The rows of a relation as tensors: means and attention over the heads of each tail, with gradients.

`SampledRows` are those of a mini-batch, `WholeRows` those of a whole graph. Layers know neither.

Shape suffixes: N heads' states, T tails, E edges, H attention heads, C width of one of them, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from netgpt.graphstore import EdgeType, Relation, edge_name
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.aggregate import MeanWalk
from netgpt.trainers.graph.bags import Bags, add_means, bag_means, is_compiled, numbers, read

SLOPE = 0.2
"""Slope of the leaky ReLU in attention scores."""
MAX_EDGES = 50_000_000
"""Edges that attention over whole rows holds at once."""
_PRODUCTS = 1 << 18
"""Edges whose keys and queries are there at once."""


Table = tuple[Tensor, Tensor | None]
"""States by content, [C, D], and the row of each node; None: its number."""


@dataclass(frozen=True)
class Attention:
    """A softmax over rows before its division, so that several relations can share one.

    The weighted mean is total / weight; weights are relative to exp(top).
    """

    top_TH: Tensor
    """Largest score of the row; −inf where it is empty."""
    weight_TH: Tensor
    total_THC: Tensor

    def mean(self) -> Tensor:
        """[T, H · C]; zero where a row is empty."""
        return (self.total_THC / self.weight_TH.clamp_min(1e-16)[:, :, None]).flatten(1)


def joint_mean(parts: list[Attention]) -> Tensor:
    """The weighted mean of one softmax over the rows of several relations: [T, H · C]."""
    top_TH = torch.stack([p.top_TH for p in parts]).amax(0)
    top_TH = torch.where(top_TH.isinf(), torch.zeros_like(top_TH), top_TH)
    weight_TH, total_THC = torch.zeros_like(top_TH), torch.zeros_like(parts[0].total_THC)
    for part in parts:
        share_TH = torch.exp(part.top_TH - top_TH)
        weight_TH = weight_TH + share_TH * part.weight_TH
        total_THC = total_THC + share_TH[:, :, None] * part.total_THC
    return Attention(top_TH, weight_TH, total_THC).mean()


class HeadRows:
    """The rows of one relation, for the first T nodes of its destination."""

    num_tails: int
    degree_T: Tensor
    """Heads of each tail in the graph, which may be more than are here."""

    def mean(self, h_ND: Tensor, row_N: Tensor | None = None) -> Tensor:
        """Mean over each tail's heads: [T, D]; zero where it has none. row_N: the row of `h` that is each
        head's, by default its number."""
        raise NotImplementedError

    def attend(self, key_NH: Tensor, query_TH: Tensor, value_HNC: Tensor) -> Attention:
        """Softmax over a row's heads of leaky_relu(key of the head + query of the tail)."""
        raise NotImplementedError

    def attend_products(self, key_NHC: Tensor, query_THC: Tensor, value_HNC: Tensor) -> Attention:
        """Softmax over a row's heads of the product of the head's key and the tail's query."""
        raise NotImplementedError


class SampledRows(HeadRows):
    """heads_E int: positions among the heads' states, row after row; counts_T int: length of each row."""

    def __init__(self, heads_E: Tensor, counts_T: Tensor, degree_T: Tensor | None = None) -> None:
        self.heads_E, self.counts_T = heads_E, counts_T
        self.num_tails = len(counts_T)
        self.degree_T = counts_T if degree_T is None else degree_T

    @property
    def num_edges(self) -> int:
        return len(self.heads_E)

    @cached_property
    def ends(self) -> Tensor:
        """[T]: behind each row's last edge."""
        return torch.cumsum(self.counts_T, 0, dtype=self.heads_E.dtype)

    def _begin(self) -> Tensor:
        return self.ends - self.counts_T

    def mean(self, h_ND: Tensor, row_N: Tensor | None = None) -> Tensor:
        if is_compiled(h_ND):
            return read(h_ND, row_N, 0, [self.bags()])[1][0]
        # Gather and mean in one fused, deterministic operation
        index_E = self.heads_E if row_N is None else row_N[self.heads_E]
        return F.embedding_bag(index_E, h_ND, self._begin().to(index_E.dtype), mode="mean")

    def bags(self, factor_T: Tensor | None = None) -> Bags:
        """For the compiled loops, with a factor for each mean."""
        return Bags.of(self.heads_E, self.ends, factor_T)

    def input_mean(self, x_CF: Tensor, row_N: Tensor | None, share_N: Tensor | None, out_TF: Tensor) -> None:
        """Mean over each tail's heads of their rows of a table without a gradient, times their shares, into
        `out`: zero where it has none. row_N: by default a head's number; share_N: by default one."""
        if is_compiled(x_CF):
            bag_means(x_CF.numpy(), numbers(row_N), numbers(share_N), self.bags(), out_TF.numpy(), False)
            return
        index_E = self.heads_E if row_N is None else row_N[self.heads_E]
        begin_T = self._begin().to(index_E.dtype)
        if share_N is None:
            out_TF.copy_(F.embedding_bag(index_E, x_CF, begin_T, mode="mean"))
        else:
            shares_E = share_N[self.heads_E].to(x_CF.dtype)
            total = F.embedding_bag(index_E, x_CF, begin_T, mode="sum", per_sample_weights=shares_E)
            out_TF.copy_(total / self.counts_T.clamp_min(1)[:, None])

    def attend(self, key_NH: Tensor, query_TH: Tensor, value_HNC: Tensor) -> Attention:
        key_NH, query_TH = _at_least_float32(key_NH, query_TH)
        score_EH = F.embedding(self.heads_E, key_NH) + F.embedding(self._tails(), query_TH)
        return self._softmax(F.leaky_relu(score_EH, SLOPE), value_HNC)

    def attend_products(self, key_NHC: Tensor, query_THC: Tensor, value_HNC: Tensor) -> Attention:
        key_NHC, query_THC = _at_least_float32(key_NHC, query_THC)
        ends = zip(self.heads_E.split(_PRODUCTS), self._tails().split(_PRODUCTS), strict=True)
        scores = [(key_NHC[heads] * query_THC[tails]).sum(2) for heads, tails in ends]
        return self._softmax(torch.cat(scores), value_HNC)

    def _tails(self) -> Tensor:
        """[E]."""
        tails_T = torch.arange(self.num_tails, device=self.counts_T.device)
        return torch.repeat_interleave(tails_T, self.counts_T.long())

    def _softmax(self, score_EH: Tensor, value_HNC: Tensor) -> Attention:
        counts_T, begin_T = self.counts_T.long(), self._begin()
        (value_HNC,) = _at_least_float32(value_HNC)
        top_TH = _segments(score_EH.detach(), "max", counts_T)
        weight_EH = torch.exp(score_EH - top_TH[self._tails()])
        # One bag a head: no [E, H, C] is ever there
        total_HTC = [
            F.embedding_bag(
                self.heads_E, value_NC.contiguous(), begin_T, mode="sum", per_sample_weights=weight_E
            )
            for value_NC, weight_E in zip(value_HNC, weight_EH.t().contiguous(), strict=True)
        ]
        # Where relations share a softmax, a sampled row stands for all its heads
        stands_for_T1 = (self.degree_T / counts_T.clamp_min(1)).to(value_HNC.dtype)[:, None]
        weight_TH = _segments(weight_EH, "sum", counts_T) * stands_for_T1
        return Attention(top_TH, weight_TH, torch.stack(total_HTC, 1) * stands_for_T1[:, :, None])


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """Under autocast products are bfloat16; scores and their sums are not."""
    return [t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors]


def _segments(values_EH: Tensor, reduce: str, counts_T: Tensor) -> Tensor:
    initial = 0.0 if reduce == "sum" else -torch.inf
    if not len(values_EH):
        return values_EH.new_full((len(counts_T), values_EH.shape[1]), initial)
    reduced: Tensor = torch.segment_reduce(values_EH, reduce, lengths=counts_T, axis=0, initial=initial)
    return reduced


class _ExactMean(torch.autograd.Function):
    """The walk over a relation's rows on the CPU, there and back."""

    @staticmethod
    def forward(ctx: Any, h_ND: Tensor, walk: MeanWalk) -> Tensor:
        ctx.walk, ctx.num_heads, ctx.dtype = walk, len(h_ND), h_ND.dtype
        # numpy knows no bfloat16
        h_ND = h_ND.detach().to(torch.promote_types(h_ND.dtype, torch.float32))
        return torch.from_numpy(walk.mean(h_ND.contiguous().numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        gradient = ctx.walk.gradient(gradients[0].contiguous().numpy(), ctx.num_heads)
        return torch.from_numpy(gradient).to(ctx.dtype), None


def read_rows(
    h_CD: Tensor, row_N: Tensor | None, num_own: int, sent_CD: Tensor, rows: Sequence[HeadRows]
) -> tuple[Tensor, list[Tensor]]:
    """States of the first nodes, [own, D], and for each relation the means of what their heads send: [T, D].

    row_N: the row of each node in the tables of states and of what is sent, by default its number.
    """
    sampled = [one for one in rows if isinstance(one, SampledRows)]
    if sent_CD is h_CD and is_compiled(h_CD) and len(sampled) == len(rows):
        return read(h_CD, row_N, num_own, [one.bags() for one in sampled])
    own_TD = h_CD[:num_own] if row_N is None else F.embedding(row_N[:num_own], h_CD)
    return own_TD, [one.mean(sent_CD, row_N) for one in rows]


def add_rows(
    total_TD: Tensor,
    tables: Sequence[tuple[HeadRows, Table]],
    weighted: Callable[[Tensor, Tensor], Tensor],
    by_row: bool,
) -> Tensor:
    """`total` and the weighted means over relations' heads of rows of tables; `total` may change in place.

    weighted: of means [T, D] and degrees [T]; by_row: it multiplies each row by a number.
    """
    together: list[tuple[SampledRows, Table]] = []
    for rows, (h, row) in tables:
        if by_row and isinstance(rows, SampledRows) and is_compiled(h) and h.dtype == total_TD.dtype:
            together.append((rows, (h, row)))
        else:
            total_TD = total_TD + weighted(rows.mean(h, row), rows.degree_T)
    if not together:
        return total_TD
    bags = []
    for rows, (h, _) in together:
        ones_T1 = h.new_ones(rows.num_tails, 1)
        factor_T1 = weighted(ones_T1, rows.degree_T)
        bags.append(rows.bags(None if factor_T1 is ones_T1 else factor_T1[:, 0].contiguous()))
    own = [table for _, table in together]
    return add_means(total_TD, [h for h, _ in own], [row for _, row in own], bags)


class WholeRows(HeadRows):
    """All rows of a relation. content [N] int: the state of each head, by default its number."""

    def __init__(
        self, relation: Relation, device: torch.device, content: np.ndarray | None = None, threads: int = 1
    ) -> None:
        self.edge_type: EdgeType = relation.edge_type
        self.relation, self.content, self.device = relation, content, device
        self.num_tails = relation.num_dst
        self.degree_T = torch.from_numpy(relation.degree().astype(np.int64)).to(device)
        self.walk = MeanWalk(relation, content, threads)
        self._edges: SampledRows | None = None
        self._places: tuple[Tensor, Tensor, Tensor, Tensor, Tensor] | None = None

    def mean(self, h_ND: Tensor, row_N: Tensor | None = None) -> Tensor:
        if row_N is not None:
            h_ND = F.embedding(row_N, h_ND)
        if h_ND.device.type == "cpu":
            means: Tensor = _ExactMean.apply(h_ND, self.walk)
            return means
        return self.mean_of_sums(h_ND)

    def mean_of_sums(self, h_ND: Tensor) -> Tensor:
        """The same by one cumulative sum in float64 over `indices`, for devices that do that well."""
        if self._places is None:
            walk = self.walk
            length = walk.end - walk.begin
            own = (walk.rank < length) if len(walk.rank) else np.zeros(len(length), bool)
            at = np.where(own, walk.begin + (walk.rank if len(walk.rank) else 0), 0)
            heads = walk.indices.astype(np.int64)
            if self.content is not None:
                heads = self.content[heads].astype(np.int64)
            own_heads = heads[at] if len(heads) else np.zeros(len(at), np.int64)
            parts = (heads, walk.begin.astype(np.int64), walk.end.astype(np.int64), own_heads, own)
            self._places = tuple(torch.from_numpy(np.array(p)).to(h_ND.device) for p in parts)  # type: ignore[assignment]
        assert self._places is not None
        heads_M, begin_T, end_T, own_T, has_own_T = self._places
        sums_MD = torch.cumsum(F.embedding(heads_M, h_ND).double(), 0)
        sums_MD = F.pad(sums_MD, (0, 0, 1, 0))
        total_TD = F.embedding(end_T, sums_MD) - F.embedding(begin_T, sums_MD)
        total_TD = total_TD - F.embedding(own_T, h_ND) * has_own_T[:, None]
        return (total_TD / self.degree_T.clamp_min(1)[:, None]).to(h_ND.dtype)

    def attend(self, key_NH: Tensor, query_TH: Tensor, value_HNC: Tensor) -> Attention:
        return self._all().attend(key_NH, query_TH, value_HNC)

    def attend_products(self, key_NHC: Tensor, query_THC: Tensor, value_HNC: Tensor) -> Attention:
        return self._all().attend_products(key_NHC, query_THC, value_HNC)

    def _all(self) -> SampledRows:
        """All edges at once. TrainerError for too many."""
        if self._edges is None:
            num = int(self.degree_T.sum())
            if num > MAX_EDGES:
                raise TrainerError(
                    f"{edge_name(self.edge_type)}: found {num:,} edges, expected up to {MAX_EDGES:,} for "
                    "attention over whole rows; use graph.neighbors=sampled, or the encoder rgcn or gcn"
                )
            _, heads = self.relation.to_csr(np.int64)
            if self.content is not None:
                heads = self.content[heads].astype(np.int64)
            self._edges = SampledRows(torch.from_numpy(heads).to(self.device), self.degree_T)
        return self._edges
