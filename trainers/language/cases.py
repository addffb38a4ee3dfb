"""Samples of something else than labelled nodes: lists of candidates, and pairs of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from netgpt.trainers.language.assembly import Assembly, make_builder
from netgpt.trainers.language.preference.pairs import Pairs
from netgpt.trainers.language.samples import GraphStates
from netgpt.trainers.language.text.prompt import PromptBuilder
from netgpt.trainers.language.text.tokens import Tokens
from netgpt.trainers.recommend.cases import Cases, case_document, records
from netgpt.trainers.recommend.config import RerankConfig
from netgpt.trainers.recommend.data import Interactions
from netgpt.trainers.tasks.base import Examples


@dataclass(frozen=True, kw_only=True)
class CaseAssembly(Assembly):
    """A sample's number is a case's: the first `num_train` are learnt from, the others judge.

    task: as prompts ask it (`Task.prompted`). Prompts are made here, for a case is in no token cache.
    """

    config: RerankConfig
    cases: Cases
    vectors: np.ndarray
    """[U, D] float32: users' exact vectors, of which a sample's graph token is one."""
    num_train: int = 0

    @cached_property
    def data(self) -> Interactions:
        return Interactions.of(self.store)

    @cached_property
    def examples(self) -> Examples:
        numbers, num = np.arange(len(self.cases)), self.num_train
        answers = self.cases.answers.astype(np.float64)
        return Examples(self.data.user_type, answers, numbers[:num], numbers[num:], numbers[:0])

    @cached_property
    def builder(self) -> PromptBuilder:
        document = case_document(self.data, self.config)
        return make_builder(self.base_path, self.store, self.settings, self.task, document=document)

    def graph_states(self, scores: bool) -> GraphStates:
        """Vectors by case, with the scale of those of all users that have a pair of train: the same for any
        cases. scores: of no use here."""
        warm = np.flatnonzero(self.data.train.num_by_user)
        return replace(GraphStates.of(self.vectors, warm), embeddings=self.vectors[self.cases.users])

    @cached_property
    def tokens(self) -> Tokens:
        return Tokens.of(self.builder.tokenize(records(self.data, self.cases, self.config)))

    @property
    def names(self) -> Sequence[str]:
        ids = self.store.node_names(self.data.user_type)
        return [ids[user] for user in self.cases.users.tolist()]


@dataclass(frozen=True, kw_only=True)
class PairAssembly(Assembly):
    """A train example is a node that has a pair, its label the pair's number; those of validation are as
    always."""

    pairs: Pairs

    @cached_property
    def examples(self) -> Examples:
        own = super().examples
        truth = own.truth.copy()
        truth[self.pairs.node] = np.arange(len(self.pairs))
        # A node that is validated by its label has no pair's number
        val = np.setdiff1d(own.val, self.pairs.node)
        return replace(own, truth=truth, train=np.sort(self.pairs.node), val=val)
