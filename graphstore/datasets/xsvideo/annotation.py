"""The annotation rule: a video's level from its indicators two weeks after the post.

Indicators of each platform are first brought to one measure, that of the reference platform, by a factor
for each platform and indicator. Source: "Short-video Propagation Influence Rating", its annotation
section (the level table, and the factor as the minimum of the mean squared percentage error).

Legend: V videos.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.dataset import OnError, ReadReport
from netgpt.graphstore.datasets.xsvideo.records import (
    LEVEL,
    MAX_LEVEL,
    Record,
    raw_records,
    read_records,
    written_records,
)
from netgpt.graphstore.errors import RecordError, StoreError
from netgpt.graphstore.features import DAY_S
from netgpt.graphstore.files import atomic_file, read_json

VIEW_THRESHOLDS = (0, 100, 100_000, 1_000_000, 1_000_000, 1_000_000, 10_000_000, 100_000_000, 200_000_000)
OTHER_THRESHOLDS = (0, 10, 20, 80, 300, 1_000, 3_000, 10_000, 50_000)
"""Threshold of level i + 1: for views, and for each of likes, shares, collects and comments."""

INDICATORS = ("views", "likes", "shares", "collects", "comments")
THRESHOLDS: Mapping[str, tuple[int, ...]] = {
    name: tuple(sorted(set(VIEW_THRESHOLDS if name == "views" else OTHER_THRESHOLDS))) for name in INDICATORS
}
"""The distinct thresholds of each indicator."""
FINAL_DAYS = 14
"""A level is final two weeks after the post."""
MIN_GAP_DAYS = 2
"""States of a video are this far apart or more."""
_MAX_FACTOR = 1e12

Factors = Mapping[str, Mapping[str, float]]
"""Platform → indicator → what to multiply by; 1 where it is not given."""


def level_of(indicators: np.ndarray) -> np.ndarray:
    """Levels of scaled indicators: [n, 5] in the order of INDICATORS → [n] int64, 0 to 9.

    The highest level of which any one indicator is above (not at) the threshold; 0 where all are zero.
    """
    views = np.searchsorted(VIEW_THRESHOLDS, indicators[:, 0], side="left")
    others = np.searchsorted(OTHER_THRESHOLDS, indicators[:, 1:], side="left")
    return np.maximum(views, others.max(axis=1)).astype(np.int64)


def fit_factor(x: np.ndarray, y: np.ndarray) -> float:
    """The a that makes Σ((a·x − y) / y)² least: Σ(x / y) / Σ(x / y)². Pairs with a zero are left out.

    x [n]: counts there; y [n]: counts of the same videos on the reference platform. NaN for no pairs.
    """
    both = (x > 0) & (y > 0)
    ratio = x[both] / y[both]
    return float(ratio.sum() / (ratio**2).sum()) if both.any() else math.nan


def read_pairs(path: Path) -> dict[str, dict[str, float]]:
    """Factors fitted from a CSV file with the columns platform, indicator, x, y (see `fit_factor`).

    One row is one indicator of one video posted on both platforms. Raises RecordError.
    """
    columns = ("platform", "indicator", "x", "y")
    pairs_of: dict[tuple[str, str], list[tuple[float, float]]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = tuple(rows.fieldnames or ())
            if missing := [c for c in columns if c not in names]:
                found_names = f"the columns {', '.join(names)}"
                raise RecordError(str(path), None, missing[0], found_names, ", ".join(columns))
            for row in rows:
                line, indicator = str(rows.line_num), row["indicator"]
                if indicator not in INDICATORS:
                    expected = f"one of {', '.join(INDICATORS)}"
                    raise RecordError(str(path), line, "indicator", repr(indicator), expected)
                pair = (_count(path, line, "x", row["x"]), _count(path, line, "y", row["y"]))
                pairs_of.setdefault((row["platform"], indicator), []).append(pair)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path}: cannot be read as CSV ({error})") from error
    factors: dict[str, dict[str, float]] = {}
    for (platform, indicator), pairs in pairs_of.items():
        factor = fit_factor(*np.array(pairs, np.float64).T)
        if math.isfinite(factor):
            factors.setdefault(platform, {})[indicator] = factor
    if not factors:
        raise StoreError(f"{path}: found no pair without a zero, expected at least one")
    return factors


def _count(path: Path, line: str, name: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise RecordError(str(path), line, name, repr(text), "a number from 0")
    return value


def read_factors(path: Path) -> dict[str, dict[str, float]]:
    """Factors from a JSON file: {platform: {indicator: factor}}. Raises StoreError."""
    try:
        raw = read_json(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(raw, dict) or not all(isinstance(v, dict) for v in raw.values()):
        raise StoreError(f"{path}: found no object of objects, expected {{platform: {{indicator: factor}}}}")
    for platform, values in raw.items():
        for name, value in values.items():
            if name not in INDICATORS:
                raise StoreError(
                    f"{path}: {platform}: found indicator {name!r}, expected one of {', '.join(INDICATORS)}"
                )
            if type(value) not in (int, float) or not 0 < value < _MAX_FACTOR:
                raise StoreError(f"{path}: {platform}.{name}: found {value!r}, expected a number above 0")
    return {platform: {k: float(v) for k, v in values.items()} for platform, values in raw.items()}


Video = tuple[str, str]
"""What tells videos apart: the address, and for a state without one its own id."""


def video_of(url: str, state: str) -> Video:
    """The video that a state is of. States without an address have nothing in common."""
    return (url, "") if url else ("", state)


@dataclass(frozen=True)
class Annotation:
    """One video's level, by its last state. `is_final`: that state is two weeks old or more."""

    video: Video
    url: str
    platform: str
    level: int
    is_final: bool
    age_days: int
    """From the day of the post to the last state."""
    released_level: int
    """What the records say, −1 where they say nothing."""
    num_states: int
    num_close: int
    """Pairs of neighbouring states less than two days apart."""


