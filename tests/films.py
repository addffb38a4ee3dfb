"""Rows of tables: films of studios, users with friends and a town, likes."""

from __future__ import annotations

from typing import Any

import numpy as np

Row = dict[str, Any]
STUDIOS = ["A24", "Pixar", "Gaumont", ""]
GENRES = ["drama", "comedy", "war", "sci-fi"]


def made(seed: int = 0) -> dict[str, list[Row]]:
    """Films of studios, users with friends and a town, likes: keys are texts, some with quotes and commas."""
    rng = np.random.default_rng(seed)
    films = [
        {
            "film": f'f"{i}, {i * 7 % 40}',
            "title": ["", "Amélie", "Heat, 2", 'The "Thing"', "two\nlines"][int(rng.integers(5))],
            "genres": sorted(set(rng.choice(GENRES, int(rng.integers(0, 3))).tolist())),
            "minutes": None if rng.random() < 0.2 else float(np.round(rng.uniform(60, 200), 2)),
            "released": int(rng.integers(0, 40)) * 86_400,
            "studio": STUDIOS[int(rng.integers(4))],
            "kind": ["short", "long", ""][int(rng.integers(3))],
        }
        for i in range(40)
    ]
    users = [
        {"user": 1_000 - 3 * i, "town": f"t{rng.integers(5)}", "friend": int(1_000 - 3 * rng.integers(25))}
        for i in range(25)
    ]
    likes = [
        {"who": users[int(rng.integers(25))]["user"], "what": films[int(rng.integers(40))]["film"]}
        for _ in range(120)
    ]
    return {"film": films, "user": users, "likes": likes}
