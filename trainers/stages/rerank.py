"""Reranking: what the recommender ranks first, put in order by the language model.

A prompt has the user's exact vector as its graph token, the texts of what it took and those of the candidates
by letter; the answer is the letter of what comes next. A list is put in the order of the sum of both models'
log chances, the language model's with a weight that validation chooses, 0 among others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore import Graph
from netgpt.trainers.errors import require
from netgpt.trainers.precision import cpu_products
from netgpt.trainers.recommend.config import RerankConfig
from netgpt.trainers.stages.base import Json, Made, Origins, StageJob, Tools
from netgpt.trainers.stages.folder import read_manifest
from netgpt.trainers.stages.graph import RESOURCES, common_inputs
from netgpt.trainers.stages.language import LanguageStage, language_inputs, require_layers
from netgpt.trainers.stages.recommend import Recommend
from netgpt.trainers.tasks.ranking import RankingConfig

if TYPE_CHECKING:
    from netgpt.trainers.language.assembly import Assembly
    from netgpt.trainers.language.cases import CaseAssembly
    from netgpt.trainers.language.model.netgpt import PackedLM
    from netgpt.trainers.recommend.cases import Cases
    from netgpt.trainers.recommend.data import Interactions
    from netgpt.trainers.recommend.pairs import Pairs
    from netgpt.trainers.recommend.ranking import ScoresOf
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.evaluate import Scores

WEIGHTS = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of the language model, that validation chooses from."""
TRAIN, VAL = "train.npz", "val.npz"
"""The lists that are learnt from and judged by, made once: a training that goes on has the same."""
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
        before = settings.stages[: settings.stages.index(self.name)] if self.name in settings.stages else []
        require(Recommend.name in before, "stages", settings.stages, "a recommender before rerank")
        pixels = settings.language.pixels
        require(not pixels, "language.pixels", pixels, "none, as a list has no clip")

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.recommend.cases import item_document
        from netgpt.trainers.recommend.data import Interactions

        item_document(Interactions.of(graph))

    def inputs(self, run: Origins) -> Json:
        from netgpt.trainers.language.text import VERSION
        from netgpt.trainers.recommend.cases import RULE

        settings, task = asdict(self.config(run.settings)), _ranking(run.settings)
        return {
            **common_inputs(self, run),
            **language_inputs(run),
            "settings": {k: v for k, v in settings.items() if k not in RESOURCES},
            "measured": {"k": task.k, "max_users": task.max_users},
            "rule": [RULE, VERSION],
            Recommend.name: run.digest(Recommend.name),
        }

    def assembly(self, job: StageJob, tools: Tools) -> Assembly:
        """Of the lists to learn from, and those of validation that have an answer."""
        from netgpt.trainers import distributed
        from netgpt.trainers.recommend.cases import Cases, asked_cases, train_cases, with_answers

        first, made = _Recommender.of(job, tools), None
        if distributed.rank() == 0:  # on others a last bit, and with it a list, may differ
            if not (job.folder / VAL).exists():
                options = self.options(job)
                train_cases(first.data, first.scores, *options).save(job.folder / TRAIN)
                val = asked_cases(first.data, first.scores, self._val_users(job, first), *options)
                with_answers(val, first.val).save(job.folder / VAL)
            made = Cases.load(job.folder / TRAIN), Cases.load(job.folder / VAL)
        train, val = distributed.broadcast_object(made)
        hint = "some: raise task.candidates, or train the recommender for longer"
        require(len(train) > 0, "rerank", "no pair of train that would be in a list", hint)
        require(len(val) > 0, "rerank", "no pair of validation that is in a list", hint)
        return self.of_cases(job, tools, first, Cases.joined(train, val), len(train))

    def finished(self, job: StageJob, tools: Tools) -> Assembly:
        return self.of_cases(job, tools, _Recommender.of(job, tools))

    def begin(self, model: PackedLM, assembly: Assembly) -> None:
        super().begin(model, assembly)
        require_layers(self, self.config(assembly.settings).layers, model)

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.recommend.cases import Cases, reranked
        from netgpt.trainers.recommend.judge import only
        from netgpt.trainers.recommend.ranking import full_ranking

        made = super().run(job, tools)
        reranker = Reranker(self, job, tools)
        first, users = reranker.first, self._val_users(job, reranker.first)
        cases = Cases.load(job.folder / VAL)
        log_chances = reranker.log_chances(cases)
        by_weight: dict[str, float] | None = None
        if distributed.rank() == 0:
            by_weight, judged, name = {}, only(first.val, users), f"ndcg@{first.task.k}"
            for weight in WEIGHTS:
                scores = reranked(first.scores, cases, log_chances, weight)
                ranks = full_ranking(scores, judged, [first.data.train])
                by_weight[f"{weight:g}"] = ranks.metrics(first.task.k)[name]
        found: dict[str, float] = distributed.broadcast_object(by_weight)
        weight = float(max(found, key=lambda one: found[one]))  # of equal ones the least
        _log.info("%s: the language model counts with the weight %g", self.name, weight)
        return Made(made.outputs, {**made.metrics, "weight": weight, "val_ndcg_by_weight": found})

    def titles(self, settings: Settings) -> dict[str, str]:
        return {self.name: self.short}

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        """Lists alone that hold a pair of validation or test are asked about: others change no figure."""
        reranker = Reranker(self, job, tools)
        held = reranker.first.val.joined(reranker.first.test)
        scores.add(self.name, reranker.scores(np.flatnonzero(held.num_by_user), holding=held))

    def options(self, job: StageJob) -> tuple[RerankConfig, int, int]:
        """Settings of the lists, their candidates, and the seed."""
        return self.config(job.settings), _ranking(job.settings).candidates, job.settings.seed

    def _val_users(self, job: StageJob, first: _Recommender) -> np.ndarray:
        """Users of validation that the epoch and the weight are chosen by: [n]."""
        from netgpt.trainers.recommend.judge import measured

        return np.flatnonzero(measured(first.val, self.config(job.settings).max_cases).num_by_user)

    def of_cases(
        self,
        job: StageJob,
        tools: Tools,
        first: _Recommender,
        cases: Cases | None = None,
        num_train: int = 0,
    ) -> CaseAssembly:
        """Of some cases; by default of none."""
        from netgpt.trainers import distributed
        from netgpt.trainers.language.cases import CaseAssembly
        from netgpt.trainers.recommend.cases import Cases

        return CaseAssembly(
            run=job.run,
            store=tools.store,
            settings=job.settings,
            task=tools.task.prompted,
            device=distributed.device(job.device),
            config=self.config(job.settings),
            cases=Cases.none(first.task.candidates) if cases is None else cases,
            vectors=first.users,
            num_train=num_train,
        )


