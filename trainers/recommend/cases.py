"""Cases: lists of candidates of a user, of which a prompt asks what comes next.

The candidates are what the recommender ranks first among all that a user has not in train: a pair that is
held out is in a list by its rank or not at all, and nothing tells it. A case to learn from takes a pair of
train back: its item is in the race again, and the prompt shows what the user took before.

Legend: n cases, C candidates, U users, I items, p pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from netgpt.graphstore import Document
from netgpt.graphstore.document_types import Field, Newest
from netgpt.graphstore.documents import documents
from netgpt.graphstore.files import atomic_file
from netgpt.graphstore.mixing import seed_of
from netgpt.trainers.errors import require
from netgpt.trainers.recommend.config import RerankConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.pairs import Pairs, hashes, pair_hashes
from netgpt.trainers.recommend.ranking import BLOCK_BYTES, ScoresOf, top_items
from netgpt.trainers.tasks.ranking import LETTERS

RULE = "cases-1"
"""Name and version of the way in which lists are made."""


@dataclass(frozen=True)
class Cases:
    """Users, each with a list in an order by (seed, user, item)."""

    users: np.ndarray
    """[n] int64."""
    candidates: np.ndarray
    """[n, C] int64 items, −1 behind the last where there are fewer."""
    scores: np.ndarray
    """[n, C] float32: the recommender's, NaN there."""
    answers: np.ndarray
    """[n] int64: the place of what comes next, −1 where none of the list is known to."""
    shown: np.ndarray
    """[n, 2] int64: first and last, not included, of what the prompt shows, in `Interactions.history`."""

    def __len__(self) -> int:
        return len(self.users)

    @staticmethod
    def none(num: int) -> Cases:
        """No case of `num` candidates."""
        no = np.empty(0, np.int64)
        return Cases(no, no.reshape(0, num), np.empty((0, num), np.float32), no, no.reshape(0, 2))

    @staticmethod
    def joined(a: Cases, b: Cases) -> Cases:
        """Both's, one behind the other."""
        return Cases(*(np.concatenate([getattr(a, f.name), getattr(b, f.name)]) for f in fields(Cases)))

    def some(self, chosen: np.ndarray) -> Cases:
        """Those of some places [m]."""
        return Cases(*(getattr(self, f.name)[chosen] for f in fields(Cases)))

    def save(self, path: Path) -> None:
        """Write a file, whole or not at all."""
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **{f.name: getattr(self, f.name) for f in fields(Cases)})

    @staticmethod
    def load(path: Path) -> Cases:
        with np.load(path) as arrays:
            return Cases(*(arrays[f.name] for f in fields(Cases)))


def item_document(data: Interactions) -> Document:
    """How prompts tell items. TrainerError where items have no texts."""
    document = data.store.schema.document(data.item_type)
    where = f"{data.store.path}: {data.item_type}"
    require(document is not None, where, "no texts", "some, for prompts (items: texts: of a description)")
    assert document is not None
    return document


def case_document(data: Interactions, config: RerankConfig) -> Document:
    """The JSON object that a prompt shows of a case. Of one that is too long the earliest items go."""
    newest = Newest(data.reverse, config.history, item_document(data).fields)
    return Document(data.user_type, "", (Field("history", free=True, newest=newest), Field("candidates")))


def records(data: Interactions, cases: Cases, config: RerankConfig) -> Iterator[tuple[str, str]]:
    """(user's id, JSON text) of each case: the items of `history`, the latest first, and `candidates` by
    letter. An item of one text is that text, of several an object of them, of none its id."""
    ids = data.store.node_names(data.user_type)
    history = [data.history[1][first:last][::-1].tolist() for first, last in cases.shown]
    used = sorted({*cases.candidates.ravel().tolist(), *(item for row in history for item in row)} - {-1})
    told = documents(data.store, item_document(data), used)
    texts = {item: _told(*one, config.characters) for item, one in zip(used, told, strict=True)}
    for case, user in enumerate(cases.users.tolist()):
        row = cases.candidates[case]
        record = {
            "history": [texts[item] for item in history[case]],
            "candidates": {
                letter: texts[item] for letter, item in zip(LETTERS, row[row >= 0].tolist(), strict=False)
            },
        }
        yield ids[user], json.dumps(record, ensure_ascii=False)


def _told(item_id: str, document: str, characters: int) -> object:
    """What a prompt says of an item, by its document; of each text so many characters at most."""
    told = {
        name: value[:characters] if isinstance(value, str) else value
        for name, value in json.loads(document).items()
    }
    return next(iter(told.values()), item_id) if len(told) < 2 else told


