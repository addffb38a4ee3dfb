"""A graph encoder trained in this process, without Ray, and exact embeddings of all nodes by it.

python examples/embeddings.py [FOLDER]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

import netgpt
from netgpt.cluster.config import load_config
from netgpt.graphstore.datasets import names
from netgpt.trainers.graph.exact import embed
from netgpt.trainers.graph.train import GraphTrainer
from netgpt.trainers.tasks.names import make_task


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = load_config("demo", ["graph.epochs=3", "graph.hidden=32", "build.encoder=hash:64"])
    dataset = names.load(config.dataset)
    source = dataset.synthetic(0.0005, seed=0, config=config.build)
    netgpt.graphstore.build(source, folder / "store", config.build, dataset=dataset)
    store, task = netgpt.open(folder / "store"), make_task(config.task)

    trainer = GraphTrainer(config.settings, store, task, folder / "stage1")
    for epoch in trainer.run()["history"]:
        print(f"epoch {epoch['epoch']}: loss {epoch['loss']:.3f}, validation MAE {epoch['val_mae']:.3f}")

    h, scores = embed(trainer.model, trainer.tables)  # over every neighbour: [N, 32] and [N]
    test = task.examples(store).test
    near = np.linalg.norm(h - h[test[0]], axis=1).argsort()[1:4]
    print(f"{store.ids[test[0]]}: score {scores[test[0]]:.2f}; nearest {[store.ids[v] for v in near]}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
