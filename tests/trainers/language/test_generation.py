"""Greedy generation against one token a pass, and what counts as a level."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language import generation
from netgpt.trainers.language.generation import UNPARSED, Generator, generated_choices
from netgpt.trainers.language.model.netgpt import NetGPT, PackedLM
from netgpt.trainers.language.samples import Samples
from netgpt.trainers.language.scoring import score_samples
from tests.reference import rating

TASK = rating()


def greedy_by_hand(model: PackedLM, samples: Samples, i: int, num: int, ends: set[int]) -> list[int]:
    """One token a pass, chosen among all that a text may have."""
    out: list[int] = []
    while len(out) < num and (not out or out[-1] not in ends):
        batch = samples.batch([i], [np.array(out, np.int64)])
        logits = model.logits(model.hidden_states(batch)[-1:])[0, : len(samples.builder.tokenizer)]
        for token in ("graph_start", "graph_pad", "graph_end", "image_pad", "video_pad", "vision_pad"):
            logits[samples.builder.tokenizer.convert_tokens_to_ids(f"<|{token}|>")] = -torch.inf
        out.append(int(logits.argmax()))
    return out


def drafts(samples: Samples) -> list[np.ndarray]:
    return [samples.builder.response(i) for i in range(samples.builder.num_choices)]


class _Taught(PackedLM):
    """A model that answers with given texts: its logits are one-hot."""

    def __init__(self, base: PreTrainedModel, answers: dict[int, np.ndarray], vocab: int) -> None:
        super().__init__(base)
        self.answers, self.vocab = answers, vocab

    def hidden_states(self, batch: Any) -> torch.Tensor:
        rows = torch.zeros(len(batch.input_ids_L), self.vocab)
        for n, begin in enumerate(batch.begin_n.tolist()):
            answer = self.answers[round(float(batch.graph_nD[n, 0]), 4)]
            for place in range(int(batch.prompt_n[n]) - 1, batch.lengths[n]):
                step = place - int(batch.prompt_n[n]) + 1
                rows[begin + place, int(answer[min(step, len(answer) - 1)])] = 1.0
        return rows

    def logits(self, h_rH: torch.Tensor) -> torch.Tensor:
        return h_rH.clone()


@torch.no_grad()
def test_generation_is_greedy_decoding(netgpt: NetGPT, samples: Samples) -> None:
    generator = Generator(netgpt, samples, 2000, drafts(samples))
    chosen = [0, 3, 5, 9, 1]
    for i, found in zip(chosen, generator.tokens(chosen), strict=True):
        assert found == greedy_by_hand(netgpt, samples, i, generator.max_new, generator.ends)


@torch.no_grad()
def test_a_model_may_have_no_rows_for_graph_tokens(
    netgpt: NetGPT, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real model whose vocabulary is full: their ids lie behind its last row."""
    num, whole = netgpt.start_id, netgpt.logits
    builder = samples.builder
    assert max(builder.never_said) >= num
    monkeypatch.setattr(netgpt, "logits", lambda h_rH: whole(h_rH)[:, :num])
    generator = Generator(netgpt, samples, 2000, drafts(samples))
    (found,) = generator.tokens([3])
    text: list[int] = []
    while len(text) < generator.max_new and (not text or text[-1] not in generator.ends):
        batch = samples.batch([3], [np.array(text, np.int64)])
        logits = whole(netgpt.hidden_states(batch)[-1:])[0, :num]
        logits[[i for i in builder.never_said if i < num]] = -torch.inf
        text.append(int(logits.argmax()))
    assert found == text


@torch.no_grad()
def test_generation_of_taught_untaught_and_wrong_texts(
    netgpt: NetGPT, samples: Samples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "DRAFTED_PASSES", 99)  # the taught model has no cache to step with
    builder = samples.builder
    tokenizer = builder.tokenizer
    end = builder.response(0)[-1:]

    def spoken(text: str) -> np.ndarray:
        return np.concatenate([np.array(tokenizer.encode(text), np.int64), end])

    assert samples.graph is not None
    says = [
        (builder.response(7), 7),
        (builder.response(0), 0),
        (spoken("level 3."), 3),
        (spoken("The influence level of this short-video is 12"), UNPARSED),
        (spoken("I do not know"), UNPARSED),
        (np.array(tokenizer.encode("a"), np.int64), UNPARSED),  # never ends
        (builder.response(5)[:-1], UNPARSED),  # repeats its level
    ]
    ids = np.arange(len(says))
    own = replace(samples, ids=ids)
    keys = [round(float(x), 4) for x in samples.graph.rows(ids)[:, 0]]
    model = _Taught(netgpt.base, dict(zip(keys, (s for s, _ in says), strict=True)), builder.num_known + 8)
    assert generated_choices(model, TASK, own, 3000).tolist() == [level for _, level in says]
    for text, (tokens, _) in zip(Generator(model, own, 3000).tokens(list(ids)), says, strict=True):
        assert text == tokens[: len(text)].tolist() or text[: len(tokens)] == tokens.tolist()


def test_parsing_guesses_nothing() -> None:
    said = {"The influence level of this short-video is 4": 4, "9": 9, "level: 0.": 0}
    wrong = ("", "12", "3 or 4", "4.5", "level four", "-", "it is 10", "1,000")
    assert {text: TASK.parse(text) for text in said} == said
    assert [TASK.parse(text) for text in wrong] == [None] * len(wrong)


def test_evaluation_has_room_where_training_had(netgpt: NetGPT, samples: Samples) -> None:
    """The budget is the longest sample with its response: generation may write a little more."""
    longest = max(len(samples.builder.response(n)) for n in range(10))
    budget = int(samples.lengths.max()) + longest
    own = replace(samples, ids=samples.ids[:3])
    assert len(generated_choices(netgpt, TASK, own, budget)) == 3
    with pytest.raises(
        TrainerError, match=r"record '\d+': found \d+ tokens, expected at most .*token_budget"
    ):
        score_samples(netgpt, samples, int(samples.lengths.max()) - 1)