def train_cases(data: Interactions, scores: ScoresOf, config: RerankConfig, num: int, seed: int) -> Cases:
    """Cases with an answer, of pairs of train that would be among the `num` first if they were none.

    Of each user the latest such pairs, with at least one before it; in the order of users and times.
    """
    indptr, history = data.history
    users = np.flatnonzero(np.diff(indptr) >= 2)
    users = users[np.argsort(hashes(users, seed_of(seed, "users")), kind="stable")]
    made: list[tuple[int, int, np.ndarray, np.ndarray]] = []  # user, place in history, items, scores
    size = max(1, BLOCK_BYTES // (4 * data.num_items))
    for first in range(0, len(users), size):
        block = users[first : first + size]
        top, kept = top_items(scores, block, data.num_items, [data.train], num)
        of_all = np.asarray(scores(block))
        for user, items, values, own in zip(block.tolist(), top, kept, of_all, strict=True):
            left = min(config.cases, config.max_cases - len(made))
            for place in range(int(indptr[user + 1]) - 1, int(indptr[user]), -1):
                if not left:
                    break
                item = int(history[place])
                before = int(((values > own[item]) | ((values == own[item]) & (items < item))).sum())
                if before < num:
                    raced = np.insert(items, before, item)[:num], np.insert(values, before, own[item])[:num]
                    made.append((user, place, *raced))
                    left -= 1
        if len(made) == config.max_cases:
            break
    made.sort(key=lambda one: one[:2])
    who, at = (np.array([one[i] for one in made], np.int64) for i in range(2))
    candidates = np.array([one[2] for one in made], np.int64).reshape(len(made), num)
    values = np.array([one[3] for one in made], np.float32).reshape(len(made), num)
    candidates, values = _drawn(who, candidates, values, seed)
    answers = (candidates == history[at][:, None]).argmax(axis=1) if len(made) else at
    shown = np.stack([np.maximum(indptr[who], at - config.history), at], axis=1)
    return Cases(who, candidates, values, answers.astype(np.int64), shown)


def asked_cases(
    data: Interactions,
    scores: ScoresOf,
    users: np.ndarray,
    config: RerankConfig,
    num: int,
    seed: int,
    masks: Sequence[Pairs] = (),
) -> Cases:
    """A case of each of some users [n] that have a pair of train; without answers. masks: pairs that are no
    candidates either."""
    indptr, _ = data.history
    users = users[np.diff(indptr)[users] > 0]
    top, kept = top_items(scores, users, data.num_items, [data.train, *masks], num)
    candidates, values = _drawn(users, top, kept, seed)
    last = indptr[users + 1]
    shown = np.stack([np.maximum(indptr[users], last - config.history), last], axis=1)
    return Cases(users, candidates, values, np.full(len(users), -1), shown)


def with_answers(cases: Cases, pairs: Pairs) -> Cases:
    """Those whose list has an item of the user's `pairs`: the one that the recommender ranks first."""
    is_next = np.array(
        [np.isin(row, pairs.of_user(user)) for user, row in zip(cases.users, cases.candidates, strict=True)]
    ).reshape(cases.candidates.shape)
    answers = np.where(is_next, cases.scores, -np.inf).argmax(axis=1).astype(np.int64)
    return replace(cases, answers=answers).some(np.flatnonzero(is_next.any(axis=1)))


def reranked(scores: ScoresOf, cases: Cases, log_chances: np.ndarray, weight: float) -> ScoresOf:
    """The same scores with the candidates of each case in another order among themselves.

    log_chances [n, C]: the language model's of each candidate. The order is that of the recommender's own log
    chances (a softmax of its scores over the list) plus `weight` times those; with 0 its own. Candidates
    exchange their scores, so what is no candidate stays below them.
    """
    if weight == 0:
        return scores
    own = cases.scores.astype(np.float64)
    own -= np.nanmax(own, axis=1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):
        both = own - np.log(np.nansum(np.exp(own), axis=1, keepdims=True)) + weight * log_chances
    place = {user: case for case, user in enumerate(cases.users.tolist())}

    def changed(users: np.ndarray) -> np.ndarray:
        made = np.array(scores(users))
        for row, user in zip(made, users.tolist(), strict=True):
            if (case := place.get(user)) is None:
                continue
            there = cases.candidates[case] >= 0
            items = cases.candidates[case][there]
            order = np.lexsort((items, -both[case][there]))
            row[items[order]] = np.sort(row[items])[::-1]
        return made

    return changed


def _drawn(
    users: np.ndarray, candidates: np.ndarray, scores: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Lists [n, C] with their scores, each in an order by (seed, user, item): a letter tells no rank."""
    keys = pair_hashes(np.repeat(users, candidates.shape[1]), candidates.ravel(), seed_of(seed, "letters"))
    keys[candidates.ravel() < 0] = np.iinfo(np.uint64).max
    order = np.argsort(keys.reshape(candidates.shape), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1), np.take_along_axis(scores, order, axis=1)
