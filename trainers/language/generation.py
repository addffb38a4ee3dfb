"""Greedy generation over packs, and the level that a generated text states.

What greedy decoding writes is checked rather than stepped through: a pass over prompt and draft gives
the model's choice after each of the draft's tokens, and all up to the first other choice are accepted at
once. The draft is the rest of the response that training taught, so a model that learnt it needs two
passes in place of one for each token; one that did not gets a token a pass, and the same text.
"""

from __future__ import annotations

import re

import numpy as np
import torch

from trainers.language.model.netgpt import PackedLM
from trainers.language.packing import plan
from trainers.language.samples import Samples
from trainers.language.scoring import Progress, over_all
from trainers.language.text.template import NUM_LEVELS

EXTRA_TOKENS = 4
"""A text may be so much longer than the longest response before it is cut."""
UNPARSED = -1
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


def parse_level(text: str) -> int:
    """The one number of a text, if it is a level; else UNPARSED. Nothing is guessed."""
    numbers = _NUMBER.findall(text)
    if len(numbers) != 1 or not re.fullmatch(r"[0-9]", numbers[0]):
        return UNPARSED
    return int(numbers[0])


class Generator:
    """Greedy texts of a model. Tokens that no text has (graph tokens, spare rows) are never chosen."""

    def __init__(self, model: PackedLM, samples: Samples, budget: int) -> None:
        self.model, self.samples, self.budget = model, samples, budget
        self.responses = [samples.builder.response(level) for level in range(NUM_LEVELS)]
        self.max_new = max(map(len, self.responses)) + EXTRA_TOKENS
        ends = samples.builder.tokenizer.eos_token_id, int(self.responses[0][-1])
        self.ends = {int(end) for end in ends if end is not None}

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
        while open_:
            lengths = self.samples.lengths[open_] + self.max_new
            steps = plan(lengths, budget=max(self.budget, int(lengths.max())), packs_per_step=1, seed=(0,))
            for step in steps:
                self._advance([open_[j] for j in step.samples], texts)
            open_ = [i for i in open_ if texts[i][-1] not in self.ends and len(texts[i]) < self.max_new]
        return [texts[i] for i in chosen]

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
        logits_rV = self.model.logits(h_LH[torch.cat(places).to(h_LH.device)])
        logits_rV[:, self.samples.builder.num_known :] = -torch.inf
        choices = logits_rV.argmax(-1).cpu().split([len(p) for p in places])
        for i, attempt, choice in zip(pack, tries, choices, strict=True):
            for offset, token in enumerate(choice.tolist()):
                position = len(texts[i])
                texts[i].append(token)
                done = token in self.ends or len(texts[i]) >= self.max_new
                if done or offset + 1 == len(choice) or token != attempt[position]:
                    break

    def texts(self, chosen: list[int]) -> list[str]:
        tokenizer = self.samples.builder.tokenizer
        return [str(tokenizer.decode(t, skip_special_tokens=True)) for t in self.tokens(chosen)]


def generated_levels(
    model: PackedLM, samples: Samples, budget: int, progress: Progress | None = None
) -> np.ndarray:
    """The level that each sample's greedy text states, UNPARSED where none: [n] int64, on every rank."""
    generator = Generator(model, samples, budget)

    def run(pack: list[int]) -> torch.Tensor:
        return torch.tensor([[parse_level(text)] for text in generator.texts(pack)], device=samples.device)

    packs = list(samples.passes(budget, generator.max_new))
    return over_all(model, samples, packs, 1, run, progress)[:, 0].astype(np.int64)
