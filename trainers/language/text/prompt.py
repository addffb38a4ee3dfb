"""A node's document as the tokens of an instruction, and the responses that an answer is learnt by.

The text is tokenised in pieces that are always the same: the turns of the model's chat template, the
graph token, the request, and of the record each field for itself. Pieces give other ids than one whole
text would, so there is one way; and a field can be left out of a prompt without tokenising it again.
A record's own text is never read as special tokens.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from netgpt.graphstore import Document
from netgpt.graphstore.files import value_digest
from netgpt.graphstore.mixing import seed_of
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.language.text import VERSION
from netgpt.trainers.language.text.form import JsonForm, form_of
from netgpt.trainers.language.text.template import GRAPH, ChatTurns, Words

GRAPH_START, GRAPH_PAD, GRAPH_END = "<|graph_start|>", "<|graph_pad|>", "<|graph_end|>"
GRAPH_TOKENS = (GRAPH_START, GRAPH_PAD, GRAPH_END)
PLACES = ("<|image_pad|>", "<|video_pad|>", "<|vision_pad|>")
"""Tokens of a Qwen2-VL that stand where pixels go."""
AT_ONCE = 1024
"""Records whose texts are in memory at once."""
_DRAWS = "comments"
"""Name of the stream that items are drawn by: results depend on it."""


@dataclass(frozen=True)
class RecordTokens:
    """A record's tokens, field by field, without the braces and commas between them."""

    ids: np.ndarray
    """[T] int32"""
    ends: np.ndarray
    """[p] int64: where each piece ends in `ids`."""
    fields: np.ndarray
    """[p] int8: position in the document."""
    num_items: int = 0
    dropped_items: bool = False
    """Whether fewer than were drawn, or fewer neighbours, are in it, for its length."""
    cut_characters: int = 0
    """Characters that texts lost, where even no items were too long."""


@dataclass(frozen=True)
class Prompt:
    """ids [L] int64: the instruction up to what the assistant begins with."""

    ids: np.ndarray
    tokens: RecordTokens


def visible_record(document: Document, text: str) -> dict[str, Any]:
    """A stored record as a model may see it: items of after the document's own day are left out."""
    record = json.loads(text)
    for field in document.fields:
        items = field.items
        if items is None or field.name not in record:
            continue
        end = datetime.strptime(record[items.until], items.until_form) + timedelta(days=1)
        record[field.name] = {
            key: item
            for key, item in record[field.name].items()
            if datetime.strptime(item[items.time], items.time_form) < end
        }
    return dict(record)


