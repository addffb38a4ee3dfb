"""Counts of a service's replicas in Prometheus' text form: any replica answers for all."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside every count
FORGET_S = 60.0
"""A replica that has not been heard of for so long is gone."""


class Counts:
    """What one replica counts."""

    def __init__(self, replica: str) -> None:
        self.replica, self._registry = replica, CollectorRegistry()
        label: dict[str, Any] = {"registry": self._registry, "labelnames": ["replica"]}
        self.requests = Counter(
            "netgpt_requests",
            "Requests, by the status of HTTP.",
            ["replica", "status"],
            registry=self._registry,
        )
        self.records = Counter("netgpt_records", "Records answered.", **label).labels(replica)
        self.refused = Counter("netgpt_records_refused", "Records without an answer.", **label).labels(
            replica
        )
        self.seconds = Histogram(
            "netgpt_request_seconds",
            "Seconds from a request's first byte to its answer.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
            **label,
        ).labels(replica)
        self.batch = Histogram(
            "netgpt_batch_records",
            "Records that were answered together.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128),
            **label,
        ).labels(replica)

    def text(self) -> str:
        return generate_latest(self._registry).decode()


class Board:
    """The last text of every replica; an actor."""

    def __init__(self) -> None:
        self._texts: dict[str, tuple[float, str]] = {}

    def put(self, replica: str, text: str) -> list[str]:
        """Keep a replica's text; the texts of all."""
        now = time.monotonic()
        self._texts[replica] = now, text
        self._texts = {name: one for name, one in self._texts.items() if now - one[0] < FORGET_S}
        return [one for _, one in self._texts.values()]


class _Merged:
    """Families of several texts, each once."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def collect(self) -> Iterator[Any]:
        families: dict[str, Metric] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text):
                known = families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                )
                known.samples += family.samples
        yield from families.values()


def merged(texts: Sequence[str]) -> str:
    """One text of all replicas'."""
    registry = CollectorRegistry()
    registry.register(_Merged(texts))  # type: ignore[arg-type]
    return generate_latest(registry).decode()
