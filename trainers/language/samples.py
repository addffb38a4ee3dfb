"""The samples of a language stage: tokens, embedding rows and pixels of nodes, packed as batches.

Shape suffixes: n samples, F fields of a document, D the graph's width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from netgpt.trainers import distributed
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.packing import PackedBatch, collate, plan_packs
from netgpt.trainers.language.pixels import Clip, PixelFolder
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.tokens import Tokens

_NOTHING = np.empty(0, np.int64)


@dataclass(frozen=True)
class GraphStates:
    """Embeddings of all nodes [N, D], mapped: only the rows of a pack are ever copied; and their scale.

    h_v has no scale of its own. With the mean [D] of the train nodes' taken off and divided by their root
    mean square distance from it, it has length 1 on average, as long as the projector's bias is: a language
    model normalises each token, and of a vector much longer than the bias only the direction would be left.
    (One scale for all places: those in which h_v varies most are those that stage 1 has found worth it. No
    layer norm: it would take away how large h_v is.)
    """

    embeddings: np.ndarray
    mean: np.ndarray
    length: float
    scores: np.ndarray | None = None
    """[N] stage 1's scores, where the rating starts from them."""

    @staticmethod
    def of(embeddings: np.ndarray, train: np.ndarray, scores: np.ndarray | None = None) -> GraphStates:
        """train: node numbers that the scale is taken from."""
        total, square = np.zeros(embeddings.shape[1]), np.zeros(embeddings.shape[1])
        for first in range(0, len(train), 1 << 14):  # never a copy of all rows
            rows = np.asarray(embeddings[train[first : first + (1 << 14)]], np.float64)
            total, square = total + rows.sum(0), square + (rows**2).sum(0)
        mean = total / len(train)
        variance = np.maximum(square / len(train) - mean**2, 0).sum()
        return GraphStates(embeddings, mean, max(float(np.sqrt(variance)), 1e-6), scores)

    def rows(self, nodes: np.ndarray) -> np.ndarray:
        """[n, D] float32 of node numbers, scaled."""
        return ((self.embeddings[nodes] - self.mean) / self.length).astype(np.float32)


@dataclass(frozen=True)
class Samples:
    """Nodes with their prompts. A sample is a position in `ids`."""

    ids: np.ndarray
    """[n] node numbers of the target."""
    tokens: Tokens
    builder: PromptBuilder
    device: torch.device
    graph: GraphStates | None = None
    """None: without the graph token, as the text baselines are."""
    hidden: np.ndarray | None = None
    """[n, F] bool: fields left out of each prompt."""
    names: Sequence[str] = ()
    """Dataset ids by node number, where there are clips."""
    pixels: PixelFolder | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def clips(self) -> list[Clip | None]:
        if self.pixels is None:
            return [None] * len(self)
        return [self.pixels.clip(self.names[v]) for v in self.ids.tolist()]

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each prompt: [n] int64."""
        lengths = self.tokens.prompt_lengths(self.ids, self.builder, self.hidden)
        if self.pixels is not None:
            lengths = lengths + [clip.num_tokens + 2 if clip else 0 for clip in self.clips]
        return lengths

    def hiding(self, fields: np.ndarray, share: float, seed: Sequence[int]) -> Samples:
        """The same with each of the given fields [F] left out of a `share` of the prompts, drawn by seed."""
        if share == 0:
            return self
        rng = np.random.default_rng(list(seed))
        drawn = (rng.random((len(self), len(fields))) < share) & fields
        return replace(self, hidden=drawn if self.hidden is None else drawn | self.hidden)

    def without(self, fields: np.ndarray) -> Samples:
        """The same with the given fields [F] left out of every prompt."""
        return self.hiding(fields, 1.0, (0,)) if fields.any() else self

    def prompt(self, i: int) -> np.ndarray:
        """[L] int64: tokens of one sample's prompt, its clip included."""
        hidden = None if self.hidden is None else self.hidden[i]
        ids = self.builder.assemble(self.tokens.record(int(self.ids[i])), hidden)
        if (clip := self.clips[i]) is None:
            return ids
        assert self.pixels is not None
        at = self.builder.num_open
        return np.concatenate([ids[:at], self.pixels.tokens(clip), ids[at:]])

    def batch(
        self,
        samples: Sequence[int],
        responses: Sequence[np.ndarray] | None = None,
        first_answers: list[int] | None = None,
    ) -> PackedBatch:
        """A pack of the given samples, each with its response. first_answers: tokens of the first of a
        response's two answers, where both follow the prompt."""
        prompts = [self.prompt(i) for i in samples]
        nodes = self.ids[list(samples)]
        options: dict[str, Any] = {} if first_answers is None else {"first_answers": first_answers}
        if self.graph is not None:
            options["graph"] = self.graph.rows(nodes)
            if self.graph.scores is not None:
                options["start"] = self.graph.scores[nodes].astype(np.float32)
        parts = list(responses or [_NOTHING] * len(samples))
        clips = [self.clips[i] for i in samples]
        if self.pixels is None or not any(clips):
            return collate(prompts, parts, self.device, **options)
        positions = [
            np.broadcast_to(np.arange(len(p)), (3, len(p)))
            if clip is None
            else self.pixels.positions(clip, self.builder.num_open, len(p))
            for p, clip in zip(prompts, clips, strict=True)
        ]
        shown = [clip for clip in clips if clip]
        return collate(
            prompts,
            parts,
            self.device,
            **options,
            positions=positions,
            pixels=torch.cat([clip.pixels() for clip in shown]),
            video_grid=torch.tensor([clip.grid for clip in shown]),
        )

    def check_fit(self, budget: int, extra_tokens: int = 0) -> None:
        """TrainerError for a sample longer than a pack may be."""
        if len(self) and (longest := int(self.lengths.max()) + extra_tokens) > budget:
            node = int(self.ids[int(self.lengths.argmax())])
            record = f"record {self.names[node]!r}" if len(self.names) else f"node {node}"
            raise TrainerError(
                f"{record}: found {longest} tokens, expected at most language.token_budget ({budget}); "
                "raise it, or give shorter clips"
            )

    def passes(self, budget: int, extra_tokens: int = 0) -> Iterator[list[int]]:
        """This rank's packs of one pass over all samples, each in exactly one rank's pack."""
        self.check_fit(budget, extra_tokens)
        world_size = distributed.world_size()
        lengths = self.lengths + extra_tokens
        for step in plan_packs(lengths, budget=budget, packs_per_step=world_size, seed=(0,)):
            yield step.packs[distributed.rank()]
