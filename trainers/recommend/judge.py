"""Rankings of a store's held-out pairs by any scores: by part, for warm and cold ends, beside baselines.

Legend: U users, n held-out pairs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from netgpt.graphstore import Graph
from netgpt.graphstore.mixing import seed_of
from netgpt.trainers.recommend.baselines import (
    MAX_BYTES,
    ease,
    ease_bytes,
    item_neighbors,
    item_neighbors_bytes,
    popularity,
)
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.pairs import Pairs, hashes
from netgpt.trainers.recommend.ranking import METRICS, Ranks, Sample, ScoresOf, full_ranking
from netgpt.trainers.tasks.baselines import Measures
from netgpt.trainers.tasks.evaluate import Scores
from netgpt.trainers.tasks.intervals import Interval, resampled
from netgpt.trainers.tasks.ranking import BASELINES, RankingConfig

_log = logging.getLogger(__name__)


class RankingJudge:
    """Test items are ranked among all that a user has not in train (nor, by default, in validation)."""

    def __init__(self, graph: Graph, config: RankingConfig) -> None:
        self.data, self.config = Interactions.of(graph), config
        data = self.data
        self.val, self.test = measured(data.val, config.max_users), measured(data.test, config.max_users)
        self.left_out: list[str] = []
        """Baselines that need too much memory, and why, in a line each."""
        self._ranks: dict[tuple[str, str], Ranks] = {}

    def ranks(self, name: str, scores: ScoresOf, part: str) -> Ranks:
        """Of val, test or test_sampled; made once."""
        if (name, part) not in self._ranks:
            data, masks = self.data, [self.data.train]
            pairs = self.val if part == "val" else self.test
            sample = Sample(self.config.sampled) if part == "test_sampled" else None
            if part == "test_sampled" or (part == "test" and self.config.masks_val):
                masks.append(data.val)
            self._ranks[name, part] = full_ranking(
                for_cold_users(scores, data.train, self.config), pairs, masks, sample=sample
            )
        return self._ranks[name, part]

    def metrics(self, name: str, scores: ScoresOf) -> dict[str, Measures]:
        """By part: val, test, those of the test that are warm, and with a cold end, and the sampled one."""
        k, made = self.config.k, {}
        if len(self.val):
            made["val"] = self.ranks(name, scores, "val").metrics(k)
        ranks = self.ranks(name, scores, "test")
        made["test"] = ranks.metrics(k)
        cold_user = self.data.train.num_by_user[ranks.users] == 0
        cold_item = self.data.train.num_by_item[ranks.items] == 0
        if (cold_user | cold_item).any():
            made["test_warm"] = ranks.metrics(k, ~cold_user & ~cold_item)
            made["test_cold_users"] = ranks.metrics(k, cold_user)
            made["test_cold_items"] = ranks.metrics(k, cold_item)
        if self.config.sampled:
            made["test_sampled"] = self.ranks(name, scores, "test_sampled").metrics(k)
        return made

    def stage_metrics(self, scores: Scores) -> dict[str, dict[str, Measures]]:
        return {name: self.metrics(name, one) for name, one in scores.scores.items()}

    def baseline_metrics(self) -> dict[str, dict[str, Measures]]:
        return {name: self.metrics(name, scores) for name, scores in self._baselines.items()}

    @cached_property
    def _baselines(self) -> dict[str, ScoresOf]:
        train, config, made = self.data.train, self.config, dict[str, ScoresOf]()
        fits: dict[str, tuple[int, Callable[[], ScoresOf]]] = {
            "popularity": (0, lambda: popularity(train)),
            "itemknn": (item_neighbors_bytes(train), lambda: item_neighbors(train)),
            "ease": (ease_bytes(train), lambda: ease(train, regularization=config.ease_penalty)),
        }
        for key, title in BASELINES.items():
            num_bytes, fit = fits[key]
            if key in config.baselines and num_bytes <= MAX_BYTES:
                made[title] = fit()
            elif key in config.baselines:
                need = f"{num_bytes / 1e9:.0f} GB, expected at most {MAX_BYTES / 1e9:.0f}"
                self.left_out.append(f"{title} is left out: it may need {need}")
                _log.warning(self.left_out[-1])
        return made

    def intervals(self, scores: Scores) -> dict[str, dict[str, Interval]]:
        """Users are drawn again with replacement, as many as there are."""
        of_all = {**scores.scores, **self._baselines}
        return {name: self._interval(self.ranks(name, one, "test")) for name, one in of_all.items()}

    def _interval(self, ranks: Ranks) -> dict[str, Interval]:
        values = ranks.by_user(self.config.k)
        table, names = np.stack([values[name] for name in METRICS]), [f"{m}@{self.config.k}" for m in METRICS]

        def means(drawn: np.ndarray) -> dict[str, float]:
            return dict(zip(names, table[:, drawn].mean(axis=1).tolist(), strict=True))

        return resampled(table.shape[1], names, means)

    def write_predictions(self, path: Path, scores: Scores) -> None:
        """A row for each pair that is held out: ids of user and item, part, and its place by each stage."""
        data, parts = self.data, {"val": self.val, "test": self.test}
        columns: dict[str, Any] = {
            data.user_type: self._ids(data.user_type, [pairs.users for pairs in parts.values()]),
            data.item_type: self._ids(data.item_type, [pairs.items for pairs in parts.values()]),
            "split": [name for name, pairs in parts.items() for _ in range(len(pairs))],
        }
        for name, one in scores.scores.items():
            places = [self.ranks(name, one, part).ranks for part, pairs in parts.items() if len(pairs)]
            columns[f"{name}_rank"] = np.concatenate(places)
        pq.write_table(pa.table(columns), path)

    def _ids(self, node_type: str, nodes: list[np.ndarray]) -> np.ndarray | list[str]:
        return self.data.store.id_column(node_type, np.concatenate(nodes))


def for_cold_users(scores: ScoresOf, train: Pairs, config: RankingConfig) -> ScoresOf:
    """The same; of users without a pair of train, where the settings say so, how many users an item has."""
    if config.cold == "scores":
        return scores
    is_cold, most = train.num_by_user == 0, popularity(train)

    def filled(users: np.ndarray) -> np.ndarray:
        made = np.array(scores(users))
        made[is_cold[users]] = most(users[is_cold[users]])
        return made

    return filled


def measured(pairs: Pairs, max_users: int) -> Pairs:
    """Pairs of at most so many of the users that have some, those with the least hashes; 0: of all."""
    users = np.flatnonzero(pairs.num_by_user)
    if not max_users or len(users) <= max_users:
        return pairs
    order = np.argsort(hashes(users, seed_of("measured")), kind="stable")
    return only(pairs, users[order[:max_users]])


def only(pairs: Pairs, users: np.ndarray) -> Pairs:
    """Those of some users [n]."""
    kept = np.zeros(pairs.num_users, bool)
    kept[users] = True
    chosen = kept[pairs.users]
    return Pairs.of(pairs.users[chosen], pairs.items[chosen], pairs.num_users, pairs.num_items)
