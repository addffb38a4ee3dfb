"""Small stores of pairs, and models of them, for tests of recommenders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.interactions import InteractionsConfig
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.models.base import Recommender
from netgpt.trainers.recommend.models.names import model_class
from netgpt.trainers.recommend.triples import TripleLoader, Triples

CONFIG = RecommenderConfig(width=8, layers=2, dropout=0.0, penalty=0.02, max_history=4)
"""Without randomness, so that formulas can be compared."""
USERS, ITEMS = 18, 24
Row = tuple[int, int, int, int]
"""User, item, time, part."""
WIDTHS = {"image": 5, "text": 3}
TASTES = ("war", "love")


def pairs_of_tastes(seed: int = 0) -> list[Row]:
    """User, item, time and part of pairs of which 9 of 10 are of one taste; user 17 has none in train, items
    22 and 23 none but in test."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(USERS):
        for item in range(ITEMS):
            share = 0.75 if user % 2 == item % 2 else 0.08
            if rng.random() < share:
                part = int(rng.choice(3, p=[0.6, 0.2, 0.2]))
                part = 2 if user == USERS - 1 or item >= ITEMS - 2 else part
                rows.append((user, item, int(rng.integers(1000)), part))
    return rows


def write_pairs(folder: Path, rows: list[Row], *, vectors: bool = True) -> Path:
    """Rows as an .inter file with a given split, and vectors of two modalities beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["userID\titemID\ttimestamp\tx_label", *("\t".join(map(str, row)) for row in rows)]
    path = folder / "a.inter"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if vectors:
        rng = np.random.default_rng(7)
        for name, width in WIDTHS.items():
            x = rng.normal(size=(ITEMS, width)).astype(np.float32)
            x[:, 0] += 2.0 * (np.arange(ITEMS) % 2)  # the taste
            np.save(folder / f"{name}_feat.npy", x)
    return path


def store_of(folder: Path, rows: list[Row] | None = None, *, vectors: bool = True) -> Store:
    path = write_pairs(folder, pairs_of_tastes() if rows is None else rows, vectors=vectors)
    graphstore.build(path, folder / "store", InteractionsConfig())
    return graphstore.open(folder / "store")


def made(name: str, data: Interactions, config: RecommenderConfig = CONFIG, seed: int = 0) -> Recommender:
    torch.manual_seed(seed)
    return model_class(name)(data, replace(config, model=name, shl=replace(config.shl, dropout=0.0)))


def step_of(data: Interactions, *, rank: int = 0, world_size: int = 1, by_user: bool = False) -> Triples:
    options = {"rank": rank, "world_size": world_size, "by_user": by_user}
    return next(iter(TripleLoader(data.train, batch_size=40, seed=1, **options).stream(0)))  # type: ignore[arg-type]


def titled_store(folder: Path, rows: list[Row] | None = None, *, timed: bool = True) -> Store:
    """The same with titles of the items, of which item 3 has none; taste is a word of a title."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = pairs_of_tastes() if rows is None else rows
    lines = ["who,what,at,part", *(f"{u},{i},{t},{'abc'[p]}" for u, i, t, p in pairs)]
    (folder / "pairs.csv").write_text("\n".join(lines))
    titles = [f"{i},{f'{TASTES[i % 2]} {i}' if i != 3 else ''}" for i in range(ITEMS)]
    (folder / "items.csv").write_text("\n".join(["what,title", *titles]))
    time = "\n  time: at" if timed else ""
    (folder / "pairs.yaml").write_text(
        f"interactions:\n  path: pairs.csv\n  user: who\n  item: what{time}\n"
        "  split: {column: part, parts: [a, b, c]}\n"
        "items: {path: items.csv, key: what, texts: [title]}\n"
    )
    graphstore.build(folder / "pairs.yaml", folder / "store", InteractionsConfig(encoder="hash:8"))
    return graphstore.open(folder / "store")
