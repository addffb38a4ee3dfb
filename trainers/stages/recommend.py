"""The recommender's stage: a model of users and items is trained, and leaves a vector of each."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from netgpt.graphstore import Graph, Store
from netgpt.trainers.errors import require
from netgpt.trainers.recommend.config import RecommenderConfig
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import placed_inputs
from netgpt.trainers.tasks.ranking import RankingConfig

if TYPE_CHECKING:
    from netgpt.sampler import SamplingOptions
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.evaluate import Scores


class Recommend(Stage):
    name, title, command = "recommender", "recommender", "train"
    help = "The recommender alone: a model of users and items."
    Config = RecommenderConfig
    leaves = ("model.safetensors", "vectors.safetensors")
    resumes = True
    kind = "pairs"
    planned = False
    measured = True

    def check(self, settings: Settings) -> None:
        from netgpt.trainers.recommend.models.names import model_class
        from netgpt.trainers.tasks.names import task_class

        task = settings.task.name
        require(task_class(task).ranks, "task.name", task, "ranking, as the recommender learns what is next")

        config = settings.section(self.name, RecommenderConfig)
        samples = model_class(config.model).samples
        expected = f"all for {config.model}, whose steps are over the whole graph"
        require(config.neighbors == "all" or samples, "recommender.neighbors", config.neighbors, expected)

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.recommend.data import Interactions
        from netgpt.trainers.recommend.models.base import chosen_modalities
        from netgpt.trainers.recommend.models.names import model_class

        config, data = settings.section(self.name, RecommenderConfig), Interactions.of(graph)
        require(len(data.val) > 0, "validation", "no pair", "some, to choose an epoch by")
        timed = graph.relation(data.reverse).time is not None
        expected = "uniform or degree, as pairs have no times"
        require(timed or config.negatives != "earlier", "recommender.negatives", config.negatives, expected)
        if config.modalities or model_class(config.model).wants_modalities:
            chosen_modalities(data, config)

    def inputs(self, run: Origins) -> Json:
        from netgpt.sampler import GENERATOR
        from netgpt.sampler.negatives import NEGATIVES
        from netgpt.trainers.recommend.triples import PAIRS

        task, settings = run.settings.task, run.settings.section(self.name, RecommenderConfig)
        assert isinstance(task, RankingConfig)
        config = asdict(settings)
        del config["checkpoint_steps"]
        rules = [PAIRS[1]] if settings.neighbors == "all" else [NEGATIVES, GENERATOR]
        # Of the task what an epoch is chosen by: more that is measured at the end trains nothing anew
        chosen_by = {"k": task.k, "max_users": task.max_users}
        return {**placed_inputs(self, run), "task": chosen_by, "recommender": config, "rules": rules}

    def sampling(self, job: StageJob, store: Store) -> SamplingOptions | None:
        from netgpt.trainers.recommend.data import Interactions
        from netgpt.trainers.recommend.sampled import sampling_options

        config = job.settings.section(self.name, RecommenderConfig)
        if config.neighbors == "all":
            return None
        return sampling_options(Interactions.of(store), config, job.settings.seed)

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.recommend.train import RecommenderTrainer

        task = tools.task.config
        assert isinstance(task, RankingConfig)
        trainer = RecommenderTrainer(
            job.settings.section(self.name, RecommenderConfig),
            job.settings.seed,
            tools.store,
            task,
            job.folder,
            key=job.key,
            device=distributed.device(job.device),
            engine=tools.engine,
        )
        return Made(self.leaves, trainer.run())

    def titles(self, settings: Settings) -> dict[str, str]:
        from netgpt.trainers.recommend.models.names import model_class

        return {self.name: model_class(settings.section(self.name, RecommenderConfig).model).title}

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        from netgpt.trainers.recommend.train import load_vectors, scores_of

        users, items = load_vectors(job.run / self.name, tools.store)
        scores.add(self.name, scores_of(users, items))
