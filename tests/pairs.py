"""A table of pairs: who rated what, when, with how many stars; and a film's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.dataset import BuildConfig

DESCRIPTION: dict[str, Any] = {
    "target": "rating",
    "tables": {
        "film": {
            "path": "films.csv",
            "key": "film",
            "columns": {"title": "text", "minutes": "number", "released": "time"},
            "features": ["title", "minutes", "released"],
        },
        "user": {"features": []},
        "rating": {
            "path": "ratings.csv",
            "rows": "nodes",
            "time": "at",
            "columns": {"stars": "number"},
            "features": ["at"],
            "links": {"user": "user", "film": "film"},
            "reverse": "only",
        },
    },
    "relations": [
        {"name": "by_same_user", "of": "rating", "group": "user", "ties": "strict", "tells": ["stars"]},
        {"name": "of_same_film", "of": "rating", "group": "film", "ties": "strict", "tells": ["stars"]},
    ],
}
FIRST_S = 1_600_000_000


class Pairs:
    """Rows, made by a seed. Several ratings are of one moment; some films have no minutes."""

    def __init__(self, seed: int, num: int = 200, num_users: int = 9, num_films: int = 14) -> None:
        rng = np.random.default_rng(seed)
        self.users, self.films = rng.integers(0, num_users, num), rng.integers(0, num_films, num)
        self.at = FIRST_S + 3_600 * rng.integers(0, num // 4, num)
        taste, quality = rng.normal(size=num_users), rng.normal(size=num_films)
        self.stars = np.round(3 + taste[self.users] + quality[self.films] + rng.normal(size=num) / 5, 2)
        self.minutes = np.where(
            rng.random(num_films) < 0.3, np.nan, np.round(rng.normal(0, 90, num_films), 1)
        )
        self.released = rng.integers(-(10**9), 10**9, num_films)

    def write(self, folder: Path, description: dict[str, Any] = DESCRIPTION) -> Path:
        films = [
            f"f{i},film {i},{'' if np.isnan(minutes) else minutes},{time}"
            for i, (minutes, time) in enumerate(zip(self.minutes, self.released, strict=True))
        ]
        rows = zip(self.users, self.films, self.stars, self.at, strict=True)
        ratings = [f"u{user},f{film},{stars},{at}" for user, film, stars, at in rows]
        (folder / "films.csv").write_text("\n".join(["film,title,minutes,released", *films]))
        (folder / "ratings.csv").write_text("\n".join(["user,film,stars,at", *ratings]))
        (folder / "graph.json").write_text(json.dumps(description))
        return folder / "graph.json"

    def store(self, folder: Path, **build: Any) -> Store:
        graphstore.build(self.write(folder), folder / "store", BuildConfig(encoder="hash:16", **build))
        return graphstore.open(str(folder / "store"))

    def earlier(self, row: int, same: np.ndarray) -> list[int]:
        """The rows before a row that have its value of `same`."""
        return np.flatnonzero((same == same[row]) & (self.at < self.at[row])).tolist()
