"""Stores made for a person: with progress, and with a word on what was left out."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from netgpt import graphstore
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.progress import counting_bar, say
from netgpt.graphstore import BuildConfig, ReadReport
from netgpt.graphstore.dataset import OnError
from netgpt.graphstore.datasets import names as datasets
from netgpt.graphstore.files import refuse_existing
from netgpt.graphstore.look import SourceFacts, look

_USED_BY = {"encoder": {"text", "text_time"}, "time_dim": {"time", "text_time"}}
"""Settings that all data sets have, and the encodings of features that they count for."""


def build_config(
    source: Path, dataset: str | None, values: dict[str, Any], options: list[str]
) -> tuple[str, BuildConfig]:
    """A source's data set, by its key, and build settings. ClusterError for settings that it has not.

    values: by name. options: more of them, as KEY=VALUE.
    """
    known = datasets.of_build(source, None, dataset)
    defaults = known.Config()
    names = [one.name for one in fields(defaults)]
    for item in options:
        key, equals, text = item.partition("=")
        if not equals or key not in names:
            raise ClusterError(f"--set: found {item!r}, expected KEY=VALUE with one of {', '.join(names)}")
        kind = type(getattr(defaults, key))
        try:
            values[key] = kind(text)
        except ValueError:
            raise ClusterError(
                f"--set: found {item!r}, expected {key}=VALUE of type {kind.__name__}"
            ) from None
    for name in values:
        if name not in names:
            raise ClusterError(
                f"build: found --{name.replace('_', '-')}, expected settings of {known.title}: "
                f"{', '.join(names)}"
            )
    config = known.Config(**values)
    if unused := [name for name in values if name in _USED_BY]:
        encodings = {node.encoding for node in known.open(source, config).schema.node_types}
        for name in unused:
            if not encodings & _USED_BY[name]:
                raise ClusterError(
                    f"build: found --{name.replace('_', '-')}, expected it where there is something to "
                    f"encode; {source} has none of {', '.join(sorted(_USED_BY[name]))}"
                )
    return datasets.key_of(known), config


def synthesize(
    dataset: str | None, json_file: Path | None, out: Path | None, scale: float, seed: int, layout: str
) -> int:
    """Write a data set's synthetic twin as a file, as a store, or both; the number of its target's nodes."""
    known = datasets.load(dataset or next(iter(datasets.DATASETS)))
    if out is not None:
        refuse_existing(out)
    num = 0 if json_file is None else known.write_synthetic(json_file, scale, seed)
    if out is not None:
        if json_file is not None and json_file.resolve().is_relative_to(out.resolve()):
            raise ClusterError(f"{json_file}: inside the store {out}; choose another file for the rows")
        config = known.Config(layout=layout)  # type: ignore[arg-type]  # checked by BuildConfig
        with counting_bar("synth", f" {known.unit}") as progress:
            source = known.synthetic(scale, seed, config)
            graphstore.build(source, out, config, dataset=known, progress=progress)
        made = graphstore.open(out)
        num = made.num_nodes[made.schema.target]
    return num


def build_store(
    data: Path,
    out: Path,
    config: BuildConfig,
    features: Path | None = None,
    *,
    dataset: str | None = None,
    memory_bytes: int | None = None,
) -> None:
    """Build a store of any data set with a progress bar, and say what was left out.

    memory_bytes: for edges that are listed; ClusterError where none are.
    """
    known = datasets.of_build(data, config, dataset)
    with counting_bar("graph store", f" {known.unit}", scaled=memory_bytes is not None) as progress:
        source = known.open(data, config, report=ReadReport())
        if memory_bytes is not None and known.can_join and not source.schema.given_relations:
            raise ClusterError(
                f"--memory: found {memory_bytes:,} bytes, expected it with edge lists alone; the relations "
                f"of {known.title} follow from its {known.unit}"
            )
        report = graphstore.build(
            source,
            out,
            config,
            dataset=known,
            features=features,
            progress=progress,
            memory_bytes=memory_bytes,
        )
    say_skipped(report)
    made = graphstore.open(out).attributes
    if "video" in made.get("features", {}):
        say(f"{made['num_without_video']:,} rows without a video have zeros")


def look_at(source: Path, dataset: str | None, label: str | None) -> SourceFacts:
    """What a source holds; bad rows are counted where its data set can leave them out."""
    known = datasets.of_build(source, None, dataset)
    config = known.Config(on_error="skip" if known.can_skip else "fail")
    opened = known.open(source, config, report=ReadReport(), require_labels=False)
    return look(opened, datasets.key_of(known), label)


def say_skipped(report: ReadReport) -> None:
    """What a read left out or filled in, and what was dropped of listed edges."""
    if report.imputed:
        counts = ", ".join(f"{field}: {num}" for field, num in report.imputed.items())
        say(f"0 for {sum(report.imputed.values())} numbers that were not there or negative ({counts})")
    if report.num_skipped:
        counts = ", ".join(f"{field}: {num}" for field, num in report.skipped.items())
        say(f"left out {report.num_skipped} of {report.num_read + report.num_skipped} records ({counts})")
    if report.dangling:
        counts = ", ".join(f"{field}: {num}" for field, num in report.dangling.items())
        say(f"left out {sum(report.dangling.values())} links to what is not there ({counts})")
    if report.first_skipped:
        say(f"first: {report.first_skipped}")
    for note in report.notes:
        say(note)
    for name, one in report.edges.items():
        say(
            f"{name}: {one.num_edges:,} edges"
            + (f", {one.num_duplicates:,} duplicates dropped" if one.num_duplicates else "")
            + (f", {one.num_self_loops:,} self-loops dropped" if one.num_self_loops else "")
        )


def memory_size(text: str) -> int:
    """Bytes of a size such as 500MB or 4GB (powers of 1000)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", text, re.IGNORECASE)
    if not match:
        raise ClusterError(f"--memory: found {text!r}, expected a size such as 500MB or 4GB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2].upper() or " "))


def append_records(
    store: Path, data: Path, out: Path | None, on_error: OnError, features: Path | None = None
) -> Path:
    """Append with a progress bar; returns where the new version is."""
    with counting_bar("append", f" {graphstore.open(store).dataset.unit}") as progress:
        made, report = graphstore.append(
            store, data, out, on_error=on_error, features=features, progress=progress
        )
    say_skipped(report)
    return made
