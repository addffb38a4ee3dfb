"""The numbers of a synthetic XS-Video: who posts what when, and how its counters grow.

Every video has a latent influence, from its topic, its author and itself. It sets the counters that the
video ends with; the counters of a state are those grown to the state's age; the level is the annotation
rule's on the counters of two weeks after the post. Sizes of groups are chosen so that the numbers of
edges are the published ones times the scale.

Legend: V videos, N states, T groups of a key.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from netgpt.graphstore.datasets.xsvideo.annotation import FINAL_DAYS, level_of
from netgpt.graphstore.features import DAY_S

FULL_VIDEOS, FULL_TOPICS, FULL_COMMENTS, FULL_USERS = 117_720, 535, 923_045, 419_374
FULL_TOPIC_EDGES, FULL_AUTHOR_EDGES = 1_655_971_954, 5_372_152
STATE_COUNTS = {1: 0.055214, 2: 0.134035, 3: 0.396244, 4: 0.346589, 5: 0.062596, 6: 0.004247, 7: 0.001075}
"""States of a video. Mean 381,926 / 117,720, and as many pairs as there are history edges."""
LINEAR_SCALE = 0.05
"""Below it the published number of same-topic edges, times the scale, would be more than half of all
pairs of states. There the number of topics follows the square root of the scale instead, with shares as
1 / rank, and the edges of that relation fall faster than the nodes."""
PLATFORMS = ("抖音", "快手", "西瓜", "头条", "哔哩哔哩")
PLATFORM_SHARE = (0.55, 0.17, 0.12, 0.09, 0.07)
PLATFORM_FACTOR = (1.0, 1.0, 4.0, 3.0, 0.5)
"""What a platform's indicators are multiplied by to compare with Kuaishou's."""
POST_DAYS, TRAIN_DAYS, TRAIN_SHARE = 39, 26, 304_362 / 381_926
AUTHORS_PER_VIDEO = 0.45
LOG_LIKES, LOG_LIKES_STD = 3.6, 1.7
"""Mean and spread of the log of final likes: puts the peak of the levels at 3."""
GROWTH_DAYS = 3.0
LAST_AGE, LAST_AGE_MAX = 15, 42
MAX_COMMENTS = 400


@dataclass(frozen=True)
class World:
    """Columns of videos [V] and of states [N]; states of a video follow each other, oldest first."""

    topic: np.ndarray
    author: np.ndarray
    platform: np.ndarray
    post_s: np.ndarray
    """Seconds since the first day's midnight."""
    duration_s: np.ndarray
    level: np.ndarray
    num_topics: int
    num_authors: int
    num_commenters: int
    first_state: np.ndarray
    """[V + 1]: states of video v are first_state[v] to first_state[v + 1]."""
    age: np.ndarray
    """[N] days."""
    counts: np.ndarray
    """[N, 6]: views, likes, shares, collects, comments (the rule's order), fans."""
    num_comments: np.ndarray
    """[N]: comments that the record holds."""


def quotas(share: np.ndarray, total: int, least: int = 0) -> np.ndarray:
    """Whole numbers in proportion to `share` that add up to `total`: [T] → [T] int64, `least` or more."""
    exact = share / share.sum() * (total - least * len(share))
    number = np.floor(exact).astype(np.int64)
    rest = total - least * len(share) - int(number.sum())
    number[np.argsort(number - exact, kind="stable")[:rest]] += 1
    return number + least


def group_edges(group: np.ndarray, day: np.ndarray, num_groups: int) -> int:
    """Edges of "same group, not later" over states: group [N] and day [N]."""
    by_day = np.zeros((num_groups, int(day.max()) + 1), np.int64)
    np.add.at(by_day, (group, day), 1)
    return int((by_day * np.cumsum(by_day, axis=1)).sum() - len(group))


