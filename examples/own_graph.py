"""Anyone's edges, from CSV, Parquet and npy files, as a store: built, checked, sampled.

python examples/own_graph.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

import netgpt

USERS, ITEMS, BRANDS = 1000, 300, 20
DESCRIPTION = """
target: item
nodes:
  user: {count: 1000}                # no features
  item: {features: item.npy}         # as many nodes as rows
edges:
  - {type: [user, buys, item], path: [buys-0.parquet, buys-1.parquet], columns: [who, what]}
  - {type: [user, views, item], path: views.csv}     # columns src and dst, with a header
  - {type: [item, bought_with, item], path: pairs.npy, duplicates: drop, self_loops: drop}
  - {type: [item, same_brand_as, item], group: {path: items.parquet, key: brand, time: day}}
"""


def write_files(folder: Path) -> None:
    """What others would have: edges as columns or pairs, vectors, and a table of the items."""
    rng = np.random.default_rng(0)
    for name, num in (("buys-0.parquet", 5000), ("buys-1.parquet", 3000)):
        table = pa.table({"who": rng.integers(0, USERS, num), "what": rng.integers(0, ITEMS, num)})
        pq.write_table(table, folder / name)
    views = pa.table({"src": rng.integers(0, USERS, 9000), "dst": rng.integers(0, ITEMS, 9000)})
    pa.csv.write_csv(views, folder / "views.csv")
    np.save(folder / "pairs.npy", rng.integers(0, ITEMS, (4000, 2)))
    np.save(folder / "item.npy", rng.random((ITEMS, 16), np.float32))
    brands = [f"brand {b}" for b in rng.integers(0, BRANDS, ITEMS)]
    pq.write_table(pa.table({"brand": brands, "day": rng.integers(0, 365, ITEMS)}), folder / "items.parquet")
    (folder / "graph.yaml").write_text(DESCRIPTION, encoding="utf-8")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder)
    report = netgpt.graphstore.build(folder / "graph.yaml", folder / "store", memory_bytes=200_000_000)
    for name, made in report.edges.items():
        print(f"{name}: {made.num_edges:,} edges, {made.num_duplicates:,} duplicates dropped")
    assert netgpt.graphstore.verify(folder / "store") == []

    store = netgpt.open(folder / "store")
    brand = store.relation(("item", "same_brand_as", "item"))
    print(f"same brand: {brand.num_edges:,} edges, stored as {len(brand.indices):,} numbers ({brand.layout})")

    sampler = netgpt.sampler.NeighborSampler(store, fanout=[10, 5])
    batch = sampler.sample({"item": np.arange(8), "user": np.array([3])})
    print(f"{batch.num_edges:,} edges around 8 items and a user")
    for edge_type, index in batch.edges.items():
        print(f"  {'/'.join(edge_type)}: {index.shape[1]} edges")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