@dataclass(frozen=True)
class Reranker:
    """The trained model in use. Every rank calls what it has, and all get the same."""

    stage: Rerank
    job: StageJob
    tools: Tools

    @cached_property
    def first(self) -> _Recommender:
        return _Recommender.of(self.job, self.tools)

    @cached_property
    def model(self) -> PackedLM:
        finished = self.stage.of_cases(self.job, self.tools, self.first)
        return self.stage.trained_model(finished, self.first.users.shape[1])

    @property
    def weight(self) -> float:
        """The one that the finished stage chose."""
        manifest = read_manifest(self.job.run / self.stage.name)
        assert manifest is not None  # it is done
        return float(manifest["metrics"]["weight"])

    def lists(self, users: np.ndarray, masks: Sequence[Pairs] = (), holding: Pairs | None = None) -> Cases:
        """Those of some users [n]. masks: pairs that are no candidates, besides those of train. holding:
        lists without any of these pairs are left out."""
        from netgpt.trainers import distributed
        from netgpt.trainers.recommend.cases import asked_cases, with_answers

        made = None
        if distributed.rank() == 0:
            data, scores = self.first.data, self.first.scores
            made = asked_cases(data, scores, users, *self.stage.options(self.job), masks)
            made = made if holding is None else with_answers(made, holding)
        cases: Cases = distributed.broadcast_object(made)
        return cases

    def log_chances(self, cases: Cases) -> np.ndarray:
        """The language model's of each candidate: [n, C] float64."""
        from netgpt.trainers.language.scoring import choice_log_probs

        if not len(cases):
            return np.empty(cases.candidates.shape)
        assembly = self.stage.of_cases(self.job, self.tools, self.first, cases)
        samples = assembly.samples(np.arange(len(cases)), self.stage.graph(assembly))
        language, progress = self.job.settings.language, self.tools.progress("pack")
        with cpu_products(language.precision):
            return choice_log_probs(self.model, samples, language.token_budget, progress)

    def scores(
        self, users: np.ndarray, masks: Sequence[Pairs] = (), holding: Pairs | None = None
    ) -> ScoresOf:
        """The recommender's scores, with the lists of some users [n] in the order of both models."""
        from netgpt.trainers.recommend.cases import reranked

        if self.weight == 0:
            return self.first.scores
        cases = self.lists(users, masks, holding)
        return reranked(self.first.scores, cases, self.log_chances(cases), self.weight)


@dataclass(frozen=True)
class _Recommender:
    """What the recommender left, and the pairs that it is measured on."""

    data: Interactions
    task: RankingConfig
    users: np.ndarray
    """[U, D] float32."""
    scores: ScoresOf
    val: Pairs
    test: Pairs

    @staticmethod
    def of(job: StageJob, tools: Tools) -> _Recommender:
        from netgpt.trainers.recommend.data import Interactions
        from netgpt.trainers.recommend.judge import measured
        from netgpt.trainers.recommend.train import load_vectors, scores_of

        task, data = _ranking(job.settings), Interactions.of(tools.store)
        users, items = load_vectors(job.run / Recommend.name, tools.store)
        parts = (measured(part, task.max_users) for part in (data.val, data.test))
        return _Recommender(data, task, users.numpy(), scores_of(users, items), *parts)


def _ranking(settings: Settings) -> RankingConfig:
    assert isinstance(settings.task, RankingConfig)
    return settings.task
