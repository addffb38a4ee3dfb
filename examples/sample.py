"""A small store of made records, and mini-batches from it: by the loader, resumed, and as PyG's HeteroData.

python examples/sample.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import netgpt
from netgpt.graphstore.datasets import names


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    dataset = names.load("xsvideo")
    config = dataset.Config(encoder="hash:64")
    source = dataset.synthetic(0.0005, seed=0, config=config)  # 0.05% of the published size
    netgpt.graphstore.build(source, folder / "store", config, dataset=dataset)

    store = netgpt.open(folder / "store")
    print(f"{sum(store.num_nodes.values()):,} nodes, {sum(store.num_edges.values()):,} edges")
    topic = ("video", "has_same_topic_as", "video")
    print(f"node 7 has {len(store.relation(topic).neighbors(7))} heads of the same topic")

    train = store.split("train")
    loader = netgpt.sampler.NeighborLoader(store, train, batch_size=64, fanout=20, hops=2, seed=1)
    batches = iter(loader)
    first = next(batches)
    print(f"batch 0: {first.num_seeds} seeds, {first.num_edges:,} edges")

    # Where the next batch is: another loader goes on there, with the same batches
    other = netgpt.sampler.NeighborLoader(store, train, batch_size=64, fanout=20, hops=2, seed=1)
    other.load_state_dict(loader.state_dict())
    here, there = next(batches), next(iter(other))
    assert all((here.heads[e] == there.heads[e]).all() for e in store.edge_types)

    # Each node's features are read once, here by a thread; edges carry their numbers
    loader = netgpt.sampler.NeighborLoader(
        store, train, batch_size=64, fanout={topic: [20, 5]}, threads=1, gather=True, edge_ids=True
    )
    for batch in loader:
        data = batch.to_hetero_data(store)
        assert data["video"].x.shape[0] == len(batch.nodes["video"])
    print(f"as PyG's: {data['video']}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
