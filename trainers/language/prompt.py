"""A record as the tokens of NetGPT's instruction, and the response that stage 2 learns.

The text is tokenised in pieces that are always the same (the instruction's head, the graph token,
the request, the record, the closing): pieces give other ids than one whole text would, so there is
one way. A record's own text is never read as special tokens.

Source of the wording: NetGPT paper, sections 4.2 and 4.3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from graphstore.xsvideo.records import COMMENT_TIME, COMMENTS, SAMPLING_DATE, TIME_FORM
from trainers.errors import TrainerError
from trainers.schedule import seed_of

GRAPH_START, GRAPH_PAD, GRAPH_END = "<|graph_start|>", "<|graph_pad|>", "<|graph_end|>"
GRAPH_TOKENS = (GRAPH_START, GRAPH_PAD, GRAPH_END)
_HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nGraph: "
_REQUEST = (
    ". Please read the following json format information about the short-video and predict the final "
    "propagation influence level (levels 0~9) of the short video: "
)
_CLOSE = "<|im_end|>\n<|im_start|>assistant\n"
_RESPONSE = "The influence level of this short-video is "
_RESPONSE_END = "<|im_end|>"
NUM_LEVELS = 10
INSTRUCTION_TEXTS = (_HEAD, _REQUEST, _CLOSE, *(_RESPONSE + str(level) for level in range(NUM_LEVELS)))
"""What every sample says besides its record: a self-trained tokenizer has to know it."""


@dataclass(frozen=True)
class Prompt:
    """ids [L] int64: the instruction up to the newline after the assistant marker."""

    ids: np.ndarray
    num_comments: int
    num_cut_tokens: int  # of the record's end, where even no comments were too long


def visible_record(text: str) -> dict[str, Any]:
    """A stored record as a model may see it: comments of after the sampling date are left out."""
    record = json.loads(text)
    end = datetime.strptime(record[SAMPLING_DATE], "%Y-%m-%d") + timedelta(days=1)
    record[COMMENTS] = {
        key: comment
        for key, comment in record[COMMENTS].items()
        if datetime.strptime(comment[COMMENT_TIME], TIME_FORM) < end
    }
    return dict(record)


class PromptBuilder:
    """Makes prompts with one tokenizer; adds the graph tokens to it where it lacks them."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int, max_comments: int, seed: int
    ) -> None:
        tokenizer.add_tokens(list(GRAPH_TOKENS), special_tokens=True)
        self.tokenizer = tokenizer
        self.max_tokens, self.max_comments, self.seed = max_tokens, max_comments, seed
        self.start_id, self.pad_id, self.end_id = (self._id(token) for token in GRAPH_TOKENS)
        head = [*self._special(_HEAD), self.start_id, self.pad_id, self.end_id]
        self.graph_position = len(head) - 2
        """Position of `<|graph_pad|>`, the same in every prompt."""
        self._before = head + self._special(_REQUEST)
        self._after = self._special(_CLOSE)
        self._responses = [
            np.array(self._special(_RESPONSE + str(level) + _RESPONSE_END), np.int64)
            for level in range(NUM_LEVELS)
        ]
        self._num_tail = len(self._special(_RESPONSE_END))
        longest = max(len(r) for r in self._responses)
        self._room = max_tokens - len(self._before) - len(self._after) - longest
        if self._room < 16:
            raise TrainerError(
                f"language.max_tokens: found {max_tokens}, expected at least {max_tokens - self._room + 16} "
                "(the instruction and the response leave no room for a record)"
            )

    def _id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(found, int)
        return found

    def _special(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def _plain(self, record: dict[str, Any]) -> list[int]:
        text = json.dumps(record, ensure_ascii=False)
        return list(self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))

    def prompt(self, record_id: str, text: str) -> Prompt:
        """The prompt of a stored record. At most `max_comments` comments, drawn by (seed, id); then
        fewer comments, then the record's end is cut, until it fits `max_tokens`."""
        record = visible_record(text)
        comments = list(record[COMMENTS].items())
        rng = np.random.default_rng(seed_of(self.seed, "comments", record_id))
        drawn = rng.permutation(len(comments))[: self.max_comments]
        while True:
            record[COMMENTS] = dict(comments[i] for i in sorted(drawn))
            ids = self._plain(record)
            if len(ids) <= self._room or len(drawn) == 0:
                break
            drawn = drawn[: len(drawn) * 3 // 4]
        cut = max(0, len(ids) - self._room)
        whole = self._before + ids[: self._room] + self._after
        return Prompt(np.array(whole, np.int64), len(drawn), cut)

    def wording(self, record_id: str, text: str) -> np.ndarray:
        """A sample's text with all but its level: the prompt and the response's words, for a warm-up."""
        stem = self._special(_RESPONSE)
        return np.concatenate([self.prompt(record_id, text).ids, np.array(stem, np.int64)])

    def response(self, level: int) -> np.ndarray:
        """Tokens that follow the prompt of a record of this level, closing marker included."""
        return self._responses[level]

    def scored_response(self, level: int) -> np.ndarray:
        """The response up to and with its level, without the closing marker."""
        return self._responses[level][: -self._num_tail]
