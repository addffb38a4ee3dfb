"""What a store holds, as plain values and as text."""

from __future__ import annotations

from typing import Any, TypedDict

import numpy as np

from netgpt.graphstore.files import total_bytes
from netgpt.graphstore.relation_types import SCORE
from netgpt.graphstore.schema import Column, NodeType, RelationType, edge_name
from netgpt.graphstore.store import SPLITS, Store

MAX_COUNTED = 20
"""Most values of a column that are counted one by one."""
SCORE_BINS = 20
"""From −1 to 1."""
NEAR_DUPLICATE = 0.99
"""Score from which two nodes are as good as copies."""


class NodeInfo(TypedDict):
    """A node type's nodes, and its features: distinct rows, their width and type."""

    num_nodes: int
    num_rows: int
    dim: int
    dtype: str


class ColumnInfo(TypedDict):
    """A column of the target type."""

    title: str
    kind: str
    num_values: int | None
    """Distinct values of a category."""
    counts: dict[str, int]
    """Nodes of each value, of numbers within bounds that are few."""


class SplitInfo(TypedDict):
    """The split that the data set comes with."""

    column: str
    until: str
    """The last of train, as a person says it."""
    parts: dict[str, int]
    """Nodes of each part."""


class StoreInfo(TypedDict):
    """All of it; values are JSON."""

    path: str
    digest: str
    source_digest: str
    dataset: str
    encoders: dict[str, str]
    bytes: int
    nodes: dict[str, NodeInfo]
    relations: dict[str, dict[str, Any]]
    target: str
    columns: dict[str, ColumnInfo]
    split: SplitInfo | None
    num_skipped: int


def describe(store: Store) -> StoreInfo:
    """Counts, widths, layouts and provenance of a store."""
    attributes, split = store.attributes, store.schema.split
    target = store.schema.node_type(store.schema.target)
    return {
        "path": str(store.path),
        "digest": store.digest,
        "source_digest": attributes["source_digest"],
        "dataset": attributes["dataset"],
        "encoders": attributes["encoders"],
        "bytes": total_bytes(store.path),
        "nodes": {n.name: _node(store, n) for n in store.schema.node_types},
        "relations": {edge_name(r.edge_type): _relation(store, r) for r in store.schema.relations},
        "target": target.name,
        "columns": {c.name: _column(store, c) for c in target.columns},
        "split": None
        if split is None
        else {
            "column": split.column,
            "until": split.shown,
            "parts": {name: len(store.split(name)) for name in SPLITS},
        },
        "num_skipped": attributes["num_skipped"],
    }


def _node(store: Store, node: NodeType) -> NodeInfo:
    num = store.num_nodes[node.name]
    if node.encoding == "none":
        return {"num_nodes": num, "num_rows": 0, "dim": 0, "dtype": "none"}
    features = store.features(node.name)
    return {
        "num_nodes": num,
        "num_rows": features.num_rows,
        "dim": features.dim,
        "dtype": str(features.dtype),
    }


def _relation(store: Store, relation: RelationType) -> dict[str, Any]:
    """What the attributes say of it; of what is nearest also how rows are filled, and the scores."""
    said = dict(store.attributes["relations"][edge_name(relation.edge_type)])
    if relation.nearest is None:
        return said
    rows = store.relation(relation.edge_type)
    degree, scores = rows.degree(), np.asarray(rows.numbers[SCORE])
    edges = np.linspace(-1, 1, SCORE_BINS + 1)
    counts = np.histogram(np.clip(scores, -1, 1), edges)[0]
    return {
        **said,
        "k": relation.nearest.k,
        "num_short": int(((degree > 0) & (degree < relation.nearest.k)).sum()),
        "num_empty": int((degree == 0).sum()),
        "num_near_duplicates": int((scores >= NEAR_DUPLICATE).sum()),
        "histogram": {f"{low:.1f}": int(num) for low, num in zip(edges, counts, strict=False) if num},
    }


def _column(store: Store, column: Column) -> ColumnInfo:
    num_values, counts, target = None, {}, store.schema.target
    if column.kind == "category":
        num_values = len(store.category(target, column.name)[1])
    elif _is_counted(column):
        counted = np.unique(np.asarray(store.column(target, column.name)), return_counts=True)
        counts = {str(value): int(num) for value, num in zip(*counted, strict=True)}
    return {
        "title": column.title or column.name,
        "kind": column.kind,
        "num_values": num_values,
        "counts": counts,
    }


def _is_counted(column: Column) -> bool:
    """Whole numbers within bounds that are few."""
    if column.kind != "number" or column.low is None or column.high is None:
        return False
    return column.number_type.kind in "iu" and column.high - column.low < MAX_COUNTED


def table(info: StoreInfo) -> str:
    """The same as text, in aligned columns."""
    lines = [
        f"store    {info['path']}  ({info['bytes'] / 1e6:,.1f} MB)",
        f"digest   {info['digest']}",
        f"data set {info['dataset']}",
    ]
    if info["encoders"]:
        lines.append(f"encoders {', '.join(f'{k} {v}' for k, v in info['encoders'].items())}")
    if split := info["split"]:
        parts = ", ".join(f"{name} {num:,}" for name, num in split["parts"].items())
        lines.append(f"split    {parts} (train until {split['until']})")
    for column in info["columns"].values():
        if column["counts"]:
            counted = ", ".join(f"{value}: {num:,}" for value, num in column["counts"].items())
            lines.append(f"{column['title']}   {counted}")
    categories = [
        f"{c['title']} {c['num_values']:,}" for c in info["columns"].values() if c["num_values"] is not None
    ]
    if categories:
        lines.append(f"values   {', '.join(categories)}")
    lines += [
        "",
        f"{'node type':<14}{'nodes':>12}{'rows':>12}{'width':>8}  type",
    ]
    for name, node in info["nodes"].items():
        lines.append(
            f"{name:<14}{node['num_nodes']:>12,}{node['num_rows']:>12,}{node['dim']:>8,}  {node['dtype']}"
        )
    lines.append(f"{'total':<14}{sum(n['num_nodes'] for n in info['nodes'].values()):>12,}")
    lines += ["", f"{'relation':<38}{'edges':>15}  layout"]
    for name, relation in info["relations"].items():
        lines.append(f"{name:<38}{relation['num_edges']:>15,}  {relation['layout']}")
        for part, num in relation.get("held", {}).items():
            lines.append(f"{f'  held out: {part}':<38}{num:>15,}  pairs, no edges")
        if "histogram" in relation:
            lines.append(
                f"  the nearest {relation['k']}: {relation['num_short']:,} nodes have fewer, "
                f"{relation['num_empty']:,} none; {relation['num_near_duplicates']:,} edges of a score from "
                f"{NEAR_DUPLICATE} on"
            )
            if said := relation.get("approximate"):
                lines.append(
                    f"  approximate: {said['recall']:.2%} of the true heads, of {said['of']:,} nodes, with "
                    f"{said['probes']:,} probes"
                )
            scores = ", ".join(f"{low}: {num:,}" for low, num in relation["histogram"].items())
            lines.append(f"  scores from {scores}")
    lines.append(f"{'total':<38}{sum(int(r['num_edges']) for r in info['relations'].values()):>15,}")
    return "\n".join(lines)
