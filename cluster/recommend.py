"""What a finished run recommends: the best items of users, by the data's own ids."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.progress import bar
from netgpt.graphstore.files import atomic_file
from netgpt.trainers.processor import use_cores
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.recommend.judge import for_cold_users
from netgpt.trainers.recommend.ranking import top_items
from netgpt.trainers.recommend.train import load_vectors, scores_of
from netgpt.trainers.stages.base import Tools
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.stages.recommend import Recommend
from netgpt.trainers.stages.rerank import Rerank, Reranker
from netgpt.trainers.tasks.ranking import RankingConfig

STAGE, RERANK = Recommend.name, Rerank.name
Seen = Literal["all", "train"]
SEEN: tuple[Seen, ...] = ("all", "train")
_ROWS, _PROMPTS = 1 << 18, 1 << 12
"""Rows that are held at once, and users whose prompts are."""


def require_recommender(run: Run, rerank: bool = False) -> None:
    """ClusterError where the run has no trained recommender, or no model that gives lists their order."""
    if STAGE not in run.stages:
        raise ClusterError(f"{run.path}: found a run without a recommender, expected one (task.name=ranking)")
    if rerank and RERANK not in run.stages:
        raise ClusterError(f"{run.path}: found a run without {RERANK}, expected one for --rerank")
    run.require_done([STAGE, RERANK] if rerank else [STAGE])


class Recommender:
    """A run's trained recommender, loaded once."""

    def __init__(self, run: Run, rerank: bool = False) -> None:
        """rerank: in the order that the run's language model gives the first candidates. ClusterError as of
        `require_recommender`."""
        require_recommender(run, rerank)
        config = run.task.config
        assert isinstance(config, RankingConfig)
        self.run, self.data, self._config = run, Interactions.of(run.store), config
        use_cores(run.threads)
        self.users, items = load_vectors(run.folder(STAGE), run.store)
        self._scores = for_cold_users(scores_of(self.users, items), self.data.train, config)
        self._reranker: Reranker | None = None
        if rerank:
            stage, tools = stage_of(RERANK), Tools(run.store, run.task, lambda unit: bar("recommend", unit))
            assert isinstance(stage, Rerank)
            self._reranker = Reranker(stage, run.job(RERANK), tools)
        self.item_ids = run.store.node_names(self.data.item_type)

    @cached_property
    def number_of(self) -> dict[str, int]:
        """A user's number by its id."""
        return {name: i for i, name in enumerate(self.run.store.node_names(self.data.user_type))}

    @property
    def num_items(self) -> int:
        return self.data.train.num_items

    def best(self, users: np.ndarray, k: int, seen: Seen = "all") -> tuple[np.ndarray, np.ndarray]:
        """Items and scores [n, k] of users by number, the best first; −1 where a user has fewer left.

        seen: what a user has is left out: all its pairs, or those of train alone, as the test has it.
        """
        data = self.data
        masks = [data.train] if seen == "train" else [data.train, data.val, data.test]
        scores = self._scores
        if self._reranker is not None:
            scores = for_cold_users(self._reranker.scores(users, masks), data.train, self._config)
        return top_items(scores, users, self.num_items, masks, min(k, self.num_items))


def write_recommendations(
    run: Run,
    out: Path,
    *,
    k: int = 10,
    users: Path | None = None,
    seen: Seen = "all",
    rerank: bool = False,
) -> int:
    """Write the k best items of users as Parquet: columns user, rank (from 1 on), item, score; returns how
    many users there are.

    users: a file of ids, one a line; by default all. seen: as of `Recommender.best`. A user with fewer items
    left has fewer rows. rerank: in the order that the run's language model gives the first candidates.
    ClusterError for an id that there is not, and where the run has no trained recommender, or no such model.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if k < 1:
        raise ClusterError(f"--k: found {k}, expected at least 1")
    if seen not in SEEN:
        raise ClusterError(f"--seen: found {seen!r}, expected {' or '.join(SEEN)}")
    made = Recommender(run, rerank)
    k = min(k, made.num_items)
    wanted = np.arange(made.data.train.num_users) if users is None else _numbers(made, users)
    user_ids = run.store.node_names(made.data.user_type)
    schema = pa.schema(
        [("user", pa.string()), ("rank", pa.int32()), ("item", pa.string()), ("score", pa.float32())]
    )
    with atomic_file(out) as temporary, pq.ParquetWriter(temporary, schema) as writer:
        size = max(1, _PROMPTS if rerank else _ROWS // k)
        for first in range(0, len(wanted), size):
            own = wanted[first : first + size]
            items, kept = made.best(own, k, seen)
            row, place = np.nonzero(items >= 0)
            columns = [
                [user_ids[u] for u in own[row].tolist()],
                (place + 1).astype(np.int32),
                [made.item_ids[i] for i in items[row, place].tolist()],
                kept[row, place],
            ]
            writer.write_table(pa.table(columns, schema=schema))
    return len(wanted)


def _numbers(made: Recommender, file: Path) -> np.ndarray:
    """Numbers of the users that a file names, in its order."""
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ClusterError(f"--users: {file} cannot be read ({error})") from error
    number = made.number_of
    for line, name in enumerate(names, start=1):
        if name and name not in number:
            raise ClusterError(f"--users: {file}: line {line}: found {name!r}, expected a user of the run")
    return np.array([number[name] for name in names if name], np.int64)
