"""What a store holds, as plain values and as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from graphstore.schema import edge_name
from graphstore.store import SPLITS, Store


def describe(store: Store) -> dict[str, Any]:
    """Counts, widths, layouts and provenance of a store; values are JSON."""
    labels = np.asarray(store.labels)
    return {
        "path": str(store.path),
        "digest": store.digest,
        "source_digest": store.attributes["source_digest"],
        "encoders": store.attributes["encoders"],
        "ties": store.attributes["ties"],
        "train_until": store.attributes["train_until"],
        "num_skipped": store.attributes["num_skipped"],
        "bytes": sum(f.stat().st_size for f in store.path.rglob("*") if f.is_file()),
        "nodes": {
            name: {
                "num_nodes": store.num_nodes[name],
                "num_rows": store.features(name).num_rows,
                "dim": store.features(name).dim,
                "dtype": str(store.features(name).dtype),
            }
            for name in store.node_types
        },
        "relations": {edge_name(e): store.attributes["relations"][edge_name(e)] for e in store.edge_types},
        "splits": {name: len(store.split(name)) for name in SPLITS},
        "levels": {int(k): int(v) for k, v in zip(*np.unique(labels, return_counts=True), strict=True)},
        "videos": len(store.key("url")[1]),
        "authors": len(store.key("author")[1]),
    }


def table(info: dict[str, Any]) -> str:
    """The same as text, in aligned columns."""
    lines = [
        f"store    {info['path']}  ({info['bytes'] / 1e6:,.1f} MB)",
        f"digest   {info['digest']}",
        f"encoders {', '.join(f'{k} {v}' for k, v in info['encoders'].items())}",
        f"splits   {', '.join(f'{k} {v:,}' for k, v in info['splits'].items())}"
        f" (train until {info['train_until']}); {info['videos']:,} videos, {info['authors']:,} authors",
        f"levels   {', '.join(f'{k}: {v:,}' for k, v in info['levels'].items())}",
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
    lines.append(f"{'total':<38}{sum(r['num_edges'] for r in info['relations'].values()):>15,}")
    return "\n".join(lines)
