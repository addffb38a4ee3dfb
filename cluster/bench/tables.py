"""`netgpt bench build --tables`: a store of edges whose ends are texts, beside the join of a database.

Two tables of keys and one of pairs of them, in Parquet: `netgpt build` numbers the keys, finds both ends of
every edge, and writes rows by tail in both directions within `--memory`. The peers, where they are
installed, do the first half of that: they number the keys and write both numbers of every pair, DuckDB by
two hash joins within the same memory, pandas by two indexes in memory. They make no rows by tail.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.cluster.bench.build import rates
from netgpt.cluster.bench.measure import machine, measure
from netgpt.graphstore.files import total_bytes

_IMPORTS = "from netgpt import graphstore; import numba, pyarrow.parquet"
_BUILD = """
import sys
from netgpt import graphstore
graphstore.build(sys.argv[1], sys.argv[2], memory_bytes=int(sys.argv[3]))
"""
_DUCKDB = """
import sys, duckdb
folder, memory = sys.argv[1], int(sys.argv[2])
db = duckdb.connect(config={"memory_limit": f"{memory // 10**6}MB", "temp_directory": folder + "/duckdb"})
for name in ("user", "item"):
    numbered = f"SELECT row_number() OVER () - 1 AS n, id FROM '{folder}/{name}.parquet'"
    db.execute(f"CREATE TABLE {name} AS {numbered}")
db.execute(
    f"COPY (SELECT u.n::INT AS src, i.n::INT AS dst FROM '{folder}/likes.parquet' l "
    f"JOIN user u ON l.user = u.id JOIN item i ON l.item = i.id) TO '{folder}/numbers.parquet'"
)
"""
_PANDAS = """
import sys, numpy as np, pandas as pd
folder = sys.argv[1]
likes = pd.read_parquet(folder + "/likes.parquet")
for name in ("user", "item"):
    index = pd.Index(pd.read_parquet(f"{folder}/{name}.parquet")["id"])
    np.save(f"{folder}/{name}.npy", index.get_indexer(likes[name]).astype(np.int32))
"""
_PIECE = 1 << 20
_IN_MEMORY = 20_000_000
"""Edges up to which pandas takes part: it holds all texts."""
_DESCRIPTION = """
tables:
  user: {path: user.parquet, key: id, columns: {}}
  item: {path: item.parquet, key: id, columns: {}}
  likes: {path: likes.parquet, columns: {}, links: {user: user, item: item}}
"""


def bench_tables(
    num_edges: list[int], memory_bytes: int, peer_edges: int, scratch: Path | None
) -> Iterator[dict[str, Any]]:
    """One result a number of edges; peers run up to `peer_edges`."""
    idle = measure(_IMPORTS)
    with tempfile.TemporaryDirectory(dir=scratch) as name:  # compile and cache the kernels
        measure(_BUILD, write_tables(Path(name), 1000), Path(name) / "store", memory_bytes)
    for number in num_edges:
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            folder = Path(name)
            source, store = write_tables(folder, number), folder / "store"
            built = measure(_BUILD, source, store, memory_bytes)
            result: dict[str, Any] = {
                "source": "tables",
                "num_edges": number,
                "num_nodes": sum(_num_keys(number)),
                "source_bytes": sum(file.stat().st_size for file in folder.glob("*.parquet")),
                "memory_budget_bytes": memory_bytes,
                "build": rates(built, number)
                | {"peak_over_imports_bytes": built.peak_bytes - idle.peak_bytes},
                "store_bytes": total_bytes(store) if built.ok else None,
            }
            peers = {"duckdb": _DUCKDB, "pandas": _PANDAS} if number <= peer_edges else {}
            for peer, code in peers.items():
                fits = peer != "pandas" or number <= _IN_MEMORY
                if fits and importlib.util.find_spec(peer):
                    cost = measure(code, folder, memory_bytes)
                    result[peer] = rates(cost, number)
                    if built.ok and cost.ok:
                        result[peer]["times_slower"] = cost.wall_s / built.wall_s
            yield {**result, "machine": machine()}


def _num_keys(num_edges: int) -> tuple[int, int]:
    """Users and items."""
    return max(20, num_edges // 25), max(10, num_edges // 100)


def write_tables(folder: Path, num_edges: int) -> Path:
    """Three Parquet files, uniform users and items of a skewed degree, and their description: its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    users, items = _num_keys(num_edges)
    for name, num in (("user", users), ("item", items)):
        with pq.ParquetWriter(folder / f"{name}.parquet", pa.schema([("id", pa.string())])) as writer:
            for first in range(0, num, _PIECE):
                numbers = np.arange(first, min(num, first + _PIECE))
                writer.write_table(pa.table({"id": _texts(name, numbers)}))
    rng = np.random.default_rng(0)
    schema = pa.schema([("user", pa.string()), ("item", pa.string())])
    with pq.ParquetWriter(folder / "likes.parquet", schema) as writer:
        for first in range(0, num_edges, _PIECE):
            num = min(_PIECE, num_edges - first)
            by_user = _texts("user", rng.integers(0, users, num))
            by_item = _texts("item", (rng.random(num) ** 3 * items).astype(np.int64))
            writer.write_table(pa.table({"user": by_user, "item": by_item}))
    (folder / "graph.yaml").write_text(_DESCRIPTION)
    return folder / "graph.yaml"


def _texts(name: str, numbers: np.ndarray) -> Any:
    """Keys as systems have them: a letter and a number whose neighbours are far away, in Arrow."""
    import pyarrow as pa
    import pyarrow.compute as pc

    scattered = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(24)
    return pc.binary_join_element_wise(name[0].upper(), pa.array(scattered).cast(pa.string()), "")