@dataclass
class _States:
    last: Record
    sampled: list[int] = field(default_factory=list)


def annotate(records: Iterable[Record], factors: Factors | None = None) -> list[Annotation]:
    """Rate every video of the records, in order of first appearance."""
    videos: dict[Video, _States] = {}
    for record in records:
        states = videos.setdefault(video_of(record.url, record.id), _States(record))
        states.sampled.append(record.sampling_time)
        if record.sampling_time >= states.last.sampling_time:
            states.last = record
    if not videos:
        return []
    last = [states.last for states in videos.values()]
    counts = np.array([[r.counts[name] for name in INDICATORS] for r in last], np.float64)
    known = factors or {}
    scale = np.array([[known.get(r.platform, {}).get(name, 1.0) for name in INDICATORS] for r in last])
    levels = level_of(counts * scale).tolist()
    annotations = []
    for (video, states), level in zip(videos.items(), levels, strict=True):
        record = states.last
        # The sampling date is a midnight: of the post, its date counts too
        age = -((record.post_time - record.sampling_time) // DAY_S)
        gaps = np.diff(np.sort(np.array(states.sampled, np.int64)))
        annotations.append(
            Annotation(
                video=video,
                url=record.url,
                platform=record.platform,
                level=level,
                is_final=age >= FINAL_DAYS,
                age_days=age,
                released_level=record.level,
                num_states=len(states.sampled),
                num_close=int((gaps < MIN_GAP_DAYS * DAY_S).sum()),
            )
        )
    return annotations


def annotate_file(
    source: Path,
    out: Path | None = None,
    *,
    factors: Factors | None = None,
    provisional: bool = False,
    on_error: OnError = "fail",
    report: ReadReport | None = None,
) -> list[Annotation]:
    """Rate the videos of a file of released records, of which the level may be absent.

    With `out`, write the records with their video's level; videos whose level is not final are left out
    unless `provisional`. report: counts what was left out. Raises RecordError and SourceError.
    """
    kept: set[str] = set()
    report = report if report is not None else ReadReport()

    def noted(records: Iterable[Record]) -> Iterable[Record]:
        for record in records:
            kept.add(record.id)
            yield record

    read = read_records(source, require_level=False, on_error=on_error, report=report)
    annotations = annotate(noted(read), factors)
    if out is not None:
        level = {a.video: a.level for a in annotations if a.is_final or provisional}

        def rated() -> Iterator[tuple[str, Any]]:
            for state, record in raw_records(source):
                if state not in kept:
                    continue
                kept.discard(state)  # an id that comes again was left out, or is an error
                video = video_of(record["url"], state)
                if video in level:
                    yield state, {**record, LEVEL: level[video]}

        def refuse(state: str, error: ValueError) -> None:
            """Of values in keys that no one reads."""
            refused = RecordError(str(source), state, None, str(error), "values that JSON has")
            if on_error == "fail":
                raise refused from None
            report.skip(refused)

        with atomic_file(out) as temporary:
            for _ in written_records(rated(), temporary, refuse):
                pass
    return annotations


def summary(annotations: list[Annotation], factors: Factors | None) -> dict[str, Any]:
    """Counts of an annotation as JSON: levels, what is not final, close states, agreement by platform."""
    known = factors or {}
    platforms = {}
    for platform in dict.fromkeys(a.platform for a in annotations):
        mine = [a for a in annotations if a.platform == platform]
        rated = [a for a in mine if a.released_level >= 0]
        equal = sum(a.level == a.released_level for a in rated)
        platforms[platform] = {
            "videos": len(mine),
            "with_released_level": len(rated),
            "equal": equal,
            "share_equal": equal / len(rated) if rated else None,
            "factors": {name: known.get(platform, {}).get(name) for name in INDICATORS},
        }
    return {
        "videos": len(annotations),
        "states": sum(a.num_states for a in annotations),
        "levels": {level: sum(a.level == level for a in annotations) for level in range(MAX_LEVEL + 1)},
        "not_final": sum(not a.is_final for a in annotations),
        "final_after_days": FINAL_DAYS,
        "close_states": sum(a.num_close for a in annotations),
        "videos_with_close_states": sum(a.num_close > 0 for a in annotations),
        "min_gap_days": MIN_GAP_DAYS,
        "platforms": platforms,
    }


def summary_table(counts: dict[str, Any]) -> str:
    """The same as text."""
    lines = [
        f"{counts['videos']:,} videos, {counts['states']:,} states",
        "levels   " + ", ".join(f"{level}: {num:,}" for level, num in counts["levels"].items()),
        f"not final (last state before day {counts['final_after_days']})   {counts['not_final']:,} videos",
        f"states less than {counts['min_gap_days']} days apart   {counts['close_states']:,} in "
        f"{counts['videos_with_close_states']:,} videos",
        "",
        f"{'platform':<10}{'videos':>10}{'equal to released':>20}  factors of {', '.join(INDICATORS)}",
    ]
    for name, one in counts["platforms"].items():
        equal = "" if one["share_equal"] is None else f"{one['equal']:,} ({one['share_equal']:.1%})"
        factors = ", ".join("1 (none)" if f is None else f"{f:.4g}" for f in one["factors"].values())
        lines.append(f"{name:<10}{one['videos']:>10,}{equal:>20}  {factors}")
    return "\n".join(lines)
