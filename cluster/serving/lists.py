"""A finished recommender that answers for users, loaded once: the best items of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.predict import Prediction
from netgpt.cluster.recommend import SEEN, Recommender
from netgpt.cluster.serving.predictor import Answer, Refused

MOST_ITEMS = 1000
KEYS = ("user", "k", "seen")


class ListPredictor:
    """A record is {"user": id, "k": 10, "seen": "all"}; of them the user alone has to be there."""

    def __init__(self, run: Run) -> None:
        """ClusterError for a run without a trained recommender."""
        self.run, self._made = run, Recommender(run)

    def answers(self, records: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Answer | Refused]:
        """One for each record, in order: those of one number of items and `seen` are computed together."""
        made: list[Answer | Refused | None] = []
        asked: dict[tuple[int, Any], list[tuple[int, int]]] = {}
        for place, (name, record) in enumerate(records):
            try:
                user, k, seen = self._read(name, record)
                asked.setdefault((k, seen), []).append((place, user))
                made.append(None)
            except ClusterError as error:
                made.append(Refused(str(record.get("user", name)), str(error)))
        for (k, seen), places in asked.items():
            users = np.array([user for _, user in places], np.int64)
            items, scores = self._made.best(users, k, seen)
            for i, (place, user) in enumerate(places):
                there = items[i] >= 0
                pairs = zip(items[i][there].tolist(), scores[i][there].tolist(), strict=True)
                best = [
                    {"item": self._made.item_ids[item], "score": round(score, 6)} for item, score in pairs
                ]
                own = str(records[place][1]["user"])
                vector = self._made.users[user].numpy()
                made[place] = Answer(Prediction(own, {"items": best}), vector)
        return [one for one in made if one is not None]

    def _read(self, name: str, record: Mapping[str, Any]) -> tuple[int, int, Any]:
        """User's number, how many items, and what is left out."""
        if odd := sorted(set(record) - set(KEYS)):
            raise ClusterError(f"{name}: found the field {odd[0]!r}, expected {', '.join(KEYS)}")
        if "user" not in record:
            raise ClusterError(f"{name}: user: found nothing, expected the id of a user of the run")
        user, k, seen = str(record["user"]), record.get("k", 10), record.get("seen", "all")
        if user not in self._made.number_of:
            raise ClusterError(f"{name}: user: found {user!r}, expected a user of the run")
        if type(k) is not int or not 1 <= k <= MOST_ITEMS:
            raise ClusterError(f"{name}: k: found {k!r}, expected 1 to {MOST_ITEMS}")
        if seen not in SEEN:
            raise ClusterError(f"{name}: seen: found {seen!r}, expected {' or '.join(SEEN)}")
        return self._made.number_of[user], k, seen

    def explained(self, record: Mapping[str, Any], name: str) -> Refused:
        said = f"{name}: explain: found a run that answers with lists, expected one of one answer"
        return Refused(str(record.get("user", name)), said)

    def about(self) -> dict[str, Any]:
        data, store = self._made.data, self.run.store
        words = (
            f"The best items ({data.item_type}) of a user ({data.user_type}) of {store.dataset.title}: "
            '{"user": …, "k": 10}.'
        )
        return {
            "run": self.run.path.name,
            "task": self.run.task.config.name,
            "noun": "items",
            "words": words,
            "train": None,
        }
