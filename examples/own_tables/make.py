"""Small tables as a database would give them: films with studios and genres, who watched what, and stars.

python examples/own_tables/make.py FOLDER

A film's stars follow from its studio, from the taste of those who watch it, and from a word of its plot: each
of the three is in another table or column.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np

FILMS, USERS, STUDIOS = 600, 150, 12
GENRES = ["comedy", "drama", "noir", "war"]
GOOD, BAD = ["brilliant", "tender", "stirring"], ["dull", "confused", "tired"]
COLORS, THINGS = ["red", "silent", "last", "hidden", "lost"], ["river", "letter", "garden", "train", "house"]


def main(folder: Path) -> None:
    rng = np.random.default_rng(0)
    quality, taste = rng.normal(size=STUDIOS), rng.integers(0, 2, USERS)
    films, watched = [], []
    for i in range(FILMS):
        studio, kind, good = int(rng.integers(STUDIOS)), int(rng.integers(2)), int(rng.integers(2))
        title = f"The {rng.choice(COLORS)} {rng.choice(THINGS)}"
        plot = f"A {rng.choice(GOOD if good else BAD)} story of a {rng.choice(THINGS)}"
        genres = "|".join(sorted(set(rng.choice(GENRES, 2).tolist())))
        stars = 5 + quality[studio] + kind + 1.5 * good + rng.normal() / 5
        minutes = int(rng.integers(70, 180))
        films.append([f"f{i}", title, plot, genres, minutes, f"studio {studio}", f"{stars:.3f}"])
        fans = rng.choice(np.flatnonzero(taste == kind), 5, replace=False)
        watched += [[f"u{user}", f"f{i}"] for user in fans.tolist()]
    tables = {
        "films": [["film", "title", "plot", "genres", "minutes", "studio", "stars"], *films],
        "watched": [["user", "film"], *watched],
        "users": [["user", "town"], *([f"u{i}", f"town {rng.integers(9)}"] for i in range(USERS))],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows(rows)
    for name in ("graph.yaml", "recipe.yaml"):
        (folder / name).write_bytes((Path(__file__).parent / name).read_bytes())
    print(f"{FILMS} films, {USERS} users, {len(watched):,} times watched in {folder}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/own_tables/make.py FOLDER")
    main(Path(sys.argv[1]))
