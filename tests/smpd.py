"""Stores of SMPD's made posts, and a plain reading of its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from netgpt import graphstore
from netgpt.graphstore import Store
from netgpt.graphstore.datasets.smpd import SmpdConfig, files

SCALE = 0.002
"""Of the files that tests are made of: 62 users."""


def settings_of(**changed: Any) -> SmpdConfig:
    return SmpdConfig(**{"encoder": "hash:8", "users": 5, **changed})


def built(source: Path, out: Path, **changed: Any) -> Store:
    graphstore.build(source, out, settings_of(**changed))
    return graphstore.open(out)


def named(store: Store, column: str) -> list[str]:
    codes, values = store.category("post", column)
    return [values[code] if code >= 0 else "" for code in codes.tolist()]


def plain_posts(source: Path) -> dict[str, list[dict[str, Any]]]:
    """By user the posts, the oldest first, by reading whole files."""
    kinds = ("category", "text", "place")
    whole = [json.loads((source / files.NAMES[kind][0]).read_text()) for kind in kinds]
    labels = (source / "train_label.txt").read_text().split()
    users: dict[str, list[dict[str, Any]]] = {}
    for *parts, label in zip(*whole, labels, strict=True):
        post = {key: value for part in parts for key, value in part.items()} | {"label": float(label)}
        users.setdefault(post["Uid"], []).append({**post, "Pid": str(post["Pid"])})
    for own in users.values():
        own.sort(key=lambda post: (int(post["Postdate"]), int(post["Pid"])))
    return users
