"""Relations that a rule makes: "an earlier member of the same group", from two columns of the nodes.

Row i of the columns is node i. Kept in `prefix` layout one number and two offsets a node stand for edges
that may be as many as the square of the nodes.

Legend: N nodes.
"""

from __future__ import annotations

import numpy as np

from graphstore.edgelist.describe import EdgeDescription, GroupDescription
from graphstore.edgelist.read import arrow_column, integers, open_npy, table_batches
from graphstore.errors import StoreError
from graphstore.relations import Relation, prefix_rows
from graphstore.schema import edge_name

NODE_BYTES = 160
"""Memory that sorting takes, for each node."""


def group_length(group: GroupDescription) -> int:
    """Number of nodes N that the columns have."""
    return len(_columns(group)[0])


def group_rows(edge: EdgeDescription, num_nodes: int, memory_bytes: int) -> Relation:
    """The relation's rows, heads of a row in (time, node number) order. Raises StoreError."""
    assert edge.group is not None
    if (needed := NODE_BYTES * num_nodes) > memory_bytes:
        raise StoreError(
            f"{edge_name(edge.edge_type)}: memory: found {memory_bytes:,} bytes, "
            f"expected at least {needed:,} bytes ({num_nodes:,} nodes)"
        )
    key, time = _columns(edge.group)
    for name, values in ((edge.group.key, key), (edge.group.time, time)):
        if len(values) != num_nodes:
            raise StoreError(f"{name}: found {len(values)} values, expected {num_nodes}, one for each node")
    rows = prefix_rows(key, time, strict=edge.group.ties == "strict")
    return Relation(edge.edge_type, "prefix", rows.indices, rows.begin, rows.end, rows.rank)


def _columns(group: GroupDescription) -> tuple[np.ndarray, np.ndarray]:
    """Key and time of each node: [N], [N] int64. Texts become codes; an empty text is no group (−1)."""
    if group.path is None:
        key, time = (np.asarray(open_npy(file)) for file in (group.key, group.time))
        for file, values in ((group.key, key), (group.time, time)):
            if values.ndim != 1:
                raise StoreError(f"{file}: found shape {list(values.shape)}, expected [nodes]")
        return integers(group.key, "key", key, 0, low=-1), _times(group.time, "time", time)
    import pyarrow as pa

    names = [group.key, group.time]
    batches = list(table_batches(group.path, names, numbers=False))
    if not batches:
        raise StoreError(f"{group.path}: found no rows, expected one for each node")
    table = pa.Table.from_batches(batches).combine_chunks()
    texts = table.column(group.key)
    if pa.types.is_string(texts.type) or pa.types.is_large_string(texts.type):
        encoded = texts.combine_chunks().dictionary_encode()
        empty = encoded.dictionary.to_pylist().index("") if "" in encoded.dictionary.to_pylist() else -1
        codes = arrow_column(group.path, group.key, pa.table({group.key: encoded.indices}), 0)
        key = np.where(codes == empty, -1, codes)
    else:
        key = arrow_column(group.path, group.key, table, 0)
    time = arrow_column(group.path, group.time, table, 0)
    return integers(group.path, group.key, key, 0, low=-1), _times(group.path, group.time, time)


def _times(file: str, name: str, values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "O":  # dates of Parquet
        values = values.astype("datetime64[s]")
    if values.dtype.kind == "M":
        return values.astype("datetime64[ns]").astype(np.int64)
    return integers(file, name, values, 0, low=np.iinfo(np.int64).min)
