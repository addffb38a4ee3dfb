"""Synthetic records in the released layout, from the numbers of a `World`: texts, users, comments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.xsvideo import records as R
from netgpt.graphstore.datasets.xsvideo.annotation import INDICATORS
from netgpt.graphstore.datasets.xsvideo.synth.world import PLATFORMS, World, make_world
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.features import DAY_S

MADE_URL = "https://video.example/"
"""What addresses of made videos begin with: of no host that there is."""

FIRST_POST = datetime(2024, 11, 25)
PLACES = ("湖北省", "天津市", "河南省", "江西省", "广东省", "")
SENTIMENTS = ("敏感", "中性", "正面")
CHARACTERS = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说"
    "面而方后多定行学法所民得经十三之进着等部度家电力里如水化高自二理起小物现实加量都两体制机当使点从"
    "业本去把性好应开它合还因由其些然前外天四日那事平形相全表间样与关各重新线内数正心反你明看原又利比"
)
"""Common characters, of which the words of all texts are made."""
NUM_WORDS, BLOCK_VIDEOS = 4000, 2048
TITLE_WORDS, DESCRIPTION_WORDS, COMMENT_WORDS = 8, 70, 5


def _words(rng: np.random.Generator, num: int) -> list[str]:
    letters = rng.integers(0, len(CHARACTERS), (num, 4))
    length = rng.integers(2, 5, num)
    return ["".join(CHARACTERS[c] for c in row[:n]) for row, n in zip(letters.tolist(), length, strict=True)]


def _texts(words: Sequence[str], choices: np.ndarray, separator: str = "") -> list[str]:
    """One text a row of word numbers [n, k]; a negative number is no word."""
    return [separator.join([words[i] for i in row if i >= 0]) for row in choices.tolist()]


class _Writer:
    """Records of a world, in blocks of videos."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        self.world, self.rng = world, rng
        self.words = _words(rng, NUM_WORDS)
        self.topics = _texts(self.words, rng.integers(0, NUM_WORDS, (world.num_topics, 3)), " ")
        for i, topic in enumerate(self.topics):  # two topics of the same words would be one
            self.topics[i] = topic if self.topics.index(topic) == i else f"{topic} {i}"
        # Every commenter writes once before any writes twice
        self.commenter = rng.permutation(world.num_commenters)
        self.num_commented = 0

    def __iter__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for first in range(0, len(self.world.topic), BLOCK_VIDEOS):
            yield from self._block(first, min(first + BLOCK_VIDEOS, len(self.world.topic)))

    def _drawn_texts(self, num_words: np.ndarray) -> list[str]:
        """Texts of so many random words: [n]."""
        choices = self.rng.integers(0, NUM_WORDS, (len(num_words), int(num_words.max())))
        return _texts(self.words, np.where(np.arange(choices.shape[1]) < num_words[:, None], choices, -1))

    def _block(self, first: int, last: int) -> Iterator[tuple[str, dict[str, Any]]]:
        world, rng, num = self.world, self.rng, last - first
        has_title = rng.random(num) < 0.8
        titles = self._drawn_texts(rng.integers(2, TITLE_WORDS + 1, num) * has_title)
        descriptions = self._drawn_texts(rng.integers(6, DESCRIPTION_WORDS + 1, num))
        sentiment = np.where(rng.random(num) < 0.75, rng.integers(0, len(SENTIMENTS), num), -1).tolist()
        post_s = world.post_s[first:last].tolist()
        for i, video in enumerate(range(first, last)):
            topic = self.topics[world.topic[video]]
            head: dict[str, Any] = {R.URL: f"{MADE_URL}{video}"}
            if sentiment[i] >= 0:
                head[R.SENTIMENT] = SENTIMENTS[sentiment[i]]
            posted = FIRST_POST + timedelta(seconds=post_s[i])
            head |= {
                R.DESCRIPTION: f"{topic} {descriptions[i]}",
                R.TITLE: titles[i],
                R.AUTHOR: f"u{world.author[video]:08d}",
                R.DURATION: float(world.duration_s[video]),
                R.PLATFORM: PLATFORMS[world.platform[video]],
                R.POST_TIME: f"{posted:%Y-%m-%d %H:%M:%S}",
                R.TOPIC: topic,
                R.LEVEL: int(world.level[video]),
            }
            yield from self._states(video, posted, head)

    def _states(
        self, video: int, posted: datetime, head: dict[str, Any]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        world = self.world
        first, last = world.first_state[video].item(), world.first_state[video + 1].item()
        ages, num_comments = world.age[first:last].tolist(), world.num_comments[first:last].tolist()
        for state, counts in zip(range(first, last), world.counts[first:last].tolist(), strict=True):
            age = ages[state - first]
            shown = dict(zip((*INDICATORS, "fans"), counts, strict=True))
            yield (
                str(state),
                {
                    **head,
                    R.SAMPLING_DATE: f"{posted + timedelta(days=age):%Y-%m-%d}",
                    **{key: shown[name] for name, key in R.COUNTS.items()},
                    R.COMMENTS: self._comments(posted, age, num_comments[state - first]),
                    R.HISTORY: list(range(first, state)),
                },
            )

    def _comments(self, posted: datetime, age: int, num: int) -> dict[str, Any]:
        if not num:
            return {}
        rng = self.rng
        seconds = rng.integers(60, age * DAY_S, num).tolist()
        texts = self._drawn_texts(rng.integers(1, COMMENT_WORDS + 1, num))
        place = rng.integers(0, len(PLACES), num).tolist()
        serial = range(self.num_commented, self.num_commented + num)
        self.num_commented += num
        again = rng.integers(0, len(self.commenter), num).tolist()
        comments = {}
        for i, number in enumerate(serial):
            user = self.commenter[number if number < len(self.commenter) else again[i]]
            comments[str(i)] = {
                R.COMMENT_ID: f"c{number:010d}",
                R.COMMENT_USER: f"w{user:08d}",
                R.COMMENT_TEXT: texts[i],
                R.COMMENT_TIME: str(posted + timedelta(seconds=seconds[i])),
                R.COMMENT_PLACE: PLACES[place[i]],
            }
        return comments


def synthetic_records(scale: float, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(state id, record) pairs of about `scale` × 381,926 states: a pure function of both arguments."""
    if not 0 < scale <= 10:
        raise StoreError(f"scale: found {scale}, expected a number above 0, at most 10")
    if seed < 0:
        raise StoreError(f"seed: found {seed}, expected a whole number from 0")
    rng = np.random.default_rng(seed)
    yield from _Writer(make_world(scale, rng), rng)
