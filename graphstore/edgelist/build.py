"""A sealed store from a description of edge lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from graphstore.arrays import ArrayWriter
from graphstore.edgelist.describe import Description, EdgeDescription, read_description
from graphstore.edgelist.read import Piece, read_edges
from graphstore.edgelist.sort import Policy, RowStats, write_rows
from graphstore.errors import StoreError
from graphstore.files import atomic_dir, file_digest, refuse_existing, value_digest
from graphstore.integrity.seal import write_attributes, write_seal
from graphstore.schema import NodeType, RelationType, Schema, edge_name

DEFAULT_MEMORY_BYTES = 4 << 30
_FEATURE_BYTES = 1 << 24


def build_edges(
    source: Path | str,
    out: Path | str,
    *,
    memory_bytes: int = DEFAULT_MEMORY_BYTES,
    progress: Callable[[int], None] | None = None,
) -> dict[str, RowStats]:
    """Build a store at `out` from the description `source`; edges of each relation by its name.

    Rows are in `csr` layout, each in the order of its files. Memory stays within `memory_bytes` and
    some pieces of a million edges. Nothing is left at `out` when this raises (StoreError).
    """
    source, out = Path(source), Path(out)
    refuse_existing(out)
    description = read_description(source)
    counts = _node_counts(source, description)
    found: dict[str, RowStats] = {}
    with atomic_dir(out) as root:
        for name, node in description.nodes.items():
            if node.features is not None:
                _write_features(root, name, Path(node.features), counts[name])
        for edge in description.edges:
            src, _, dst = edge.edge_type
            name = edge_name(edge.edge_type)
            found[name] = write_rows(
                root,
                f"edges/{name}",
                _pieces(edge),
                num_heads=counts[src],
                num_tails=counts[dst],
                policy=Policy(duplicates=edge.duplicates, self_loops=edge.self_loops, same_type=src == dst),
                memory_bytes=memory_bytes,
                progress=progress,
            )
        write_attributes(root, _attributes(source, description, counts, found))
        write_seal(root)
    return found


def _pieces(edge: EdgeDescription) -> Callable[[], Iterator[Piece]]:
    return lambda: read_edges(edge)


def _node_counts(source: Path, description: Description) -> dict[str, int]:
    """Nodes of each type: as given, as many as there are features, or the greatest number + 1."""
    counts: dict[str, int] = {}
    for name, node in description.nodes.items():
        num_rows = None if node.features is None else len(_features(Path(node.features)))
        if node.count is not None and num_rows not in (None, node.count):
            raise StoreError(
                f"{node.features}: found {num_rows} rows, expected {node.count} (nodes.{name}.count)"
            )
        known = node.count or num_rows
        if known is not None:
            counts[name] = known
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


def _features(path: Path) -> np.ndarray:
    try:
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read as npy ({error})") from error
    if x.ndim != 2 or x.dtype not in (np.float16, np.float32):
        raise StoreError(
            f"{path}: found {x.dtype} {list(x.shape)}, expected float16 or float32 [nodes, width]"
        )
    return np.asarray(x)


def _write_features(root: Path, name: str, path: Path, num: int) -> None:
    x = _features(path)
    step = max(1, _FEATURE_BYTES // max(1, x.strides[0]))
    with ArrayWriter(root, f"nodes/{name}/x", x.dtype, x.shape[1]) as writer:
        for first in range(0, num, step):
            block = np.array(x[first : first + step])
            if not np.isfinite(block).all():
                row = first + int(np.argmin(np.isfinite(block).all(axis=1)))
                raise StoreError(f"{path}: record {row}: found a value that is not finite, expected numbers")
            writer.append(block)


def _attributes(
    source: Path, description: Description, counts: dict[str, int], found: dict[str, RowStats]
) -> dict[str, object]:
    schema = Schema(
        target=description.target or description.edges[0].type[2],
        node_types=tuple(
            NodeType(name=name, encoding="none" if node.features is None else "given")
            for name, node in description.nodes.items()
        ),
        relations=tuple(RelationType(edge_type=edge.edge_type) for edge in description.edges),
    )
    files = [path for edge in description.edges for path in edge.path]
    files += [node.features for node in description.nodes.values() if node.features is not None]
    digests = [file_digest(Path(path)) for path in files]
    return {
        "schema": schema.to_dict(),
        "num_nodes": counts,
        "relations": {
            name: {
                "layout": "csr",
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
