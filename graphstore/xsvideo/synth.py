"""Synthetic records of XS-Video's shape: same keys, like distributions, a level that can be learnt.

Each video has a latent influence from its topic and author; its counters grow towards a final
value that follows from it, and its level is the annotation rule's on the final counters. The first
state is often of the day of the post, with all counters at zero, as in the release.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from graphstore.errors import StoreError
from graphstore.files import atomic_file
from graphstore.xsvideo import records as R
from graphstore.xsvideo.annotation import level_of

FULL_VIDEOS, FULL_TOPICS = 117_720, 535
PLATFORMS = {"抖音": 0.55, "快手": 0.17, "西瓜": 0.12, "头条": 0.09, "哔哩哔哩": 0.07}
FIRST_POST = datetime(2024, 11, 25)
POST_DAYS, TRAIN_DAYS, TRAIN_SHARE = 39, 26, 0.8
STATE_COUNTS = {1: 0.06, 2: 0.14, 3: 0.40, 4: 0.34, 5: 0.06}
"""States a video has, 3.2 in the mean."""
LOG_LIKES, LOG_LIKES_STD = 3.6, 1.7
"""Mean and spread of the log of final likes: puts the peak of the levels at 3."""
GROWTH_DAYS = 3.0
PLACES = ("湖北省", "天津市", "河南省", "江西省", "广东省", "")


@dataclass(frozen=True)
class _World:
    topics: list[str]
    topic_effect: np.ndarray
    topic_share: np.ndarray
    author_effect: np.ndarray
    author_fans: np.ndarray


def _words(rng: np.random.Generator, num: int, low: int = 2, high: int = 6) -> list[str]:
    """Words of common Chinese characters."""
    return [
        "".join(chr(c) for c in rng.integers(0x4E00, 0x4E00 + 1500, rng.integers(low, high)))
        for _ in range(num)
    ]


def _world(rng: np.random.Generator, num_videos: int) -> _World:
    num_topics = max(4, round(FULL_TOPICS * (num_videos / FULL_VIDEOS) ** 0.5))
    num_authors = max(4, round(0.6 * num_videos))
    share = 1.0 / np.arange(1, num_topics + 1)
    effect = rng.normal(0, 0.6, num_authors)
    return _World(
        topics=[" ".join(_words(rng, 2)) for _ in range(num_topics)],
        topic_effect=rng.normal(0, 0.6, num_topics),
        topic_share=share / share.sum(),
        author_effect=effect,
        author_fans=np.exp(7 + 2 * effect + rng.normal(0, 1, num_authors)).astype(np.int64),
    )


def _duration(rng: np.random.Generator) -> float:
    """Peaks at 7 and 38 seconds, at most 5 minutes."""
    median = 7.0 if rng.random() < 0.4 else 45.0
    return round(float(min(300.0, median * np.exp(rng.normal(0, 0.45)))), 3)


def _state_days(rng: np.random.Generator) -> list[int]:
    """Ages in days of a video's states, at least two days apart."""
    num = int(rng.choice(list(STATE_COUNTS), p=list(STATE_COUNTS.values())))
    ages = [0 if rng.random() < 0.8 else int(rng.integers(1, 4))]
    for _ in range(num - 1):
        ages.append(ages[-1] + 2 + int(rng.integers(0, 8)))
    return ages


def _comments(rng: np.random.Generator, posted: datetime, age: int) -> dict[str, Any]:
    num = int(min(60, rng.geometric(0.25))) if age and rng.random() < 0.5 else 0
    found = {}
    for i in range(num):
        when = posted + timedelta(seconds=int(rng.integers(60, age * 86_400)))
        found[str(i)] = {
            R.COMMENT_ID: f"u{rng.integers(1 << 40):010x}",
            R.COMMENT_USER: f"u{rng.integers(1 << 40):010x}",
            R.COMMENT_TEXT: "".join(_words(rng, 2)),
            R.COMMENT_TIME: when.strftime("%Y-%m-%d %H:%M:%S"),
            R.COMMENT_PLACE: str(rng.choice(PLACES)),
        }
    return found


