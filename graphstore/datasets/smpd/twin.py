"""Made posts that are written as the official files: what the reader and a whole run are tried on.

A user has a level (6.4, sd 1.9), posts lie around it (sd 1.5), a category raises or lowers them (sd 0.5),
and the score is round(log2(1 + views), 2) of whole views from 1. Titles and captions are of the category's
words. At scale 1.0 there are about 31,000 users with 1 to 40 posts, 240,000 in all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.smpd import files, tpic
from netgpt.graphstore.datasets.smpd.posts import Posts, PostsBuilder
from netgpt.graphstore.files import atomic_dir

CAPTIONS, TPIC = "captions.jsonl", "tpic"
"""What is beside the official files: a caption a post, and the folder of TPIC2017's."""
CATEGORIES = (
    *("Animal", "Electronics", "Entertainment", "Family", "Fashion", "Food", "Holiday&Celebrations"),
    *("Social&People", "Travel&Active&Sports", "Urban", "Whether&Season"),
)
USERS, LEAST_USERS, MEAN_POSTS, MOST_POSTS = 31_000, 60, 7.9, 40
TPIC_USERS, LEAST_TPIC_USERS, MOST_TPIC_POSTS = 392, 12, 12
_WORDS, _SUBCATEGORIES, _CONCEPTS = 12, 7, 60
_FIRST, _LAST = 1_425_168_000, 1_456_704_000
"""2015-03-01 and 2016-02-29, UTC."""
_FIRST_TPIC, _LAST_TPIC = 1_104_537_600, 1_388_534_400
"""2005 and 2014."""


@dataclass(frozen=True)
class Made:
    posts: Posts
    captions: dict[str, str]
    tpic: Posts


def _score(level: np.ndarray | float, rng: np.random.Generator, digits: int) -> float:
    views = max(1, round(2.0 ** float(np.clip(level + rng.normal(0, 1.5), 0, 30)) - 1))
    return round(float(np.log2(1 + views)), digits)


def make(scale: float, seed: int) -> Made:
    """Posts, captions and posts of TPIC2017, a pure function of scale and seed. Rows rise by pid."""
    rng = np.random.default_rng(seed)
    posts, captions = PostsBuilder(), dict[str, str]()
    effects = rng.normal(0, 0.5, len(CATEGORIES))
    pid = 1000
    for user in range(max(LEAST_USERS, round(USERS * scale))):
        num = min(MOST_POSTS, int(rng.geometric(1 / MEAN_POSTS)))
        level, favourite = rng.normal(6.4, 1.9), int(rng.integers(len(CATEGORIES)))
        times = rng.choice(_LAST - _FIRST, num, replace=False) + _FIRST
        own = {
            "photo_count": float(rng.integers(num, 20_000)),
            "is_pro": float(rng.random() < 0.4),
            "can_buy_pro": float(rng.random() < 0.5),
            "timezone": float(rng.integers(-8, 10)),
        }
        for time in times.tolist():
            pid += int(rng.choice([1, 1, 1, 2, 5]))
            code = favourite if rng.random() < 0.6 else int(rng.integers(len(CATEGORIES)))
            name = CATEGORIES[code]
            stem = name.split("&")[0].lower()
            words = [f"{stem}{i}" for i in rng.integers(0, _WORDS, 6)]
            title = "" if rng.random() < 0.03 else " ".join([stem, *words[: 1 + int(rng.integers(4))]])
            captions[str(pid)] = f"a picture of {stem} with {words[4]} and {words[5]}"
            is_placed = rng.random() < 0.3
            tags = int(rng.poisson(20))
            numbers = own | {"tags": float(tags), "title_length": float(len(title))}
            numbers["accuracy"] = 0.0
            if is_placed:
                numbers["latitude"] = round(float(rng.uniform(-60, 70)), 6)
                numbers["longitude"] = round(float(rng.uniform(-180, 180)), 6)
                numbers["accuracy"] = float(rng.integers(3, 17))
            texts = {
                "pid": str(pid),
                "user": f"{user * 7 + 11}@N{user % 90 + 10}",
                "title": title,
                "category": name,
                "subcategory": f"{name.split('&')[-1]}{rng.integers(_SUBCATEGORIES)}",
                "concept": f"{stem}-{rng.integers(_CONCEPTS)}",
                "media": "video" if rng.random() < 0.02 else "photo",
            }
            posts.add(time, _score(level + effects[code], rng, 2), texts, numbers)
        pid += int(rng.integers(2, 30))
    return Made(posts.posts(), captions, _made_tpic(scale, rng))


