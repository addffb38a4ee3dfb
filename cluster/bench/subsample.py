"""Nested parts of released records, by topic or by time: for measuring how work grows with the graph."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from netgpt.graphstore import Store
from netgpt.graphstore.json_stream import JsonStream, encoded

BY = ("topic", "time")


def choose(store: Store, by: str, shares: list[float], seed: int) -> list[np.ndarray]:
    """For each share (ascending, in (0, 1]), which states are in: bool [N]. Each holds the one before.

    topic: whole topics in an order drawn by the seed, as many as fit (videos without a topic are one each);
    at least one. time: the posts nearest to the date between train and test, the same share of each side, so
    that every part has both under the store's own date. All states of a video stay together.
    """
    video = _groups(np.asarray(store.key("url")[0]))
    first = np.unique(video, return_index=True)[1]  # a state of each video, in the order of codes
    states = np.bincount(video)
    if by == "time":
        post, train = np.asarray(store.post_time)[first], np.zeros(len(video), bool)
        train[store.split("train")] = True
        nearer = np.empty(len(first))  # share of the video's side that was posted nearer to the date
        for side, away in ((train[first], -1), (~train[first], 1)):
            order = np.flatnonzero(side)
            order = order[np.argsort(away * post[order], kind="stable")]
            nearer[order] = (np.cumsum(states[order]) - states[order]) / max(1, states[order].sum())
        return [(nearer < share)[video] for share in shares]
    group = _groups(np.asarray(store.key("topic")[0])[first])
    sizes = np.bincount(group, weights=states).astype(np.int64)
    order = np.random.default_rng(seed).permutation(len(sizes))
    chosen, picked = np.zeros(len(sizes), bool), []
    for share in shares:
        left = share * len(video) - sizes[chosen].sum()
        for one in order.tolist():
            if not chosen[one] and sizes[one] <= left:
                chosen[one], left = True, left - sizes[one]
        if not chosen.any():
            chosen[order[np.argmin(sizes[order])]] = True
        picked.append(chosen[group][video])
    return picked


def _groups(code: np.ndarray) -> np.ndarray:
    """Numbers from 0 of the groups that codes say, where each −1 is a group of its own: [n] → [n] int64."""
    code = code.astype(np.int64)
    own = code.max(initial=-1) + 1 + np.arange(len(code))
    return np.unique(np.where(code >= 0, code, own), return_inverse=True)[1]


def write_parts(records: Path, store: Store, parts: dict[Path, np.ndarray]) -> None:
    """Write each part's records to its file, in one pass. The store is of these records, in their order."""
    with ExitStack() as stack:
        files: dict[Path, Any] = {
            path: stack.enter_context(path.open("w", encoding="utf-8")) for path in parts
        }
        separators = dict.fromkeys(parts, "{")
        with records.open("rb") as source:
            stream = JsonStream(source)
            for v, name in enumerate(stream.members()):
                raw = stream.value()
                if store.ids[v] != name:
                    raise ValueError(f"{records}: found {name!r} at place {v}, expected {store.ids[v]!r}")
                text = ""
                for path, chosen in parts.items():
                    if chosen[v]:
                        text = text or f"{json.dumps(name)}: {encoded(raw)}"
                        files[path].write(f"{separators[path]}{text}")
                        separators[path] = ",\n"
        for path, file in files.items():
            file.write("{}" if separators[path] == "{" else "}")
