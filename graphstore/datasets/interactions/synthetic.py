"""Made pairs: users and items have tastes, items are taken by a power law, and each pair has a second.

Legend: U users, I items, n pairs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from netgpt.graphstore.datasets.interactions.pairs import Rows
from netgpt.graphstore.errors import StoreError
from netgpt.graphstore.files import atomic_file

FULL_USERS, FULL_ITEMS, FULL_PAIRS = 1_000_000, 1_000_000, 50_000_000
_TASTES, _SAME = 20, 0.7
_FIRST_S, _DAYS = 1_700_000_000, 100


def made_rows(scale: float, seed: int) -> Rows:
    """1 M users, 1 M items and 50 M rows, times the scale (at least 60, 40 and 900): a function of both.

    Of a user's rows 7 of 10 are of items of its own taste; items within a taste by a power law. Some rows
    come again.
    """
    if not scale > 0:
        raise StoreError(f"scale: found {scale}, expected a number above 0")
    num_users, num_items = max(60, round(FULL_USERS * scale)), max(40, round(FULL_ITEMS * scale))
    num = max(900, round(FULL_PAIRS * scale))
    rng = np.random.default_rng([seed, 0])
    users = rng.integers(0, num_users, num)
    per_taste = num_items // _TASTES
    own = rng.random(num) < _SAME
    taste = np.where(own, users % _TASTES, rng.integers(0, _TASTES, num))
    rank = np.minimum((per_taste * rng.random(num) ** 3).astype(np.int64), per_taste - 1)
    items = rank * _TASTES + taste
    times = _FIRST_S + rng.integers(0, _DAYS * 86_400, num)
    user_ids = [f"u{i}" for i in range(num_users)]
    return Rows(users, items, user_ids, [f"i{i}" for i in range(num_items)], times)


def write_inter(path: Path, scale: float, seed: int) -> int:
    """The same as NAME.inter; returns the number of users that have a row."""
    rows = made_rows(scale, seed)
    assert rows.times is not None
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for user, item, at in zip(rows.users, rows.items, rows.times, strict=True):
            file.write(f"u{user}\ti{item}\t{at}\n")
    return len(np.unique(rows.users))