def _made_tpic(scale: float, rng: np.random.Generator) -> Posts:
    posts = PostsBuilder()
    pid = 20_000_000_000
    for user in range(max(LEAST_TPIC_USERS, round(TPIC_USERS * scale))):
        level = rng.normal(6.4, 1.9)
        for _ in range(2 + int(rng.integers(MOST_TPIC_POSTS - 1))):
            pid += int(rng.integers(1, 1000))
            day = int(rng.integers(_FIRST_TPIC // 86_400, _LAST_TPIC // 86_400))
            moment = day * 86_400 + 3600 * (2 + tpic.HOURS * int(rng.integers(6)))
            said = datetime.fromtimestamp(moment, UTC)
            tags, length = float(rng.poisson(12)), float(rng.integers(0, 60))
            numbers = {"tags": tags, "title_length": length, "shown_tags": tags, "shown_title_length": length}
            texts = {
                "pid": str(pid),
                "user": f"{user + 5_000_000}@N01",
                "date": f"{said.year}-{said.month}-{said.day}",
            }
            posts.add(moment, _score(level, rng, 1), texts, numbers)
    return posts.posts()


def _said(number: float) -> str:
    """A number as the files say it: text, `None` where there is none."""
    return "None" if np.isnan(number) else f"{int(number)}" if float(number).is_integer() else repr(number)


def _records(posts: Posts) -> Iterator[dict[str, dict[str, Any]]]:
    """By kind of file the records of each post."""
    texts = posts.texts
    values = {name: numbers.tolist() for name, numbers in posts.numbers.items()}
    for i in range(len(posts)):
        # A pid is a number in one file and a text in others
        pid, said = texts["pid"][i], {name: _said(numbers[i]) for name, numbers in values.items()}
        key = {"Uid": texts["user"][i], "Pid": pid}
        words = {name.capitalize(): texts[name][i] for name in ("category", "subcategory", "concept")}
        tags = " ".join(f"t{j}" for j in range(int(values["tags"][i])))
        title = texts["title"][i] or "None"
        yield {
            "category": {**key, "Pid": int(pid), **words},
            "text": {**key, "Title": title, "Mediatype": texts["media"][i], "Alltags": tags},
            "place": {
                **{**key, "Postdate": str(posts.time[i])},
                **{"Latitude": said["latitude"], "Longitude": said["longitude"]},
                "Geoaccuracy": said["accuracy"],
            },
            "user": {
                **{"photo_firstdate": "1262304000", "photo_count": said["photo_count"]},
                **{"ispro": said["is_pro"], "canbuypro": said["can_buy_pro"]},
                "timezone_offset": f"{values['timezone'][i]:+03.0f}:00",
                **{"timezone_id": "None", "user_description": "0,0", "location_description": "0,0"},
            },
            "additional": {**key, "Pathalias": "None", "Ispublic": "1", "Mediastatus": "ready"},
        }


def write(path: Path, made: Made) -> int:
    """The official files of 2022, captions, and TPIC2017's folder in the new folder `path`; returns the
    posts of SMPD."""
    with atomic_dir(path) as folder:
        _write_files(folder, made)
    return len(made.posts)


def _write_files(path: Path, made: Made) -> None:
    posts = made.posts
    names = {kind: path / files.NAMES[kind][0] for kind in files.NAMES}
    with ExitStack() as stack:
        opened = {
            kind: stack.enter_context(names[kind].open("w", encoding="utf-8"))
            for kind in ("category", "text", "place", "user", "additional")
        }
        for i, records in enumerate(_records(posts)):
            for kind, record in records.items():
                opened[kind].write(("[\n" if i == 0 else ",\n") + json.dumps(record, ensure_ascii=False))
        for file in opened.values():
            file.write("\n]\n")
    _write_lines(names["label"], (f"{score:.2f}" for score in posts.score))
    images = zip(posts.users, posts.pids, strict=True)
    _write_lines(names["image"], (f"train/{user}/{pid}.jpg" for user, pid in images))
    captions = ({"Pid": pid, "caption": text} for pid, text in made.captions.items())
    _write_lines(path / CAPTIONS, (json.dumps(one) for one in captions))
    write_tpic(path / TPIC, made.tpic)


def write_tpic(path: Path, posts: Posts) -> None:
    """TPIC2017's four files, with views of later that no reader may take."""
    path.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[str]] = {
        "meta": ["pid uid commentcount haspeople titlelen deslen tagcount avgview groupcount avgmembercount"],
        "time": ["pid uid year month day hour_index"],
        "label": ["pid uid logview"],
        "photo": ["pid uid url"],
    }
    for i in range(len(posts)):
        key = f"{posts.pids[i]} {posts.users[i]}"
        day = datetime.fromtimestamp(int(posts.time[i]), UTC)
        tags, length = int(posts.numbers["tags"][i]), int(posts.numbers["title_length"][i])
        views = f"{2.0 ** posts.score[i]:.3f}"
        rows["meta"].append(f"{key} {i % 9} 0 {length} 0 {tags} {views} 1 10")
        rows["time"].append(f"{key} {day.year} {day.month} {day.day} {(day.hour - 2) // tpic.HOURS}")
        rows["label"].append(f"{key} {posts.score[i]:.1f}")
        rows["photo"].append(f"{key} https://example.org/{posts.pids[i]}.jpg")
    for kind, lines in rows.items():
        _write_lines(path / tpic.NAMES[kind][0], (line.replace(" ", "\t") for line in lines))


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines)
