"""Ranking: which of all items a user takes next, measured by the places of those that were held out."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from netgpt.graphstore import Document, Graph
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.tasks.base import Examples, Metric, Task, TaskConfig, WordsConfig
from netgpt.trainers.tasks.classification import Classification, ClassificationConfig

if TYPE_CHECKING:
    from netgpt.trainers.config import EvaluationConfig
    from netgpt.trainers.tasks.evaluate import Judging

BASELINES = {"popularity": "popularity", "itemknn": "ItemKNN", "ease": "EASE"}
"""What is fitted beside, and what tables call it."""
COLD = ("scores", "popularity")
LETTERS = string.ascii_uppercase
"""What prompts call the items of a list: a token each in most vocabularies."""


@dataclass(frozen=True, kw_only=True)
class RankingConfig(TaskConfig):
    k: int = 10
    """Places of the list that count."""
    masks_val: bool = True
    """Whether a user's validation items are no candidates in the test, as those of train are not."""
    sampled: int = 0
    """Beside the ranking of all items one among so many fixed ones that are none of the user's; 0: none."""
    cold: str = "scores"
    """What ranks items for users without a pair of train: scores, the model's; popularity."""
    max_users: int = 0
    """Users that are measured, drawn by a hash; 0: all."""
    baselines: list[str] = field(default_factory=lambda: list(BASELINES))
    """What is fitted beside: popularity, itemknn (50 neighbours), ease."""
    ease_penalty: float = 200.0
    """Ridge penalty of ease."""
    candidates: int = 20
    """Items of the list that a prompt asks about, 2 to 26: those that the recommender ranks first."""
    words: WordsConfig = field(
        default_factory=lambda: WordsConfig(
            request="Please read what this user took, the latest first, and say which of the candidates "
            "comes next: ",
            response="The next one is ",
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.k >= 1, "task.k", self.k, "at least 1")
        require(self.sampled >= 0, "task.sampled", self.sampled, "at least 0")
        require(self.max_users >= 0, "task.max_users", self.max_users, "at least 0")
        require(self.cold in COLD, "task.cold", self.cold, " or ".join(COLD))
        require(self.ease_penalty > 0, "task.ease_penalty", self.ease_penalty, "above 0")
        require(2 <= self.candidates <= len(LETTERS), "task.candidates", self.candidates, "2 to 26")
        for name in self.baselines:
            require(name in BASELINES, "task.baselines", name, f"some of {', '.join(BASELINES)}")
        fresh = TaskConfig()
        for name in ("label", "val_share", "split"):
            unused = getattr(self, name) == getattr(fresh, name)
            expected = "none, as parts of pairs are the data set's (build.split)"
            require(unused, f"task.{name}", getattr(self, name), expected)


class Ranking(Task):
    Config: ClassVar[type[TaskConfig]] = RankingConfig
    noun = "item"
    ranks = True

    def __init__(self, config: TaskConfig) -> None:
        super().__init__(config)
        assert isinstance(config, RankingConfig)
        k = config.k
        self.chooses = f"ndcg@{k}"
        said = {
            "precision": ("P", f"share of the first {k} that were held out"),
            "recall": ("R", f"share of the held out items that are among the first {k}"),
            "ndcg": ("NDCG", "discounted gain of the hits, of that of the best order"),
            "mrr": ("MRR", "1 / place of the first hit, 0 without one"),
            "hit": ("Hit", "users with a hit"),
        }
        self.metrics = tuple(
            Metric(f"{name}@{k}", f"{title}@{k}", meaning, larger_is_better=True)
            for name, (title, meaning) in said.items()
        )

    @property
    def prompted(self) -> Task:
        """Which of a list comes next, by its letter. Its metrics are over lists with an answer."""
        assert isinstance(self.config, RankingConfig)
        letters = list(LETTERS[: self.config.candidates])
        return Classification(ClassificationConfig(classes=letters, words=self.config.words))

    @property
    def also(self) -> Mapping[str, str]:
        assert isinstance(self.config, RankingConfig)
        named = {
            "test_warm": "users and items that have pairs of train: users",
            "test_cold_users": "users without a pair of train: users",
            "test_cold_items": "items without a pair of train: users",
        }
        if self.config.sampled:
            named["test_sampled"] = (
                f"among {self.config.sampled:,} fixed items that are none of theirs: users"
            )
        return named

    @property
    def said_train(self) -> str:
        return "the pairs of train"

    @property
    def said_test(self) -> str:
        return "users, by what was held out"

    def check(self, graph: Graph) -> None:
        from netgpt.trainers.recommend.data import Interactions

        data = Interactions.of(graph)
        require(len(data.test) > 0, "test", "no pair", "some, to measure on")

    def examples(self, graph: Graph) -> Examples:
        raise TrainerError(f"task.name: found {self.config.name!r}, expected a task of nodes")

    def judge(self, graph: Graph, config: EvaluationConfig, document: Document | None = None) -> Judging:
        from netgpt.trainers.config import EvaluationConfig as Groups
        from netgpt.trainers.recommend.judge import RankingJudge

        assert isinstance(self.config, RankingConfig)
        require(config == Groups(), "evaluation", config, "no groups, where pairs are ranked")
        return RankingJudge(graph, self.config)
