"""What a store holds, as plain values and as text."""

from __future__ import annotations

from typing import Any

import numpy as np

from netgpt.graphstore.files import total_bytes
from netgpt.graphstore.schema import NodeType, edge_name
from netgpt.graphstore.store import SPLITS, Store


def describe(store: Store) -> dict[str, Any]:
    """Counts, widths, layouts and provenance of a store; values are JSON."""
    attributes = store.attributes
    found: dict[str, Any] = {
        "path": str(store.path),
        "digest": store.digest,
        "source_digest": attributes["source_digest"],
        "encoders": attributes["encoders"],
        "bytes": total_bytes(store.path),
        "nodes": {n.name: _node(store, n) for n in store.schema.node_types},
        "relations": {edge_name(e): attributes["relations"][edge_name(e)] for e in store.edge_types},
    }
    if store.has_records:
        levels, counts = np.unique(np.asarray(store.labels), return_counts=True)
        found["records"] = {
            **{name: attributes[name] for name in ("ties", "train_until", "num_skipped")},
            "splits": {name: len(store.split(name)) for name in SPLITS},
            "levels": {int(k): int(v) for k, v in zip(levels, counts, strict=True)},
            "videos": len(store.key("url")[1]),
            "authors": len(store.key("author")[1]),
        }
    return found


def _node(store: Store, node: NodeType) -> dict[str, Any]:
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


def table(info: dict[str, Any]) -> str:
    """The same as text, in aligned columns."""
    lines = [
        f"store    {info['path']}  ({info['bytes'] / 1e6:,.1f} MB)",
        f"digest   {info['digest']}",
    ]
    if info["encoders"]:
        lines.append(f"encoders {', '.join(f'{k} {v}' for k, v in info['encoders'].items())}")
    if records := info.get("records"):
        lines += [
            f"splits   {', '.join(f'{k} {v:,}' for k, v in records['splits'].items())}"
            f" (train until {records['train_until']});"
            f" {records['videos']:,} videos, {records['authors']:,} authors",
            f"levels   {', '.join(f'{k}: {v:,}' for k, v in records['levels'].items())}",
        ]
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
    lines.append(f"{'total':<38}{sum(r['num_edges'] for r in info['relations'].values()):>15,}")
    return "\n".join(lines)
