"""Generation over packs, greedy or drawn, and the answer that a generated text states.

What greedy decoding writes is first checked rather than stepped through: a pass over prompt and draft
gives the model's choice after each of the draft's tokens, and all up to the first other choice are
accepted at once. The draft is the rest of the response that training taught, so a model that learnt it
needs two passes, packed. What has not ended then is stepped through, and the text is the same either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from netgpt.trainers.language.model import attention
from netgpt.trainers.language.model.netgpt import PackedLM
from netgpt.trainers.language.samples import Samples
from netgpt.trainers.language.scoring import over_all
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.tasks.base import Task

EXTRA_TOKENS = 4
"""A text may be so much longer than the longest response before it is cut."""
DRAFTED_PASSES = 2
"""The answer is another than the draft's in all but one case, and the second pass has the right one."""
STEPPED_TOKENS = 4
"""Times as many tokens run at once as in training where texts are stepped through: nothing is kept for
backward, and a step takes as long for many texts as for a few."""
UNPARSED = -1


class Draws(Protocol):
    """Chooses tokens at random, for `num` texts of a sample."""

    @property
    def num(self) -> int: ...

    def token(self, logits_V: np.ndarray, sample: int, draw: int, position: int) -> int:
        """The token at a position of one of a sample's texts. logits_V: −inf for those that no text has."""
        ...


