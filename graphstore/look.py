"""What a source holds before anything is built: tables, columns, links, and what would give a label away.

Any data set's source is read once, by its blocks and its listed edges, so a guest's is looked at as ours are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from netgpt.graphstore.dataset import Block, Source
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.ranks import rank_correlation
from netgpt.graphstore.schema import Column, NodeType, RelationType, edge_name

NUM_EXAMPLES, MAX_COUNTED = 3, 10_000
LEAK = 0.95
"""A column tells the label where the rank correlation is above it, or the share of rows whose label is the
most frequent one of the column's value."""
MIN_ROWS = 20
"""Fewer rows with both say nothing of a leak."""


@dataclass
class ColumnFacts:
    name: str
    kind: str
    num_empty: int = 0
    """Rows without a value."""
    low: float | None = None
    high: float | None = None
    """Of numbers and times."""
    num_values: int | None = None
    """Distinct values of a category; None where they are too many to be counted."""
    examples: list[str] = field(default_factory=list)
    tells_label: float | None = None
    """How well it tells the label, 0 to 1, where a label was named and the column tells it too well."""


@dataclass
class TableFacts:
    name: str
    num_rows: int
    columns: list[ColumnFacts]
    features: str
    """What features are made of."""


@dataclass
class SourceFacts:
    """All of it; `asdict` makes JSON of it."""

    file: str
    dataset: str
    target: str
    tables: list[TableFacts]
    edges: dict[str, int]
    """Listed edges of each relation."""
    rules: dict[str, str]
    """Relations that follow from columns, and from which."""
    left_out: dict[str, int]
    """Rows that a build would refuse, or leave out with --on-error skip, by column."""
    dangling: dict[str, int]
    """Links to rows that are not there, by column."""
    first_bad: str | None
    label: dict[str, float | int] | None
    """Quantiles of a numeric label, counts of others; None where none was named."""


def _said_rule(relation: RelationType) -> str:
    if relation.nearest is not None:
        return f"{relation.nearest.k} most alike by {', '.join(relation.nearest.by)}"
    return f"same {relation.group_by}" if relation.group_by else relation.column


class _Seen:
    """A column while its blocks pass."""

    def __init__(self, column: Column) -> None:
        self.column, self.facts = column, ColumnFacts(column.name, column.kind)
        self.parts: list[np.ndarray] = []
        """Numbers and times, [n] float64 each; of categories nothing."""
        self.texts: list[str] = []
        self.counts: Counter[str] | None = Counter() if column.kind == "category" else None

    def add(self, values: Any) -> None:
        facts = self.facts
        if self.column.is_text or self.column.kind == "category":
            facts.num_empty += sum(not value for value in values)
            self._show(values)
            if self.column.kind == "category":
                self.texts.extend(values)
                if self.counts is not None:
                    self.counts.update(value for value in values if value)
                    if len(self.counts) > MAX_COUNTED:
                        self.counts = None
            return
        numbers = np.asarray(values, np.float64)
        known = ~np.isnan(numbers)
        if self.column.unknown is not None:
            known &= numbers != self.column.unknown
        facts.num_empty += int((~known).sum())
        self.parts.append(np.where(known, numbers, np.nan))
        if known.any():
            low, high = float(numbers[known].min()), float(numbers[known].max())
            facts.low = low if facts.low is None else min(facts.low, low)
            facts.high = high if facts.high is None else max(facts.high, high)
            self._show([self._said(one) for one in numbers[known][:NUM_EXAMPLES].tolist()])

    def _show(self, values: Sequence[str]) -> None:
        for value in values:
            if len(self.facts.examples) == NUM_EXAMPLES:
                return
            if value and (text := " ".join(value.split())[:40]) not in self.facts.examples:
                self.facts.examples.append(text)

    def _said(self, number: float) -> str:
        return said_time(number) if self.column.kind == "time" else f"{number:g}"

    def codes(self) -> np.ndarray:
        """Values as numbers, NaN where there is none: [N] float64; of a category their numbers."""
        if self.column.kind != "category":
            return np.concatenate(self.parts) if self.parts else np.empty(0)
        number_of: dict[str, int] = {}
        return np.array(
            [number_of.setdefault(t, len(number_of)) if t else np.nan for t in self.texts], np.float64
        )

    def close(self) -> ColumnFacts:
        self.facts.num_values = None if self.counts is None else len(self.counts)
        return self.facts


def look(source: Source, dataset: str, label: str | None = None) -> SourceFacts:
    """Read a source once. label: a column of the target; StoreError where it has none of that name.

    The source should leave bad rows out, so that they are counted. Numbers of the target are held in memory.
    """
    schema = source.schema
    target = schema.node_type(schema.target)
    if label is not None and (
        (one := target.column_named(label)) is None or one.kind in ("id", "text", "time")
    ):
        known = ", ".join(c.name for c in target.columns if c.kind in ("number", "category"))
        raise StoreError(f"{source.file}: --label: found {label!r}, expected one of {known or 'no column'}")
    seen = {
        node.name: {column.name: _Seen(column) for column in node.columns}
        for node in schema.node_types
        if node.origin == "rows"
    }
    num_rows: Counter[str] = Counter()
    for block in source.blocks():
        num_rows[block.table] += len(block)
        _add(seen[block.table], block, keeps=block.table == target.name and label is not None)
    num_rows.update({name: num for name, num in source.num_nodes().items() if name not in num_rows})
    with TemporaryDirectory() as folder:
        source.scratch = Path(folder)
        edges = {
            edge_name(relation.edge_type): sum(len(piece.heads) for piece in source.edges(relation.edge_type))
            for relation in schema.relations
            if relation.rule == "listed"
        }
        source.scratch = None
    rules = {edge_name(r.edge_type): _said_rule(r) for r in schema.relations if r.rule != "listed"}
    tables = [
        TableFacts(
            name, num_rows[name], [one.close() for one in columns.values()], _features(schema.node_type(name))
        )
        for name, columns in seen.items()
    ]
    said = None
    if label is not None:
        said = _label(seen[target.name][label])
        _leaks(seen[target.name], label)
    report = source.report
    return SourceFacts(
        source.file,
        dataset,
        target.name,
        tables,
        edges,
        rules,
        dict(report.skipped),
        dict(report.dangling),
        report.first_skipped,
        said,
    )


