"""The graph of a run as a report shows it: tables of the store, its splits and distributions."""

from __future__ import annotations

from typing import Any

from netgpt.cluster.report.facts import (
    Chart,
    GraphFacts,
    NodeRow,
    Quantiles,
    RelationRow,
    Series,
    SplitRow,
)
from netgpt.cluster.report.names import platform_title
from netgpt.graphstore import Store
from netgpt.graphstore.info import describe
from netgpt.graphstore.store import MAX_LEVEL
from netgpt.graphstore.xsvideo.statistics import QUANTILES, statistics
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.splits import is_age_zero, make_splits

SHOWN_PLATFORMS = 20


def graph_facts(store: Store, val_share: float) -> tuple[GraphFacts, list[str]]:
    """Of a store of records. Also the platforms' names as the store has them, the most frequent first.

    val_share: of the train states, for the run's validation split.
    """
    info, stats = describe(store), statistics(store)
    records = info["records"]
    platforms: dict[str, int] = stats["platforms"]["states"]
    facts = GraphFacts(
        nodes=tuple(NodeRow(name, **node) for name, node in info["nodes"].items()),
        relations=tuple(
            RelationRow(*edge, num_edges=store.num_edges[edge], layout=relation["layout"])
            for edge, relation in zip(store.edge_types, info["relations"].values(), strict=True)
        ),
        splits=_splits(store, val_share, records),
        platforms=tuple((platform_title(n), num) for n, num in list(platforms.items())[:SHOWN_PLATFORMS]),
        encoders=tuple((str(k), str(v)) for k, v in info["encoders"].items()),
        facts=(
            ("states", f"{store.num_nodes['video']:,}"),
            ("videos", f"{records['videos']:,}"),
            ("authors", f"{records['authors']:,}"),
            ("topics", f"{stats['topics']['num']:,}"),
            ("records left out", f"{records['num_skipped']:,}"),
            ("heads of the tail's own day", "included" if records["ties"] == "include" else "left out"),
        ),
        levels=_levels(stats["levels"]),
        quantile_names=tuple(f"{q:.0%}" for q in QUANTILES),
        quantiles=tuple(
            Quantiles(name, tuple(values["quantiles"].get(str(q)) for q in QUANTILES))
            for name, values in (
                ("duration, s", stats["durations_s"]),
                ("daily increase of likes, %", stats["daily_increase_of_likes_percent"]),
                (f"record, {stats['record_length']['unit']}", stats["record_length"]),
            )
        ),
    )
    return facts, list(platforms)


def _splits(store: Store, val_share: float, records: dict[str, Any]) -> tuple[SplitRow, ...]:
    until = records["train_until"]
    found = [
        SplitRow("train period", records["splits"]["train"], f"posted up to {until}"),
        SplitRow("test period", records["splits"]["test"], f"posted after {until}"),
    ]
    try:
        splits = make_splits(store, val_share)
    except TrainerError:  # of a store that cannot be trained on: its own splits are what there is
        return tuple(found)
    zero = int(is_age_zero(store, splits.test).sum())
    return (
        *found,
        SplitRow("train", len(splits.train), "labelled; the models learn from these"),
        SplitRow(
            "validation", len(splits.val), f"labelled; about the latest {val_share:.0%} of the train period"
        ),
        SplitRow(
            "test", len(splits.test), f"labelled; {zero:,} sampled on the post's day with all counters zero"
        ),
    )


def _levels(levels: dict[str, list[int]]) -> Chart:
    places = tuple(float(level) for level in range(MAX_LEVEL + 1))
    return Chart(
        title="Levels by split",
        xlabel="influence level",
        ylabel="share of the split",
        series=tuple(
            Series(name, style, places, tuple(100 * num / max(1, sum(counts)) for num in counts))
            for style, (name, counts) in enumerate(levels.items())
        ),
        ticks=tuple(str(level) for level in range(MAX_LEVEL + 1)),
        bars=True,
    )
