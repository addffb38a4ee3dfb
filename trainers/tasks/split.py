"""Which examples are train, validation and test: by time, at random, or as a column says."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np

from netgpt.graphstore import Graph
from netgpt.trainers.errors import TrainerError, require

PARTS = ("train", "val", "test")
KINDS = ("time", "random", "column")


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    by: str = "time"
    """time: later examples are test; random: a share of them, a function of `seed`; column: a category of the
    target says train, val or test."""
    column: str = "time"
    """Column of the target: with seconds since 1970, or with the parts' names."""
    until: str = ""
    """By time: last day of the train period, YYYY-MM-DD; later examples are test."""
    test_until: str = ""
    """By time: last day of the test period; later examples are of no part. Empty: it has no end."""
    utc_offset_h: float = 0.0
    """Hours that the day's clock is ahead of UTC."""
    test_share: float = 0.1
    """At random: share of the examples that are test."""
    seed: int = 0
    """At random, or where a column names no validation part: another one, other parts."""

    def __post_init__(self) -> None:
        require(self.by in KINDS, "task.split.by", self.by, f"one of {', '.join(KINDS)}")
        require(abs(self.utc_offset_h) <= 14, "task.split.utc_offset_h", self.utc_offset_h, "-14 to 14")
        share = self.test_share
        require(0 < share < 1, "task.split.test_share", share, "a share between 0 and 1")
        require(0 <= self.seed < 1 << 31, "task.split.seed", self.seed, "a whole number from 0, below 2**31")
        if self.until:
            self.end_s()
        if self.test_until:
            end = self._end_of("test_until", self.test_until)
            ok = not self.until or end > self.end_s()
            require(ok, "task.split.test_until", self.test_until, f"a day behind {self.until}")

    @property
    def zone(self) -> timezone:
        """Of the days."""
        return timezone(timedelta(hours=self.utc_offset_h))

    def end_s(self) -> int:
        """First second behind the train period, seconds since 1970."""
        return self._end_of("until", self.until)

    def test_end_s(self) -> int | None:
        """First second behind the test period; None where it has no end."""
        return self._end_of("test_until", self.test_until) if self.test_until else None

    def to_dict(self) -> dict[str, Any]:
        """What a stage is made from: without `test_until` where there is none, as before there was such a
        key."""
        made = asdict(self)
        return made if self.test_until else {k: v for k, v in made.items() if k != "test_until"}

    def _end_of(self, key: str, text: str) -> int:
        try:
            day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=self.zone)
        except ValueError:
            raise TrainerError(f"task.split.{key}: found {text!r}, expected a date YYYY-MM-DD") from None
        return int((day + timedelta(days=1)).timestamp())


def split(graph: Graph, known: np.ndarray, config: SplitConfig, val_share: float) -> tuple[np.ndarray, ...]:
    """Node numbers of train, val and test, ascending: [n] int64 each.

    known [n] int64: labelled nodes of the target, ascending. val_share: by time of the train period, the
    latest; at random of all examples; by a column without such a part, of train. TrainerError where a column
    is missing, or a part would be empty.
    """
    where = getattr(graph, "path", "graph")
    if config.by == "random":
        parts = _at_random(known, config, val_share)
        said = f"found {len(known)} labelled examples, expected enough"
    elif config.by == "column":
        parts = _by_column(graph, known, config, val_share)
        counts = ", ".join(f"{len(part)} {name}" for name, part in zip(PARTS, parts, strict=True))
        said = f"column {config.column!r}: found {counts} among the labelled examples, expected some"
    else:
        parts, num_test = _by_time(graph, known, config, val_share)
        said = (
            f"found {len(known) - num_test} labelled examples in the train period and {num_test} in the test "
            "period, expected some"
        )
    if not all(len(part) for part in parts):
        latest = f" (the latest {val_share:.0%} of train)" if config.by == "time" else ""
        raise TrainerError(f"{where}: {said} for each of train, val{latest} and test")
    return parts


def _by_time(
    graph: Graph, known: np.ndarray, config: SplitConfig, val_share: float
) -> tuple[tuple[np.ndarray, ...], int]:
    require(bool(config.until), "task.split.until", config.until, "the last day of the train period")
    column = number_column(graph, graph.schema.target, config.column, "task.split.column")
    time = np.asarray(column)
    early = time[known] < config.end_s()
    end_s = config.test_end_s()
    period, test = known[early], known[~early if end_s is None else ~early & (time[known] < end_s)]
    if not len(period):
        return (period, period, test), len(test)
    # Examples of one moment stay together
    cut = np.quantile(time[period], 1 - val_share, method="lower")
    return (period[time[period] < cut], period[time[period] >= cut], test), len(test)


def _at_random(known: np.ndarray, config: SplitConfig, val_share: float) -> tuple[np.ndarray, ...]:
    """As scikit-learn's `train_test_split` draws, twice: train from the rest, of that test from val. The
    second seed is twice the first: so seed 9 and shares of a tenth are the split that MMRA published."""
    from sklearn.model_selection import train_test_split

    rest_share = config.test_share + val_share
    require(
        rest_share < 1, "task.val_share", val_share, f"below {1 - config.test_share:g}, beside the test part"
    )
    if len(known) < 3:
        return known[:0], known[:0], known
    train, rest = train_test_split(known, test_size=rest_share, random_state=config.seed)
    if len(rest) < 2:
        return train, rest[:0], rest
    test, val = train_test_split(rest, test_size=val_share / rest_share, random_state=2 * config.seed)
    return np.sort(train), np.sort(val), np.sort(test)


def _by_column(
    graph: Graph, known: np.ndarray, config: SplitConfig, val_share: float
) -> tuple[np.ndarray, ...]:
    """Where the column names no validation part, that is drawn from train."""
    target = graph.schema.target
    categories = [c.name for c in graph.schema.node_type(target).columns if c.kind == "category"]
    there = f"a category of {target}: {', '.join(categories) or 'none'}"
    require(config.column in categories, "task.split.column", config.column, there)
    codes, values = graph.category(target, config.column)
    names = [value.lower() for value in values]
    part_of = np.array([*(PARTS.index(n) if n in PARTS else -1 for n in names), -1], np.int64)
    part = part_of[np.asarray(codes)][known]
    train, val, test = (known[part == i] for i in range(len(PARTS)))
    if "val" in names or len(train) < 2:
        return train, val, test
    order = np.random.default_rng((config.seed, len(train))).permutation(len(train))
    num = min(max(1, round(val_share * len(train))), len(train) - 1)
    return np.sort(train[order[num:]]), np.sort(train[order[:num]]), test


def number_column(graph: Graph, node_type: str, name: str, key: str) -> np.ndarray:
    """A number or time column, or TrainerError with those that there are. key: the setting that names it."""
    columns = [c.name for c in graph.schema.node_type(node_type).columns if c.kind in ("number", "time")]
    known = ", ".join(columns) or "none"
    require(name in columns, key, name, f"a number or time column of {node_type}: {known}")
    return graph.column(node_type, name)