def _add(columns: dict[str, _Seen], block: Block, *, keeps: bool) -> None:
    for name, one in columns.items():
        one.add(block.columns[name])
        if not keeps:
            one.parts.clear()
            one.texts.clear()


def _features(node: NodeType) -> str:
    if node.encoding == "none":
        return "none"
    return f"{node.encoding} of {', '.join(name.lstrip('_') for name in node.inputs) or 'each'}"


def _label(one: _Seen) -> dict[str, float | int]:
    values = one.codes()
    values = values[~np.isnan(values)]
    if one.counts is not None:
        return dict(one.counts.most_common(20))
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= 20:
        return {f"{value:g}": int(num) for value, num in zip(distinct, counts, strict=True)}
    quantiles = np.quantile(values, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])
    names = ("least", "10%", "25%", "median", "75%", "90%", "greatest")
    return {name: float(value) for name, value in zip(names, quantiles, strict=True)}


def _leaks(columns: dict[str, _Seen], label: str) -> None:
    """Note the columns that tell the label: of numbers by Spearman's rank correlation, else by how often the
    label is the most frequent one of the value, where values come again."""
    truth = columns[label].codes()
    for name, one in columns.items():
        if name == label or one.column.is_text:
            continue
        values = one.codes()
        both = ~np.isnan(values) & ~np.isnan(truth)
        if both.sum() < MIN_ROWS:
            continue
        x, y = values[both], truth[both]
        if one.column.kind == "category" or columns[label].column.kind == "category":
            told = _told(x, y)
        else:
            told = abs(rank_correlation(x, y) or 0.0)
        if told >= LEAK:
            one.facts.tells_label = round(told, 4)


def _told(x: np.ndarray, y: np.ndarray) -> float:
    """Share of rows whose label is the most frequent of their value; 0 where a constant says as much, and
    where most values come but once."""
    _, code = np.unique(x, return_inverse=True)
    _, labels = np.unique(y, return_inverse=True)
    if code.max() + 1 > len(x) / 2:
        return 0.0
    pairs, counts = np.unique(np.stack([code, labels], axis=1), axis=0, return_counts=True)
    best = np.zeros(code.max() + 1, np.int64)
    np.maximum.at(best, pairs[:, 0], counts)
    share, constant = best.sum() / len(x), np.bincount(labels).max() / len(x)
    return float(share) if share > constant + (1 - constant) / 2 else 0.0


def said_time(seconds: float) -> str:
    """Seconds since 1970 as a person reads them."""
    try:
        return f"{datetime.fromtimestamp(int(seconds), UTC):%Y-%m-%d %H:%M:%S}"
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def look_table(facts: SourceFacts) -> str:
    """The same as text."""
    lines = [f"source   {facts.file}", f"data set {facts.dataset}", f"target   {facts.target}"]
    for table in facts.tables:
        lines += ["", f"{table.name}: {table.num_rows:,} rows, features: {table.features}"]
        for column in table.columns:
            lines.append(f"  {column.name:<20} {column.kind:<9} {_column_text(column)}".rstrip())
    if facts.edges or facts.rules:
        lines.append("")
    lines += [f"{name:<44} {num:>14,} edges" for name, num in facts.edges.items()]
    lines += [f"{name:<44} by {rule}" for name, rule in facts.rules.items()]
    if facts.label is not None:
        lines += ["", f"label    {', '.join(f'{name}: {value:g}' for name, value in facts.label.items())}"]
    for table in facts.tables:
        for column in table.columns:
            if column.tells_label is not None:
                lines.append(
                    f"leak     {table.name}.{column.name} tells the label ({column.tells_label:.4f})"
                )
    for what, counts in (("bad rows", facts.left_out), ("dangling", facts.dangling)):
        if counts:
            lines.append(f"{what} {', '.join(f'{name}: {num:,}' for name, num in counts.items())}")
    if facts.first_bad:
        lines.append(f"first    {facts.first_bad}")
    return "\n".join(lines)


def _column_text(column: ColumnFacts) -> str:
    parts = []
    if column.low is not None and column.high is not None:
        said = said_time if column.kind == "time" else "{:g}".format
        parts.append(f"{said(column.low)} to {said(column.high)}")
    if column.num_values is not None:
        parts.append(f"{column.num_values:,} values")
    if column.low is None and column.examples:
        parts.append(" | ".join(column.examples))
    if column.num_empty:
        parts.append(f"{column.num_empty:,} empty")
    return ", ".join(parts)
