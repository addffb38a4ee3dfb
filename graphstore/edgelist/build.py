"""A sealed store from a description of edge lists."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from netgpt.graphstore.arrays import ArrayWriter
from netgpt.graphstore.edgelist.describe import Description, EdgeDescription, read_description
from netgpt.graphstore.edgelist.groups import group_length, group_rows
from netgpt.graphstore.edgelist.read import NpyRows, open_npy, read_edges
from netgpt.graphstore.edgelist.sort import Policy, RowStats, write_rows
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import atomic_dir, file_digest, refuse_existing, value_digest
from netgpt.graphstore.integrity.seal import write_attributes, write_seal
from netgpt.graphstore.relations import Layout, write_relation
from netgpt.graphstore.schema import NodeType, RelationType, Schema, edge_name

DEFAULT_MEMORY_BYTES = 4_000_000_000
_FEATURE_BYTES = 1 << 24


def build_edges(
    source: Path | str,
    out: Path | str,
    *,
    layout: Layout = "prefix",
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, RowStats]:
    """Build a store at `out` from the description `source`; edges of each relation by its name.

    Rows of edge lists are in `csr` layout, each in the order of its files; rows of groups in `layout`.
    Memory stays within `memory_bytes` and some pieces of a million edges. Nothing is left at `out` when
    this raises (StoreError).
    """
    source, out = Path(source), Path(out)
    refuse_existing(out)
    description = read_description(source)
    features = {
        name: _features(Path(node.features))
        for name, node in description.nodes.items()
        if node.features is not None
    }
    counts = _node_counts(source, description, features)
    found: dict[str, RowStats] = {}
    layouts: dict[str, Layout] = {}
    with atomic_dir(out) as root:
        for name, x in features.items():
            _write_features(root, name, Path(description.nodes[name].features or ""), x)
        for edge in description.edges:
            src, _, dst = edge.edge_type
            name = edge_name(edge.edge_type)
            if edge.group is not None:
                relation = group_rows(edge, counts[dst], memory_bytes)
                layouts[name] = write_relation(root, relation, layout)
                found[name] = RowStats(relation.num_edges, 0, 0)
                continue
            layouts[name] = "csr"
            found[name] = write_rows(
                root,
                f"edges/{name}",
                partial(read_edges, edge),
                num_heads=counts[src],
                num_tails=counts[dst],
                policy=Policy(duplicates=edge.duplicates, self_loops=edge.self_loops, same_type=src == dst),
                memory_bytes=memory_bytes,
                progress=progress,
            )
        write_attributes(root, _attributes(source, description, counts, found, layouts))
        write_seal(root)
    return found


def _node_counts(source: Path, description: Description, features: dict[str, NpyRows]) -> dict[str, int]:
    """Nodes of each type: as given, as many as features or group columns have, or the greatest number + 1."""
    counts: dict[str, int] = {}
    for name, node in description.nodes.items():
        num_rows = features[name].shape[0] if name in features else None
        if node.count is not None and num_rows not in (None, node.count):
            raise StoreError(
                f"{node.features}: found {num_rows} rows, expected {node.count} (nodes.{name}.count)"
            )
        known = node.count or num_rows
        if known is not None:
            counts[name] = known
    for edge in description.edges:
        if edge.group is not None and edge.type[0] not in counts:
            counts[edge.type[0]] = group_length(edge.group)
    open_types = set(description.nodes) - set(counts)
    greatest = dict.fromkeys(open_types, -1)
    for edge in description.edges:
        src, _, dst = edge.edge_type
        if open_types & {src, dst}:
            for piece in read_edges(edge):
                for name, values in ((src, piece.heads), (dst, piece.tails)):
                    if name in greatest:
                        greatest[name] = max(greatest[name], int(values.max()))
    for name, value in greatest.items():
        if value < 0:
            raise StoreError(f"{source}: nodes.{name}: found no edge and no count, expected a count")
        counts[name] = value + 1
    return counts


def _features(path: Path) -> NpyRows:
    """[nodes, width] of an .npy file, to be read in pieces."""
    x = open_npy(str(path))
    if len(x.shape) != 2 or x.shape[1] < 1 or x.dtype not in (np.float16, np.float32):
        raise StoreError(
            f"{path}: found {x.dtype} {list(x.shape)}, expected float16 or float32 [nodes, width]"
        )
    return x.require(2)


def _write_features(root: Path, name: str, path: Path, x: NpyRows) -> None:
    num, width = x.shape
    step = max(1, _FEATURE_BYTES // (x.dtype.itemsize * width))
    with ArrayWriter(root, f"nodes/{name}/x", x.dtype, width) as writer:
        for first in range(0, num, step):
            block = x.read(first, min(first + step, num))
            if not np.isfinite(block).all():
                row = first + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise StoreError(f"{path}: record {row}: found a value that is not finite, expected numbers")
            writer.append(block)


def _attributes(
    source: Path,
    description: Description,
    counts: dict[str, int],
    found: dict[str, RowStats],
    layouts: dict[str, Layout],
) -> dict[str, object]:
    schema = Schema(
        target=description.target or description.edges[0].type[2],
        node_types=tuple(
            NodeType(name=name, encoding="none" if node.features is None else "given")
            for name, node in description.nodes.items()
        ),
        relations=tuple(_relation_type(edge) for edge in description.edges),
    )
    files = [path for edge in description.edges for path in _files(edge)]
    files += [node.features for node in description.nodes.values() if node.features is not None]
    digests = [file_digest(Path(path)) for path in files]
    return {
        "schema": schema.to_dict(),
        "num_nodes": counts,
        "relations": {
            name: {
                "layout": layouts[name],
                "num_edges": stats.num_edges,
                "num_duplicates_dropped": stats.num_duplicates,
                "num_self_loops_dropped": stats.num_self_loops,
                "dst_range": [0, counts[name.split("/")[2]]],
            }
            for name, stats in found.items()
        },
        "encoders": {},
        "source_digest": value_digest({"description": file_digest(source), "files": digests}),
        "parent_digest": None,
    }


def _relation_type(edge: EdgeDescription) -> RelationType:
    if edge.group is None:
        return RelationType(edge_type=edge.edge_type)
    key = Path(edge.group.key).stem if edge.group.path is None else edge.group.key
    return RelationType(edge_type=edge.edge_type, group_by=key, strict=edge.group.ties == "strict")


def _files(edge: EdgeDescription) -> list[str]:
    if edge.group is None:
        return list(edge.path)
    return [edge.group.path] if edge.group.path is not None else [edge.group.key, edge.group.time]
