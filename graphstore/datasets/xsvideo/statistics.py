"""The statistics of XS-Video's paper for a store of records: values here, text and plots beside.

Legend: N states.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.datasets.xsvideo.records import MAX_LEVEL
from netgpt.graphstore.errors import FormatError, StoreError
from netgpt.graphstore.store import SPLITS, Store

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
DURATION_BIN_S, DURATION_BINS = 5, 61
"""Bins of durations; the last one holds 300 seconds and more."""
MAX_TOKENISED = 20_000
"""Records whose tokens are counted; of a larger store a random choice."""
OBSERVATION_DAYS = (3, 7)
"""Last day of the first observation periods (from the post to the sampling date)."""
TOP_TOPICS = 20


def statistics(store: Store, tokenizer: Path | None = None) -> dict[str, Any]:
    """Durations, topics, platforms, levels by split, growth of likes and lengths of records, as JSON.

    `tokenizer`: a tokenizer.json (or its folder), to count tokens; without one lengths are in bytes.
    """
    duration = _raw(store, "video_time")
    age = np.asarray(store.column("video", "age_days")).astype(np.int64)
    return {
        "durations_s": {
            **_quantiles(duration),
            "bin_s": DURATION_BIN_S,
            "bins": np.bincount(
                np.minimum(duration // DURATION_BIN_S, DURATION_BINS - 1).astype(np.int64),
                minlength=DURATION_BINS,
            ).tolist(),
        },
        "topics": _shares(store, "topic", TOP_TOPICS),
        "platforms": _shares(store, "platform", None),
        "levels": {name: _level_counts(store.labels[store.split(name)]) for name in SPLITS},
        "observation_days": _observed(age),
        "daily_increase_of_likes_percent": _increase_of_likes(store, age),
        "record_length": _lengths(store, tokenizer),
    }


def _level_counts(labels: np.ndarray) -> list[int]:
    """States of each level, those of unknown level left out."""
    return np.bincount(labels[labels >= 0], minlength=MAX_LEVEL + 1).tolist()


def _raw(store: Store, name: str) -> np.ndarray:
    """Numbers [N] that a scalar feature was made of, log(1 + n) undone."""
    x = store.features(name).gather(np.arange(store.num_nodes["video"]))[:, 0]
    if not np.isfinite(x).all():
        raise FormatError(f"{store.path}: nodes/{name}/x: found a value that is not finite")
    # To a thousandth: the log in float32 holds that of durations, and whole numbers to some millions
    return np.round(np.expm1(x.astype(np.float64)), 3)


def _quantiles(values: np.ndarray) -> dict[str, Any]:
    if not len(values):
        return {"num": 0, "mean": None, "quantiles": {}}
    at_quantiles = np.quantile(values, QUANTILES)
    return {
        "num": len(values),
        "mean": float(values.mean()),
        "quantiles": {str(q): float(v) for q, v in zip(QUANTILES, at_quantiles, strict=True)},
        "max": float(values.max()),
    }


def _shares(store: Store, key: str, top: int | None) -> dict[str, Any]:
    """States of each value of a key, the most frequent first; the sizes of all."""
    codes, values = store.key(key)
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    order = np.argsort(-counts, kind="stable")
    return {
        "num": len(values),
        "states": {values[i]: int(counts[i]) for i in order[:top].tolist()},
        "sizes": counts[order].tolist(),
    }


def _observed(age: np.ndarray) -> dict[str, int]:
    first, second = OBSERVATION_DAYS
    return {
        f"0 to {first}": int((age <= first).sum()),
        f"{first + 1} to {second}": int(((age > first) & (age <= second)).sum()),
        f"above {second}": int((age > second).sum()),
    }


def _increase_of_likes(store: Store, age: np.ndarray) -> dict[str, Any]:
    """(likes − likes before) / likes before / days between, in percent, over neighbouring states of a video.

    Pairs whose first state has no likes are left out. Medians by the age of the first state too.
    """
    url = np.asarray(store.key("url")[0])
    order = np.lexsort((np.arange(len(url)), np.asarray(store.sampling_time), url))
    likes = np.rint(_raw(store, "likes"))[order]
    days = np.diff(age[order])
    pair = (np.diff(url[order]) == 0) & (url[order][1:] >= 0) & (likes[:-1] > 0) & (days > 0)
    percent = 100 * np.diff(likes)[pair] / likes[:-1][pair] / days[pair]
    first_age = age[order][:-1][pair]
    return {
        **_quantiles(percent),
        "median_by_age": {
            int(day): float(np.median(percent[first_age == day])) for day in np.unique(first_age)
        },
    }


def _lengths(store: Store, tokenizer: Path | None) -> dict[str, Any]:
    if tokenizer is None:
        length = np.diff(store.array("nodes/video/text_offset"))
        return {"unit": "bytes", **_quantiles(length), "bins": _length_bins(length)}
    from tokenizers import Tokenizer  # readers of a store do not need it

    file = tokenizer / "tokenizer.json" if tokenizer.is_dir() else tokenizer
    try:
        encode = Tokenizer.from_file(str(file)).encode_batch_fast
    except Exception as error:  # the library raises nothing narrower
        raise StoreError(f"{file}: cannot be read as a tokenizer ({error})") from error
    num = len(store.texts)
    chosen = np.arange(num)
    if num > MAX_TOKENISED:
        chosen = np.sort(np.random.default_rng(0).choice(num, MAX_TOKENISED, replace=False))
    length = np.array(
        [
            len(encoding.ids)
            for part in np.array_split(chosen, -(-len(chosen) // 1024))
            for encoding in encode([store.texts[i] for i in part.tolist()])
        ]
    )
    return {"unit": "tokens", **_quantiles(length), "bins": _length_bins(length)}


def _length_bins(length: np.ndarray) -> dict[str, Any]:
    counts, edges = np.histogram(np.minimum(length, np.quantile(length, 0.99)), bins=40)
    return {"counts": counts.tolist(), "edges": edges.tolist()}


def statistics_table(stats: dict[str, Any]) -> str:
    """The same as text."""

    def row(title: str, values: dict[str, Any]) -> str:
        numbers = "".join(f"{values['quantiles'].get(str(q), float('nan')):>10,.1f}" for q in QUANTILES)
        return f"{title:<38}{numbers}"

    lengths = stats["record_length"]
    lines = [
        f"{'quantile':<38}" + "".join(f"{q:>10.0%}" for q in QUANTILES),
        row("duration, s", stats["durations_s"]),
        row("daily increase of likes, %", stats["daily_increase_of_likes_percent"]),
        row(f"{lengths['unit']} a record", lengths),
        "",
        f"{'level':<38}" + "".join(f"{level:>8}" for level in range(MAX_LEVEL + 1)),
    ]
    for name, counts in stats["levels"].items():
        lines.append(f"{name + ' states':<38}" + "".join(f"{count:>8,}" for count in counts))
    lines += ["", "days from post to sampling   " + _counts(stats["observation_days"])]
    lines.append(f"platforms ({stats['platforms']['num']})   " + _counts(stats["platforms"]["states"]))
    top = dict(list(stats["topics"]["states"].items())[:5])
    lines.append(f"topics ({stats['topics']['num']})   " + _counts(top) + (", …" if top else ""))
    return "\n".join(lines)


def _counts(values: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in values.items())