class PromptBuilder:
    """Makes prompts with one tokenizer; adds the graph tokens to it where it lacks them.

    max_comments: items drawn of a field that has items. with_graph: whether prompts have the graph's part;
    the paper's text baselines do not.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        document: Document,
        words: Words,
        *,
        max_tokens: int,
        max_comments: int,
        seed: int,
        with_graph: bool = True,
    ) -> None:
        tokenizer.add_tokens(list(GRAPH_TOKENS), special_tokens=True)
        vocabulary = tokenizer.get_vocab()
        self.num_entries = 1 + max(vocabulary.values())
        self.num_known = 1 + max(i for token, i in vocabulary.items() if token not in GRAPH_TOKENS)
        """Ids that a model has to have rows for: all but the graph tokens', which may lie behind them."""
        self.never_said = [vocabulary[token] for token in (*GRAPH_TOKENS, *PLACES) if token in vocabulary]
        """Ids that stand for something else than text: no answer has them."""
        self.tokenizer, self.document = tokenizer, document
        self._place = {field.name: i for i, field in enumerate(document.fields)}
        self._items = next((field.name for field in document.fields if field.items), None)
        cuts = sorted((field for field in document.fields if field.cut), key=lambda field: field.cut)
        self._cuts = [field.name for field in cuts]
        # In sentences texts are cut, those of neighbours too, level by level, before any neighbour goes
        self._levels = _cut_levels(document)
        self._lists = {field.name: field.newest for field in document.fields if field.newest}
        self._form = form_of(document)
        self.max_tokens, self.max_comments, self.seed = max_tokens, max_comments, seed
        self.with_graph = with_graph
        self.start_id, self.pad_id, self.end_id = (self._id(token) for token in GRAPH_TOKENS)
        turns = ChatTurns.of(tokenizer)
        self._open = self._special(turns.before)
        head = [*self._special(GRAPH), self.start_id, self.pad_id, self.end_id]
        with_room = [*self._open, *head, *self._special(". " + words.request)]
        self._before = with_room if with_graph else [*self._open, *self._special(words.request)]
        self.graph_position = len(self._open) + len(head) - 2 if with_graph else None
        """Position of `<|graph_pad|>`, the same in every prompt without video."""
        self._after = self._special(turns.between)
        form = self._form
        self._brace, self._comma, self._close = (
            np.array(self._special(text), np.int32) for text in (form.opening, form.between, form.closing)
        )
        self._responses = [
            np.array(self._special(response + turns.after), np.int64) for response in words.responses
        ]
        self._num_tail = len(self._special(turns.after))
        self._words, self._turn_end = words, turns.after
        ends = tokenizer.eos_token_id, self._special(turns.after)[-1]
        self.ends = {int(end) for end in ends if end is not None}
        """Tokens that end a response: that of the template's turn, and the tokenizer's own."""
        longest = max((len(r) for r in self._responses), default=0)
        if words.longest:
            longest = max(longest, len(self.written(words.longest)))
        # Of the prompt with the graph's part in both: one token cache serves both
        self._room = max_tokens - len(with_room) - len(self._after) - longest
        if self._room < 16:
            raise TrainerError(
                f"language.max_tokens: found {max_tokens}, expected at least {max_tokens - self._room + 16} "
                "(the instruction and the response leave no room for a record)"
            )
        self.digest = value_digest(
            [
                VERSION,
                [self._open, with_room, self._after, *(r.tolist() for r in self._responses)],
                tokenizer_digest(tokenizer),
                [max_tokens, max_comments, seed],
                *([said] if (said := form.to_json()) is not None else []),
            ]
        )
        """Digest of everything that a record's tokens depend on besides the record."""

    def _id(self, token: str) -> int:
        token_id = self.tokenizer.convert_tokens_to_ids(token)
        assert isinstance(token_id, int)
        return token_id

    def _special(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _plain(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        # Not the tokenizer's own call, which makes masks and offsets for every field of every record: half
        # of the time. The flag is what its split_special_tokens sets
        backend = self.tokenizer.backend_tokenizer
        backend.encode_special_tokens = True
        try:
            return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = False

    def tokenize(self, records: Iterable[tuple[str, str]]) -> list[RecordTokens]:
        """Tokens of stored records, given as (id, JSON text). At most `max_comments` items each, drawn by
        (seed, id) and kept in the record's order; then fewer items, then the oldest neighbours and the ends
        of texts that may be cut go, until it fits `max_tokens`. TrainerError where the rest does not fit."""
        records_tokens: list[RecordTokens] = []
        source = iter(records)
        while part := list(islice(source, AT_ONCE)):  # whole texts of few records at a time
            records_tokens += self._tokenize(part)
        return records_tokens

    def _tokenize(self, records: list[tuple[str, str]]) -> list[RecordTokens]:
        drafts = []
        for record_id, text in records:
            record = visible_record(self.document, text)
            items = list(record[self._items].items()) if self._items in record else []
            rng = np.random.default_rng(seed_of(self.seed, _DRAWS, record_id))
            drawn = rng.permutation(len(items))[: self.max_comments]
            self._keep_items(record, items, drawn)
            drafts.append((record_id, record, items, drawn))
        pieces = iter(self._plain([p for _, record, _, _ in drafts for p in self._form.pieces(record)]))
        made = []
        for record_id, record, items, drawn in drafts:
            first = [next(pieces) for _ in record]
            made.append(self._fit(record_id, record, items, drawn, first))
        return made

    def _keep_items(self, record: dict[str, Any], items: list[tuple[str, Any]], kept: np.ndarray) -> None:
        if self._items in record:
            record[self._items] = dict(items[i] for i in sorted(kept))

    def _pieces(self, record: dict[str, Any]) -> list[list[int]]:
        return self._plain(self._form.pieces(record))

    def _size(self, pieces: Sequence[Sequence[int]]) -> int:
        between = len(self._comma) * max(0, len(pieces) - 1)
        return sum(map(len, pieces)) + between + len(self._brace) + len(self._close)

    def _fit(
        self,
        record_id: str,
        record: dict[str, Any],
        items: list[tuple[str, Any]],
        drawn: np.ndarray,
        pieces: list[list[int]],
    ) -> RecordTokens:
        num_drawn = len(drawn)
        while self._size(pieces) > self._room and len(drawn):
            drawn = drawn[: len(drawn) * 3 // 4]
            self._keep_items(record, items, drawn)
            pieces = self._pieces(record)
        cut = 0
        for level in self._levels:
            if self._size(pieces) > self._room:
                record, pieces, lost = self._cut_level(record, level)
                cut += lost
        lists = {name: list(record[name]) for name in self._lists if name in record}
        num_dropped = 0
        if lists and self._size(pieces) > self._room:
            order = _longest_first({name: len(one) for name, one in lists.items()})

            def fits(num: int) -> bool:
                return self._size(self._pieces(self._shortened(record, lists, order[:num]))) <= self._room

            num_dropped = bisect_left(range(len(order)), True, key=fits)
            record = self._shortened(record, lists, order[:num_dropped])
            pieces = self._pieces(record)
        for name in self._cuts:
            if self._size(pieces) <= self._room or not record.get(name):
                continue
            whole, kept, top = str(record[name]), 0, len(str(record[name]))
            while kept < top:  # the longest beginning that fits
                middle = (kept + top + 1) // 2
                record[name] = whole[:middle]
                if self._size(self._pieces(record)) <= self._room:
                    kept = middle
                else:
                    top = middle - 1
            record[name] = whole[:kept]
            cut += len(whole) - kept
            pieces = self._pieces(record)
        if self._size(pieces) > self._room:
            size = self._size(pieces) + self.max_tokens - self._room
            left_out = [*([self._items] if self._items else []), *self._lists, *self._cuts]
            without = ", ".join(left_out) or "anything"
            raise TrainerError(
                f"record {record_id!r}: found {size} tokens without {without}, expected at most "
                f"language.max_tokens ({self.max_tokens}); raise it"
            )
        return RecordTokens(
            np.array([i for p in pieces for i in p], np.int32),
            np.cumsum([len(p) for p in pieces], dtype=np.int64),
            np.array([self._place[name] for name in record], np.int8),
            len(drawn),
            len(drawn) < num_drawn or num_dropped > 0,
            cut,
        )

    def _cut_level(
        self, record: dict[str, Any], level: Sequence[tuple[str, str]]
    ) -> tuple[dict[str, Any], list[list[int]], int]:
        """The record with its texts of a level at most as long as fits, its pieces, and how many characters
        they lost."""

        def cut(most: int) -> dict[str, Any]:
            made = dict(record)
            for name, inner in level:
                if not inner and isinstance(made.get(name), str):
                    made[name] = made[name][:most]
                elif isinstance(made.get(name), list):
                    made[name] = [
                        {**one, inner: one[inner][:most]} if isinstance(one.get(inner), str) else one
                        for one in made[name]
                    ]
            return made

        lengths = [len(text) for text in _texts(record, level)]
        kept, top = 0, max(lengths, default=0)
        while kept < top:
            middle = (kept + top + 1) // 2
            if self._size(self._pieces(cut(middle))) <= self._room:
                kept = middle
            else:
                top = middle - 1
        made = cut(kept)
        return made, self._pieces(made), sum(max(0, num - kept) for num in lengths)

    def _shortened(
        self, record: dict[str, Any], lists: dict[str, list[Any]], dropped: Sequence[str]
    ) -> dict[str, Any]:
        """A record without the oldest entries of lists, as often as each is named; an empty one is left
        out."""
        kept = {}
        for name, one in lists.items():
            num = len(one) - dropped.count(name)
            kept[name] = one[len(one) - num :] if self._lists[name].oldest_first else one[:num]
        return {name: kept.get(name, value) for name, value in record.items() if kept.get(name, True)}

    def assemble(self, tokens: RecordTokens, hidden: np.ndarray | None = None) -> np.ndarray:
        """The prompt of a tokenised record: [L] int64. hidden [fields] bool: fields to leave out."""
        parts: list[np.ndarray] = []
        for i, (name, end) in enumerate(zip(tokens.fields.tolist(), tokens.ends.tolist(), strict=True)):
            if hidden is None or not hidden[name]:
                parts += [self._comma, tokens.ids[tokens.ends[i - 1] if i else 0 : end]]
        record = [self._brace, *parts[1:], self._close]
        before, after = (np.array(p, np.int64) for p in (self._before, self._after))
        return np.concatenate([before, *record, after]).astype(np.int64)

    def parts(self) -> dict[str, Any]:
        """What a prompt has besides the record's pieces: tokens before and after, around and between."""
        return {
            "form": "json" if isinstance(self._form, JsonForm) else "sentences",
            "before": list(self._before),
            "after": list(self._after),
            "opening": self._brace.tolist(),
            "between": self._comma.tolist(),
            "closing": self._close.tolist(),
            "max_tokens": self.max_tokens,
        }

    @property
    def num_open(self) -> int:
        """Tokens before the user's words; a clip comes first among these."""
        return len(self._open)

    @property
    def num_fixed(self) -> int:
        """Tokens of a prompt with no field at all."""
        return len(self._before) + len(self._after) + len(self._brace) + len(self._close)

    @property
    def num_between(self) -> int:
        """Tokens between two fields."""
        return len(self._comma)

    def prompt(self, record_id: str, text: str) -> Prompt:
        """The prompt of one stored record."""
        (tokens,) = self.tokenize([(record_id, text)])
        return Prompt(self.assemble(tokens), tokens)

    @property
    def num_choices(self) -> int:
        return len(self._responses)

    def response(self, choice: int) -> np.ndarray:
        """Tokens that follow the prompt of a record whose answer is this choice, closing marker included."""
        return self._responses[choice]

    def written(self, answer: str) -> np.ndarray:
        """A response with an answer of no list, closing marker included: [L] int64."""
        return np.array(self._special(self._words.response + answer + self._turn_end), np.int64)

    def text(self, tokens: list[int] | np.ndarray) -> str:
        """What generated tokens say."""
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def scored_response(self, choice: int) -> np.ndarray:
        """The response up to and with its answer, without the closing marker."""
        return self._responses[choice][: len(self._responses[choice]) - self._num_tail]

    def any_response(self, record_id: str, choices: np.ndarray) -> np.ndarray:
        """A response for a warm-up, with one of `choices` drawn by (seed, id): it teaches what responses look
        like and nothing of the record's own answer."""
        return self.response(int(choices[seed_of(self.seed, "wording", record_id) % len(choices)]))


def _cut_levels(document: Document) -> list[list[tuple[str, str]]]:
    """By rising level the texts that may be cut: field, and of a list the field of its neighbours. None of a
    document as JSON, of which neighbours go first."""
    if not document.is_prose:
        return []
    nested = [
        (inner.cut, field.name, inner.name)
        for field in document.fields
        if field.newest is not None
        for inner in field.newest.fields
        if inner.cut
    ]
    of_all = nested + [(field.cut, field.name, "") for field in document.fields if field.cut]
    return [
        [(name, inner) for level, name, inner in of_all if level == one]
        for one in sorted({level for level, _, _ in of_all})
    ]


def _texts(record: dict[str, Any], level: Sequence[tuple[str, str]]) -> list[str]:
    found: list[Any] = []
    for name, inner in level:
        value = record.get(name)
        found += [one.get(inner) for one in value] if inner and isinstance(value, list) else [value]
    return [one for one in found if isinstance(one, str)]


def _longest_first(lengths: dict[str, int]) -> list[str]:
    """Whose last entry goes, one after the other: each time that of the longest list."""
    left, order = dict(lengths), []
    for _ in range(sum(lengths.values())):
        name = max(left, key=lambda one: left[one])
        left[name] -= 1
        order.append(name)
    return order


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of what a fast tokenizer does, added tokens included, wherever its files lie."""
    return value_digest(json.loads(tokenizer.backend_tokenizer.to_str()))