def _bisect(measure: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where a rising function reaches the target."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if measure(middle) < target else (low, middle)
    return high


def _groups(
    rng: np.random.Generator, num: int, video_of: np.ndarray, day: np.ndarray, target: float | None
) -> np.ndarray:
    """Group of each video [V]: sizes fall as rank^−a, with a such that the edges are `target` (none: 1)."""
    num_videos = int(video_of[-1]) + 1
    order = rng.permutation(num_videos)
    rank = np.arange(1, num + 1, dtype=np.float64)

    def assigned(exponent: float) -> np.ndarray:
        group = np.empty(num_videos, np.int64)
        group[order] = np.repeat(np.arange(num), quotas(rank**-exponent, num_videos, least=1))
        return group

    if target is None:
        return assigned(1.0)
    return assigned(_bisect(lambda a: group_edges(assigned(a)[video_of], day, num), target, 0.0, 4.0))


def _ages(rng: np.random.Generator, num_states: np.ndarray, video_of: np.ndarray) -> np.ndarray:
    """Days from post to state [N]: the first of the day of the post or soon after, the others two days
    apart or more, the last (of two and more) over two weeks old."""
    first = np.cumsum(num_states) - num_states
    place = np.arange(len(video_of)) - first[video_of]
    last_age = LAST_AGE + np.floor((LAST_AGE_MAX - LAST_AGE) * rng.beta(1.2, 2.6, len(num_states)))
    share = rng.random(len(video_of))
    share[first] = -1.0  # below all others of the video
    share[first + num_states - 1] = 1.0
    share = share[np.lexsort((share, video_of))]
    share[first] = 0.0
    slack = (last_age - 2 * (num_states - 1))[video_of]
    age = 2 * place + np.floor(share * slack)
    late = rng.random(len(num_states)) < 0.05
    age[first[late]] = np.minimum(rng.integers(1, 3, int(late.sum())), 2)
    age = np.maximum(age, np.where(place > 0, age[first][video_of] + 2 * place, 0))
    return age.astype(np.int64)


def _num_comments(rng: np.random.Generator, age: np.ndarray, total: int) -> np.ndarray:
    """Comments of each state [N]: none on the day of the post, else long-tailed, `total` in all."""
    log = np.where(age > 0, 2.0 * rng.standard_normal(len(age)), -np.inf)

    def drawn(mean: float) -> np.ndarray:
        return np.minimum(np.floor(np.exp(mean + log)), MAX_COMMENTS).astype(np.int64)

    return drawn(_bisect(lambda mean: float(drawn(mean).sum()), total, -6.0, 6.0))


def make_world(scale: float, rng: np.random.Generator) -> World:
    """All numbers of `scale` × 117,720 videos."""
    num_videos = max(8, round(FULL_VIDEOS * scale))
    num_states = rng.permutation(
        np.repeat(list(STATE_COUNTS), quotas(np.array(list(STATE_COUNTS.values())), num_videos))
    )
    video_of = np.repeat(np.arange(num_videos), num_states)
    age = _ages(rng, num_states, video_of)

    order = rng.permutation(num_videos)
    in_train = np.empty(num_videos, np.bool_)
    in_train[order] = np.cumsum(num_states[order]) <= TRAIN_SHARE * len(video_of)
    post_day = np.where(
        in_train, rng.integers(0, TRAIN_DAYS, num_videos), rng.integers(TRAIN_DAYS, POST_DAYS, num_videos)
    )
    post_s = post_day * DAY_S + rng.integers(0, DAY_S, num_videos)
    day = post_day[video_of] + age

    linear = scale >= LINEAR_SCALE
    num_topics = round(FULL_TOPICS * scale) if linear else max(4, round(FULL_TOPICS * scale**0.5))
    num_authors = max(4, round(AUTHORS_PER_VIDEO * num_videos))
    topic_edges = FULL_TOPIC_EDGES * scale if linear else None
    topic = _groups(rng, num_topics, video_of, day, topic_edges)
    author = _groups(rng, num_authors, video_of, day, FULL_AUTHOR_EDGES * scale)

    topic_effect, author_effect = rng.normal(0, 0.6, num_topics), rng.normal(0, 0.6, num_authors)
    fans = np.exp(7 + 2 * author_effect + rng.normal(0, 1, num_authors)).astype(np.int64)
    platform = rng.permutation(np.repeat(np.arange(5), quotas(np.array(PLATFORM_SHARE), num_videos)))
    influence = topic_effect[topic] + author_effect[author] + rng.normal(0, 1.0, num_videos)
    influence = (influence - influence.mean()) / influence.std()  # a few large groups would shift the levels
    likes = np.exp(LOG_LIKES + LOG_LIKES_STD * influence)
    # views, likes, shares, collects, comments on the reference platform's measure, each with its noise
    ratio = np.array([40.0, 1.0, 0.2, 0.25, 0.15]) * np.exp(rng.normal(0, 0.3, (num_videos, 5)))
    final = likes[:, None] * ratio
    final[rng.random(num_videos) < 0.03] = 0
    final[platform == PLATFORMS.index("抖音"), 0] = 0  # Douyin shows no views
    factor = np.array(PLATFORM_FACTOR)[platform][:, None]
    final /= factor

    grown = 1 - np.exp(-(age + 0.5) / GROWTH_DAYS)
    grown[(age == 0) & (rng.random(len(age)) < 0.9)] = 0  # counters of the day of the post are mostly zero
    counts = np.floor(final[video_of] * grown[:, None]).astype(np.int64)
    two_weeks = 1 - np.exp(-(FINAL_DAYS + 0.5) / GROWTH_DAYS)
    return World(
        topic=topic,
        author=author,
        platform=platform,
        post_s=post_s,
        duration_s=_durations(rng, num_videos),
        level=level_of(factor * np.floor(final * two_weeks)),
        num_topics=num_topics,
        num_authors=num_authors,
        num_commenters=max(4, round(FULL_USERS * scale) - num_authors),
        first_state=np.r_[0, np.cumsum(num_states)],
        age=age,
        counts=np.concatenate([counts, fans[author[video_of]][:, None]], axis=1),
        num_comments=_num_comments(rng, age, round(FULL_COMMENTS * scale)),
    )


def _durations(rng: np.random.Generator, num: int) -> np.ndarray:
    """Seconds [num]: peaks at 7 and 38, at most 5 minutes."""
    short = rng.random(num) < 0.35
    spread = np.where(short, 0.35, 0.6)
    log = np.log(np.where(short, 7.0, 38.0)) + spread**2 + spread * rng.standard_normal(num)
    return np.round(np.minimum(np.exp(log), 300.0), 3)
