"""Splits of a run: train and validation (both from the store's train period) and test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from netgpt.graphstore import Store
from netgpt.graphstore.features import DAY_S
from netgpt.trainers.errors import TrainerError


@dataclass(frozen=True)
class Splits:
    """Video node numbers with a known level: each [n] int64, ascending, disjoint."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray

    def named(self) -> dict[str, np.ndarray]:
        return {"train": self.train, "val": self.val, "test": self.test}


def make_splits(store: Store, val_share: float) -> Splits:
    """Cut the latest `val_share` of the train states, by post time, off as validation.

    All states of one video have one post time and so stay together. Raises TrainerError where a
    part would be empty.
    """
    labelled = store.labels >= 0
    period = store.split("train")
    period = period[labelled[period]]
    test = store.split("test")
    test = test[labelled[test]]
    post = store.post_time[period]
    if len(period):
        cut = np.quantile(post, 1 - val_share, method="lower")
        splits = Splits(period[post < cut], period[post >= cut], test)
        if all(len(part) for part in splits.named().values()):
            return splits
    raise TrainerError(
        f"{store.path}: found {len(period)} labelled states in the train period and {len(test)} in the test "
        f"period, expected some for each of train, val (the latest {val_share:.0%} of train) and test"
    )


def is_age_zero(store: Store, ids: np.ndarray) -> np.ndarray:
    """States sampled on the day of the post with all five indicators at zero: [n] bool."""
    indicators = ("likes", "collects", "views", "shares", "comments")
    counts = np.concatenate([store.features(name).gather(ids) for name in indicators], axis=1)
    age_s = store.sampling_time[ids] - store.post_time[ids]
    return (counts == 0).all(axis=1) & (age_s <= 0) & (age_s > -DAY_S)
