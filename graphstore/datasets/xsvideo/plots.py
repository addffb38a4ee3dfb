"""The statistics of a store of records as PNG files, one a question."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import atomic_file

PLATFORM_NAMES = {
    "抖音": "Douyin",
    "快手": "Kuaishou",
    "西瓜": "Xigua",
    "头条": "Toutiao",
    "哔哩哔哩": "Bilibili",
}
"""The plots' fonts have Latin letters alone."""


def write_plots(stats: dict[str, Any], folder: Path) -> list[Path]:
    """Draw what `statistics` returned into `folder`; returns the files."""
    from matplotlib.figure import Figure  # takes half a second, and readers of a store do not need it

    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder}: found a file, expected a folder for plots")
    written = []
    for name, draw in _PLOTS.items():
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        draw(figure.add_subplot(), stats)
        path = folder / f"{name}.png"
        with atomic_file(path) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
        written.append(path)
    return written


def _durations(axes: Any, stats: dict[str, Any]) -> None:
    durations = stats["durations_s"]
    edges = durations["bin_s"] * np.arange(len(durations["bins"]))
    axes.bar(edges, durations["bins"], width=durations["bin_s"], align="edge")
    axes.set(xlabel="duration (s)", ylabel="states")


def _topics(axes: Any, stats: dict[str, Any]) -> None:
    sizes = stats["topics"]["sizes"]
    axes.plot(np.arange(1, len(sizes) + 1), sizes, marker=".")
    axes.set(xlabel="rank of the topic", ylabel="states", xscale="log", yscale="log")


def _platforms(axes: Any, stats: dict[str, Any]) -> None:
    states = stats["platforms"]["states"]
    names = [PLATFORM_NAMES.get(name, f"platform {i + 1}") for i, name in enumerate(states)]
    axes.bar(names, list(states.values()))
    axes.set(ylabel="states")


def _levels(axes: Any, stats: dict[str, Any]) -> None:
    for i, (name, counts) in enumerate(stats["levels"].items()):
        share = np.array(counts) / max(1, sum(counts))
        axes.bar(np.arange(len(counts)) + 0.4 * i - 0.2, share, width=0.4, label=name)
    axes.set(xlabel="influence level", ylabel="share of the split", xticks=range(10))
    axes.legend()


def _likes(axes: Any, stats: dict[str, Any]) -> None:
    medians = stats["daily_increase_of_likes_percent"]["median_by_age"]
    axes.plot(list(medians), list(medians.values()), marker=".")
    axes.set(xlabel="days after the post", ylabel="daily increase of likes (%), median")
    axes.set_yscale("symlog", linthresh=1)


def _lengths(axes: Any, stats: dict[str, Any]) -> None:
    lengths = stats["record_length"]
    axes.stairs(lengths["bins"]["counts"], lengths["bins"]["edges"], fill=True)
    axes.set(xlabel=f"{lengths['unit']} a record (longer than 99% counted there)", ylabel="records")


_PLOTS: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "durations": _durations,
    "topics": _topics,
    "platforms": _platforms,
    "levels": _levels,
    "likes": _likes,
    "lengths": _lengths,
}
