"""Reranking: what the recommender ranks first, put in order by the language model.

A prompt has the user's exact vector as its graph token, the texts of what it took and those of the candidates
by letter; the answer is the letter of what comes next. A list is put in the order of the sum of both models'
log chances, the language model's with a weight that validation chooses, 0 among others.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore import Graph
from netgpt.trainers.errors import require
from netgpt.trainers.recommend.config import RerankConfig
from netgpt.trainers.stages.base import Json, Made, Origins, StageJob, Tools
from netgpt.trainers.stages.folder import read_manifest
from netgpt.trainers.stages.graph import RESOURCES, common_inputs
from netgpt.trainers.stages.language import LanguageStage, language_inputs
from netgpt.trainers.stages.recommend import Recommend
from netgpt.trainers.tasks.ranking import RankingConfig

if TYPE_CHECKING:
    from netgpt.trainers.language.assembly import Assembly
    from netgpt.trainers.recommend.cases import Cases
    from netgpt.trainers.recommend.data import Interactions
    from netgpt.trainers.recommend.pairs import Pairs
    from netgpt.trainers.recommend.ranking import ScoresOf
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.evaluate import Scores

WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of the language model, that validation chooses from."""
_log = logging.getLogger(__name__)


class Rerank(LanguageStage):
    name, title, command = "rerank", "reranking", "rerank"
    help = "A language model that puts in order what the recommender ranks first."
    with_ = ("base",)
    Config = RerankConfig
    reads = (Recommend.name, "base")
    short = "reranked"

    def config(self, settings: Settings) -> RerankConfig:
        return settings.section(self.name, RerankConfig)

    def parts(self, settings: Settings) -> tuple[str, ...]:
        return ("markers", "projector", f"last:{self.config(settings).layers}")

    def check(self, settings: Settings) -> None:
        from netgpt.trainers.language.objectives.names import objective_class
        from netgpt.trainers.tasks.names import task_class

        task, wanted = settings.task.name, self.config(settings).objective
        require(task_class(task).ranks, "task.name", task, "ranking, as there are lists to put in order")
        says = objective_class(wanted, f"{self.name}.objective").says_choices
        require(says, f"{self.name}.objective", wanted, "one that says choices, such as answer")
        require(Recommend.name in settings.stages, "stages", settings.stages, "a recommender before rerank")

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.recommend.cases import item_document
        from netgpt.trainers.recommend.data import Interactions

        item_document(Interactions.of(graph))

    def inputs(self, run: Origins) -> Json:
        settings = asdict(self.config(run.settings))
        return {
            **common_inputs(self, run),
            **language_inputs(run),
            "settings": {k: v for k, v in settings.items() if k not in RESOURCES},
            Recommend.name: run.digest(Recommend.name),
        }

    def assembly(self, job: StageJob, tools: Tools) -> Assembly:
        """Of the cases to learn from, and those of validation that have an answer."""
        from netgpt.trainers import distributed
        from netgpt.trainers.recommend.cases import Cases, asked_cases, train_cases, with_answers

        first, made = _Recommender.of(job, tools), None
        if distributed.rank() == 0:  # on others a last bit, and with it a list, may differ
            options = self._options(job)
            train = train_cases(first.data, first.scores, *options)
            val = asked_cases(first.data, first.scores, np.flatnonzero(first.val.num_by_user), *options)
            made = train, with_answers(val, first.val)
        train, val = distributed.broadcast_object(made)
        require(len(train) > 0, "train", "no pair that the recommender has among its first", "some")
        require(len(val) > 0, "validation", "no pair that the recommender has among its first", "some")
        return self._of(job, tools, first, Cases.joined(train, val), len(train))

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.recommend.cases import reranked
        from netgpt.trainers.recommend.ranking import full_ranking

        made = super().run(job, tools)
        first = _Recommender.of(job, tools)
        cases, log_chances = self._asked(job, tools, first, np.flatnonzero(first.val.num_by_user))
        by_weight: dict[str, float] | None = None
        if distributed.rank() == 0:
            by_weight = {}
            for weight in WEIGHTS:
                scores = reranked(first.scores, cases, log_chances, weight)
                ranks = full_ranking(scores, first.val, [first.data.train])
                by_weight[f"{weight:g}"] = ranks.metrics(first.task.k)[f"ndcg@{first.task.k}"]
        found: dict[str, float] = distributed.broadcast_object(by_weight)
        weight = float(max(found, key=lambda one: found[one]))  # of equal ones the least
        _log.info("%s: the language model counts with the weight %g", self.name, weight)
        return Made(made.outputs, {**made.metrics, "weight": weight, "val_ndcg_by_weight": found})

    def titles(self, settings: Settings) -> dict[str, str]:
        return {self.name: self.short}

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        first = _Recommender.of(job, tools)
        users = np.flatnonzero(first.val.num_by_user + first.test.num_by_user)
        scores.add(self.name, self.scores(job, tools, users))

    def scores(self, job: StageJob, tools: Tools, users: np.ndarray) -> ScoresOf:
        """The recommender's scores, with the lists of some users [n] in the finished stage's order. Every
        rank calls this."""
        from netgpt.trainers.recommend.cases import reranked

        first, manifest = _Recommender.of(job, tools), read_manifest(job.run / self.name)
        assert manifest is not None  # it is done
        cases, log_chances = self._asked(job, tools, first, users)
        return reranked(first.scores, cases, log_chances, manifest["metrics"]["weight"])

    def _options(self, job: StageJob) -> tuple[RerankConfig, int, int]:
        """Settings of the cases, their candidates, and the seed."""
        task = job.settings.task
        assert isinstance(task, RankingConfig)
        return self.config(job.settings), task.candidates, job.settings.seed

    def _asked(
        self, job: StageJob, tools: Tools, first: _Recommender, users: np.ndarray
    ) -> tuple[Cases, np.ndarray]:
        """Cases of some users [n], and the trained model's log chances of their candidates [n, C]; every rank
        calls this, and all get the same."""
        from netgpt.trainers import distributed
        from netgpt.trainers.language.scoring import choice_log_probs
        from netgpt.trainers.recommend.cases import asked_cases

        made = None
        if distributed.rank() == 0:
            made = asked_cases(first.data, first.scores, users, *self._options(job))
        cases: Cases = distributed.broadcast_object(made)
        assembly = self._of(job, tools, first, cases, 0)
        samples = assembly.samples(assembly.examples.val, self.graph(assembly))
        model = self.trained_model(assembly, first.users.shape[1])
        budget = job.settings.language.token_budget
        return cases, choice_log_probs(model, samples, budget, tools.progress("pack"))

    def _of(self, job: StageJob, tools: Tools, first: _Recommender, cases: Cases, num_train: int) -> Assembly:
        from netgpt.trainers import distributed
        from netgpt.trainers.language.cases import CaseAssembly

        return CaseAssembly(
            run=job.run,
            store=tools.store,
            settings=job.settings,
            task=tools.task.prompted,
            device=distributed.device(job.device),
            cases=cases,
            vectors=first.users,
            num_train=num_train,
        )


@dataclass(frozen=True)
class _Recommender:
    """What the recommender left, and the pairs that it is measured on."""

    data: Interactions
    task: RankingConfig
    users: np.ndarray
    """[U, D] float32."""
    scores: ScoresOf

    @staticmethod
    def of(job: StageJob, tools: Tools) -> _Recommender:
        from netgpt.trainers.recommend.data import Interactions
        from netgpt.trainers.recommend.train import load_vectors, scores_of

        task = job.settings.task
        assert isinstance(task, RankingConfig)
        users, items = load_vectors(job.run / Recommend.name, tools.store)
        return _Recommender(Interactions.of(tools.store), task, users.numpy(), scores_of(users, items))

    @property
    def val(self) -> Pairs:
        from netgpt.trainers.recommend.judge import measured

        return measured(self.data.val, self.task.max_users)

    @property
    def test(self) -> Pairs:
        from netgpt.trainers.recommend.judge import measured

        return measured(self.data.test, self.task.max_users)
