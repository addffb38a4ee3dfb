"""XS-Video: states of short videos on five platforms, with the influence level that each video reached.

Source: "Short-video Propagation Influence Rating: A New Real-world Dataset and A New Large Graph Model".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore.dataset import (
    BuildConfig,
    Dataset,
    Facts,
    GraphSize,
    ReadReport,
    Source,
)
from netgpt.graphstore.datasets.xsvideo import formats
from netgpt.graphstore.datasets.xsvideo.annotation import INDICATORS, level_of
from netgpt.graphstore.datasets.xsvideo.plots import PLATFORM_NAMES, write_plots
from netgpt.graphstore.datasets.xsvideo.published import PUBLISHED, published_size
from netgpt.graphstore.datasets.xsvideo.records import is_records
from netgpt.graphstore.datasets.xsvideo.schema import Config
from netgpt.graphstore.datasets.xsvideo.source import file_source
from netgpt.graphstore.datasets.xsvideo.statistics import QUANTILES, statistics, statistics_table
from netgpt.graphstore.datasets.xsvideo.synth import MADE_URL, synthetic_source, write_synthetic
from netgpt.graphstore.errors import RecordError
from netgpt.graphstore.store import Graph, Store

NO_PLATFORM = "no platform"
SHOWN_PLATFORMS = 20


class XSVideo(Dataset):
    """The released records and all that is known of them."""

    name = "xsvideo"
    title = "XS-Video"
    unit = "records"
    Config = Config
    published = PUBLISHED
    thing, label_days = "url", 14.0

    def reads(self, source: Path) -> bool:
        return is_records(source)

    def open(
        self,
        source: Path,
        config: BuildConfig | None = None,
        *,
        report: ReadReport | None = None,
        require_labels: bool = True,
        known_ids: Collection[str] = frozenset(),
        check_history: bool = True,
    ) -> Source:
        return file_source(
            source,
            self.configured(config),
            report=report,
            require_labels=require_labels,
            known_ids=known_ids,
            check_history=check_history,
        )

    def is_synthetic(self, store: Store) -> bool:
        urls = store.category("video", "url")[1]
        return len(urls) > 0 and urls[0].startswith(MADE_URL)

    def synthetic(self, scale: float, seed: int, config: BuildConfig | None = None) -> Source:
        return synthetic_source(scale, seed, self.configured(config))

    def write_synthetic(self, path: Path, scale: float, seed: int) -> int:
        return write_synthetic(path, scale, seed)

    def upgrade(self, attributes: dict[str, Any]) -> dict[str, Any]:
        return formats.upgrade(attributes)

    def derive(self, store: Store, node_type: str, name: str) -> np.ndarray:
        return formats.derived(store, name)

    def cells(self, graph: Graph, nodes: np.ndarray) -> tuple[np.ndarray, ...]:
        """The rule's level of the current counters with all zero and platform; and the level alone."""
        logs = np.concatenate([graph.features(name).gather(nodes) for name in INDICATORS], axis=1)
        counts = np.rint(np.expm1(logs.astype(np.float64)))
        rule = level_of(counts)
        zero = (counts == 0).all(axis=1)
        platform = graph.column("video", "platform")[nodes]
        return (rule * 2 + zero) * 1000 + platform + 1, rule

    def statistics(self, store: Store, tokenizer: Path | None = None) -> dict[str, Any]:
        return statistics(store, tokenizer)

    def statistics_table(self, statistics: dict[str, Any]) -> str:
        return statistics_table(statistics)

    def write_plots(self, statistics: dict[str, Any], folder: Path) -> list[Path]:
        return write_plots(statistics, folder)

    def facts(self, store: Store) -> Facts:
        stats = statistics(store)
        ties = store.attributes["build"].get("ties", "include")
        measures = (
            ("duration, s", stats["durations_s"]),
            ("daily increase of likes, %", stats["daily_increase_of_likes_percent"]),
            (f"record, {stats['record_length']['unit']}", stats["record_length"]),
        )
        platforms = list(stats["platforms"]["states"].items())[:SHOWN_PLATFORMS]
        return Facts(
            counts=(
                ("states", f"{store.num_nodes['video']:,}"),
                ("videos", f"{_num_videos(store):,}"),
                ("authors", f"{len(store.key('author')[1]):,}"),
                ("topics", f"{stats['topics']['num']:,}"),
                ("records left out", f"{store.attributes['num_skipped']:,}"),
                ("heads of the tail's own day", "included" if ties == "include" else "left out"),
            ),
            quantile_names=tuple(f"{q:.0%}" for q in QUANTILES),
            quantiles=tuple(
                (name, tuple(values["quantiles"].get(str(q)) for q in QUANTILES)) for name, values in measures
            ),
            categories={"Platforms": {self.shown("platform", name): num for name, num in platforms}},
        )

    def shown(self, column: str, value: str) -> str:
        """A platform's Latin name where it is one of the data set's, else the value as the data has it."""
        if column == "platform":
            return PLATFORM_NAMES.get(value, value) or NO_PLATFORM
        return value

    def sizes(
        self, config: BuildConfig, text_dim: int | None = None, video_dim: int | None = None
    ) -> GraphSize:
        return published_size(self.configured(config), text_dim, video_dim)

    def record_file(self, record: Mapping[str, Any], name: str) -> tuple[str, bytes]:
        """A record with its `id` beside its fields, or as its file has it: {id: record}."""
        if len(record) == 1 and isinstance(next(iter(record.values())), dict):
            return ".json", json.dumps(record, ensure_ascii=False).encode()
        if "id" not in record:
            raise RecordError(name, None, "id", "nothing", "the state's id, a text of digits")
        key = str(record["id"])
        own = {field: value for field, value in record.items() if field != "id"}
        return ".json", json.dumps({key: own}, ensure_ascii=False).encode()

    def commands(self) -> dict[str, Callable[..., None]]:
        from netgpt.graphstore.datasets.xsvideo.commands import annotate

        return {"annotate": annotate}


def _num_videos(store: Store) -> int:
    """Addresses; a state without one is of a video of its own."""
    codes, addresses = store.key("url")
    return len(addresses) + int((np.asarray(codes) < 0).sum())