class Generator:
    """Texts of a model. Tokens that no text has (graph tokens, spare rows) are never chosen."""

    def __init__(
        self,
        model: PackedLM,
        samples: Samples,
        budget: int,
        responses: Sequence[np.ndarray] = (),
        max_new: int = 0,
        draws: Draws | None = None,
    ) -> None:
        """responses: drafts of what may be written. max_new: tokens at most, where they are more than any of
        these has. draws: what chooses; None: the likeliest."""
        self.model, self.samples, self.budget, self.draws = model, samples, budget, draws
        self.responses = list(responses)
        self.max_new = max([max_new, *(len(one) + EXTRA_TOKENS for one in self.responses)])
        self.ends = samples.builder.ends

    def _draft(self, text: list[int]) -> list[int]:
        """What is left of the first response that begins as the text does."""
        for response in self.responses:
            if response[: len(text)].tolist() == text:
                return list(response[len(text) :].tolist())
        return []

    @torch.no_grad()
    def tokens(self, chosen: list[int]) -> list[list[int]]:
        """Generated tokens of each of the given samples, the end included."""
        texts: dict[int, list[int]] = {i: [] for i in chosen}
        open_ = list(chosen)
        for _ in range(DRAFTED_PASSES if self.responses else 0):
            for pack in self._packs(open_):
                self._advance(pack, texts)
            open_ = [i for i in open_ if not self._ended(texts[i])]
        self._step_through(open_, {i: [text] for i, text in texts.items()})
        return [texts[i] for i in chosen]

    @torch.no_grad()
    def drawn(self, chosen: list[int]) -> list[list[list[int]]]:
        """Tokens of all drawn texts of each sample given, ends included. Prompts are computed once."""
        assert self.draws is not None
        made: dict[int, list[list[int]]] = {i: [] for i in chosen}
        longest = int((self.samples.lengths[chosen] + self.max_new).max()) if chosen else 1
        at_once = max(1, self.budget // longest)  # of one sample
        for first in range(0, self.draws.num, at_once):
            num = min(at_once, self.draws.num - first)
            texts: dict[int, list[list[int]]] = {i: [[] for _ in range(num)] for i in chosen}
            self._step_through(chosen, texts, first)
            for i in chosen:
                made[i] += texts[i]
        return [made[i] for i in chosen]

    def _step_through(self, chosen: list[int], texts: Mapping[int, list[list[int]]], first: int = 0) -> None:
        """first: number of the first of the draws."""
        if not chosen:
            return
        self.model.use_attention("sdpa")
        try:
            for pack in self._packs(chosen, len(texts[chosen[0]])):
                self._step(pack, texts, first)
        finally:
            self.model.use_attention(attention.NAME)

    def _ended(self, text: list[int]) -> bool:
        return len(text) >= self.max_new or (bool(text) and text[-1] in self.ends)

    def _packs(self, chosen: list[int], num: int = 1) -> list[list[int]]:
        """Samples of like lengths, as many as fit the budget where all are as long as the longest. num: texts
        of each, whose tokens are kept."""
        lengths = (self.samples.lengths + self.max_new) * num
        packs: list[list[int]] = []
        for i in sorted(chosen, key=lambda i: -int(lengths[i])):
            if packs and (len(packs[-1]) + 1) * int(lengths[packs[-1][0]]) <= self.budget:
                packs[-1].append(i)
            else:
                packs.append([i])
        return packs

    def _step(self, pack: list[int], texts: Mapping[int, list[list[int]]], first: int) -> None:
        """Grow each sample's texts, which are alike so far, to their ends, token by token, with what was
        computed kept (B samples, then all their texts)."""
        batch = self.samples.batch(pack, [np.array(texts[i][0], np.int64) for i in pack])
        lengths, device = batch.lengths, batch.input_ids_L.device
        longest = max(lengths)
        pads = [longest - n for n in lengths]
        x_BLH = torch.stack(
            [
                F.pad(x, (0, 0, pad, 0))
                for x, pad in zip(self.model.embed(batch).split(lengths), pads, strict=True)
            ]
        )
        rope = batch.position_ids_3L.split(lengths, dim=1)
        place_3BL = torch.stack([F.pad(p, (pad, 0)) for p, pad in zip(rope, pads, strict=True)], dim=1)
        mask_BL = torch.stack([torch.arange(longest, device=device) >= pad for pad in pads]).long()
        mask_BL = F.pad(mask_BL, (self.model.num_prefix, 0), value=1)
        cache = self.model.new_cache(len(pack))
        h_BLH = self.model.decode(x_BLH, place_3BL, mask_BL, cache)
        num = len(texts[pack[0]])
        if num > 1:
            cache.batch_repeat_interleave(num)
            h_BLH, mask_BL = (x.repeat_interleave(num, dim=0) for x in (h_BLH[:, -1:], mask_BL))
            place_3BL = place_3BL.repeat_interleave(num, dim=1)
        rows = [(i, draw, texts[i][draw]) for i in pack for draw in range(num)]
        while True:
            choice_B = self._choose(h_BLH[:, -1], [(i, first + draw, len(text)) for i, draw, text in rows])
            for (_, _, text), token in zip(rows, choice_B.tolist(), strict=True):
                if not self._ended(text):
                    text.append(token)
            if all(self._ended(text) for _, _, text in rows):
                return
            x_BLH = self.model.text.embed_tokens(choice_B)[:, None]
            place_3BL = place_3BL[:, :, -1:] + 1
            mask_BL = F.pad(mask_BL, (0, 1), value=1)
            h_BLH = self.model.decode(x_BLH, place_3BL, mask_BL, cache)

    def _choose(self, h_rH: torch.Tensor, places: Sequence[tuple[int, int, int]] = ()) -> torch.Tensor:
        """The token of each, the likeliest that a text may have or one that is drawn: [r]. places: of each
        the sample, the draw and the position in its text."""
        logits_rV = self.model.logits(h_rH)
        builder, num = self.samples.builder, logits_rV.shape[-1]
        logits_rV[:, builder.num_entries :] = -torch.inf
        logits_rV[:, [i for i in builder.never_said if i < num]] = -torch.inf  # some lie behind all rows
        if self.draws is None:
            return logits_rV.argmax(-1)
        rows = zip(logits_rV.cpu().numpy(), places, strict=True)
        return torch.tensor([self.draws.token(row, *place) for row, place in rows], device=h_rH.device)

    def _advance(self, pack: list[int], texts: dict[int, list[int]]) -> None:
        """One pass: each sample's text grows by what of its draft was right, and one token."""
        # The last token of a draft needs no pass of its own: nothing is asked after it
        tries = [texts[i] + self._draft(texts[i])[:-1] for i in pack]
        batch = self.samples.batch(pack, [np.array(t, np.int64) for t in tries])
        h_LH = self.model.hidden_states(batch)
        begin = (batch.begin_n + batch.prompt_n - 1).tolist()
        places = [
            at + torch.arange(len(texts[i]), len(t) + 1) for i, t, at in zip(pack, tries, begin, strict=True)
        ]
        chosen_r = self._choose(h_LH[torch.cat(places).to(h_LH.device)])
        choices = chosen_r.cpu().split([len(p) for p in places])
        for i, attempt, choice in zip(pack, tries, choices, strict=True):
            for offset, token in enumerate(choice.tolist()):
                position = len(texts[i])
                texts[i].append(token)
                if self._ended(texts[i]) or offset + 1 == len(choice) or token != attempt[position]:
                    break

    def texts(self, chosen: list[int]) -> list[str]:
        return [self.samples.builder.text(tokens) for tokens in self.tokens(chosen)]


def generated_choices(
    model: PackedLM, task: Task, samples: Samples, budget: int, progress: OnProgress | None = None
) -> np.ndarray:
    """The choice that each sample's greedy text states, UNPARSED where none: [n] int64, on every rank."""
    builder = samples.builder
    responses = [builder.response(i) for i in range(builder.num_choices)]
    generator = Generator(model, samples, budget, responses)

    def run(pack: list[int]) -> torch.Tensor:
        parsed = [task.parse(text) for text in generator.texts(pack)]
        return torch.tensor([[UNPARSED if c is None else c] for c in parsed], device=samples.device)

    packs = passes_of(samples, budget, generator)
    return over_all(model, samples, packs, 1, run, progress)[:, 0].astype(np.int64)


def written_numbers(
    model: PackedLM, task: Task, samples: Samples, budget: int, progress: OnProgress | None = None
) -> np.ndarray:
    """The number that each sample's greedy text states, NaN where none: [n] float64, on every rank."""
    generator, packs = number_writer(model, task, samples, budget)

    def run(pack: list[int]) -> torch.Tensor:
        read = [stated_number(samples.builder, task, tokens) for tokens in generator.tokens(pack)]
        return torch.tensor([[np.nan if x is None else x] for x in read], dtype=torch.float64)

    return over_all(model, samples, packs, 1, run, progress)[:, 0]


def mean_numbers(
    model: PackedLM,
    task: Task,
    samples: Samples,
    budget: int,
    draws: Draws,
    progress: OnProgress | None = None,
) -> np.ndarray:
    """The mean of the numbers that each sample's drawn texts state, NaN where none does: [n] float64, on
    every rank."""
    generator, packs = number_writer(model, task, samples, budget, draws)

    def mean(texts: list[list[int]]) -> float:
        read = [stated_number(samples.builder, task, tokens) for tokens in texts]
        known = [number for number in read if number is not None]
        return sum(known) / len(known) if known else np.nan

    def run(pack: list[int]) -> torch.Tensor:
        return torch.tensor([[mean(texts)] for texts in generator.drawn(pack)], dtype=torch.float64)

    return over_all(model, samples, packs, 1, run, progress)[:, 0]


def number_writer(
    model: PackedLM, task: Task, samples: Samples, budget: int, draws: Draws | None = None
) -> tuple[Generator, list[list[int]]]:
    """What writes a number for each sample, and this rank's packs. budget: tokens of a pack in training."""
    budget *= STEPPED_TOKENS
    generator = Generator(model, samples, budget, max_new=longest_written(samples, task), draws=draws)
    return generator, passes_of(samples, budget, generator)


def stated_number(builder: PromptBuilder, task: Task, tokens: list[int] | np.ndarray) -> float | None:
    """The number that generated tokens state; None where they state none, or were cut before their end."""
    return task.read(builder.text(tokens)) if int(tokens[-1]) in builder.ends else None


def longest_written(samples: Samples, task: Task) -> int:
    """Tokens of a written answer, at most."""
    return len(samples.builder.written(task.longest_written)) + EXTRA_TOKENS


def passes_of(samples: Samples, budget: int, generator: Generator) -> list[list[int]]:
    """Training has room for a response; a text may be a few tokens longer."""
    largest = int(samples.lengths.max(initial=0)) + generator.max_new
    return list(samples.passes(max(budget, largest), generator.max_new))