def _video(
    rng: np.random.Generator, world: _World, number: int, first_id: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    topic = int(rng.choice(len(world.topics), p=world.topic_share))
    author = int(len(world.author_effect) * rng.random() ** 1.5)
    days = (0, TRAIN_DAYS) if rng.random() < TRAIN_SHARE else (TRAIN_DAYS, POST_DAYS)
    posted = FIRST_POST + timedelta(days=int(rng.integers(*days)), seconds=int(rng.integers(0, 86_400)))
    influence = world.topic_effect[topic] + world.author_effect[author] + rng.normal(0, 1.0)
    likes = np.exp(LOG_LIKES + LOG_LIKES_STD * influence / np.sqrt(0.36 + 0.36 + 1.0))
    # views, likes, shares, collects, comments, with noise of their own; Douyin shows no views
    final = likes * np.array([40.0, 1.0, 0.2, 0.25, 0.15]) * np.exp(rng.normal(0, 0.3, 5))
    platform = str(rng.choice(list(PLATFORMS), p=list(PLATFORMS.values())))
    if platform == "抖音":
        final[0] = 0
    final = np.floor(final * (rng.random() > 0.03))
    level = int(level_of(final[None])[0])
    title = "".join(_words(rng, 3)) if rng.random() < 0.8 else ""
    description = f"{world.topics[topic]} {''.join(_words(rng, 12))}"
    sentiment = str(rng.choice(["敏感", "中性", "正面"])) if rng.random() < 0.75 else None
    duration = _duration(rng)
    history: list[int] = []
    for age in _state_days(rng):
        share = 0.0 if age == 0 and rng.random() < 0.9 else 1 - np.exp(-(age + 0.5) / GROWTH_DAYS)
        views, likes_now, shares, collects, comments = (int(v) for v in np.floor(final * share))
        counts = {
            "fans": int(world.author_fans[author]),
            "likes": likes_now,
            "views": views,
            "shares": shares,
            "collects": collects,
            "comments": comments,
        }
        record: dict[str, Any] = {R.URL: f"https://video.example/{number}"}
        if sentiment is not None:
            record[R.SENTIMENT] = sentiment
        record |= {
            R.DESCRIPTION: description,
            R.TITLE: title,
            R.AUTHOR: f"u{author:08d}",
            R.DURATION: duration,
            R.PLATFORM: platform,
            R.POST_TIME: posted.strftime("%Y-%m-%d %H:%M:%S"),
            R.TOPIC: world.topics[topic],
            R.LEVEL: level,
            R.SAMPLING_DATE: (posted + timedelta(days=age)).strftime("%Y-%m-%d"),
            **{R.COUNTS[name]: value for name, value in counts.items()},
            R.COMMENTS: _comments(rng, posted, age),
            R.HISTORY: list(history),
        }
        state = first_id + len(history)
        history.append(state)
        yield str(state), record


def synthetic_records(scale: float, seed: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(state id, record) pairs of about `scale` × 381,926 states: a pure function of both arguments."""
    if not 0 < scale <= 10:
        raise StoreError(f"scale: found {scale}, expected a number above 0, at most 10")
    if seed < 0:
        raise StoreError(f"seed: found {seed}, expected a whole number from 0")
    num_videos = max(8, round(FULL_VIDEOS * scale))
    rng = np.random.default_rng(seed)
    world = _world(rng, num_videos)
    first_id = 0
    for number in range(num_videos):
        states = list(_video(rng, world, number, first_id))
        yield from states
        first_id += len(states)


def write_synthetic(path: Path, scale: float, seed: int) -> int:
    """Write the records as one released-layout JSON file, streamed; returns the number of states."""
    num = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("{")
        for state, record in synthetic_records(scale, seed):
            file.write(f"{',' if num else ''}\n{json.dumps(state)}: {json.dumps(record, ensure_ascii=False)}")
            num += 1
        file.write("\n}\n")
    return num
