"""What a run has cost: time and workers of every attempt at a stage, and bytes on the disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from netgpt.cluster.pipeline.attempts import Attempt
from netgpt.cluster.report.facts import CostFacts, CostRow

OUTCOMES = {"failed": "failed", "interrupted": "interrupted"}
"""Ends of attempts that are worth a word."""


def cost_facts(
    attempts: Sequence[Attempt], stages: Sequence[tuple[str, str, int | None]], store_bytes: int
) -> CostFacts:
    """Cost by stage and in total. stages: name, title and bytes on the disk of each."""
    rows = [
        _row(title, [attempt for attempt in attempts if attempt.stage == name], disk)
        for name, title, disk in stages
    ]
    sizes = [size for *_, size in stages if size is not None]
    known = {name for name, *_ in stages}
    total = _row("total", [a for a in attempts if a.stage in known], sum(sizes) + store_bytes)
    total = replace(total, workers="", remark="")  # the stages say it, each for itself
    notes = []
    if not attempts:
        notes.append("Time and workers are not recorded: this run has no attempts.jsonl.")
    if attempts:
        ends = [a.end_s for a in attempts if a.end_s is not None]
        span = f"First start {_date(attempts[0].start_s)}"
        notes.append(f"{span}, last end {_date(max(ends))}." if ends else f"{span}; no attempt has ended.")
    if any(a.end_s is None for a in attempts):
        notes.append(
            "An attempt without an end is one whose driver was killed, or that is under way: its time is not "
            "known, and sums leave it out."
        )
    store = CostRow("graph store", disk_bytes=store_bytes)
    return CostFacts((store, *rows), total, tuple(notes))


def _row(title: str, attempts: list[Attempt], disk_bytes: int | None) -> CostRow:
    if not attempts:
        return CostRow(title, disk_bytes=disk_bytes)
    ended = [(a, a.seconds) for a in attempts if a.seconds is not None]
    peaks = [a.peak_bytes for a in attempts if a.peak_bytes is not None]
    on_cpu = [a.workers * a.threads * s for a, s in ended if a.device == "cpu"]
    on_gpu = [a.workers * s for a, s in ended if a.device == "cuda"]
    words = [f"{sum(a.outcome == key for a in attempts)} {word}" for key, word in OUTCOMES.items()]
    words.append(f"{len(attempts) - len(ended)} without an end")
    return CostRow(
        title,
        attempts=len(attempts),
        seconds=sum(s for _, s in ended) if ended else None,
        workers=", ".join(str(n) for n in sorted({a.workers for a in attempts})),
        worker_seconds=sum(a.workers * s for a, s in ended) if ended else None,
        cpu_hours=sum(on_cpu) / 3600 if on_cpu else None,
        gpu_hours=sum(on_gpu) / 3600 if on_gpu else None,
        restarts=sum(a.restarts for a in attempts),
        peak_bytes=max(peaks, default=None),
        disk_bytes=disk_bytes,
        remark=", ".join(word for word in words if not word.startswith("0 ")),
    )


def _date(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (OverflowError, ValueError, OSError):
        return "at an unknown time"
