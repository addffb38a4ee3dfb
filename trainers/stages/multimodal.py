"""The stage of models over modalities and retrieved neighbours."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from netgpt.graphstore import Graph
from netgpt.trainers.errors import require
from netgpt.trainers.multimodal.config import MultimodalConfig
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import evaluation_inputs, placed_inputs

if TYPE_CHECKING:
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.evaluate import Scores


class Multimodal(Stage):
    name, title, command = "multimodal", "modalities", "multimodal"
    help = "The model of modalities and retrieved neighbours alone."
    Config = MultimodalConfig
    leaves = ("model.safetensors", "scores.safetensors")
    resumes = True
    kind = "modal"
    planned = False
    measured = True

    def check(self, settings: Settings) -> None:
        from netgpt.trainers.multimodal.models.names import model_class
        from netgpt.trainers.tasks.names import task_class

        task = settings.task.name
        require(not task_class(task).ranks, "task.name", task, "a task of nodes, as the model scores them")
        config = settings.section(self.name, MultimodalConfig)
        parts = model_class(config.model).parts
        expected = f"some of {', '.join(parts)}, which {config.model} has"
        require(set(config.without) <= set(parts), "multimodal.without", config.without, expected)

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.graph.leaks import check_types_hide_label
        from netgpt.trainers.multimodal.models.names import model_class
        from netgpt.trainers.multimodal.rows import ModalRows
        from netgpt.trainers.tasks.names import make_task

        config = settings.section(self.name, MultimodalConfig)
        near = model_class(config.model).reads(config)
        rows = ModalRows(graph, config, make_task(settings.task).examples(graph), near=near)
        relation = graph.schema.relation_type(rows.edge_type) if rows.edge_type else None
        check_types_hide_label(graph.schema, settings.task.label, rows.types, relation)

    def inputs(self, run: Origins) -> Json:
        config = asdict(run.settings.section(self.name, MultimodalConfig))
        del config["checkpoint_steps"]
        task, evaluation = run.settings.task.to_dict(), evaluation_inputs(run.settings)
        return {**placed_inputs(self, run), "task": task, "evaluation": evaluation, "multimodal": config}

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.multimodal.train import MultimodalTrainer

        trainer = MultimodalTrainer(
            job.settings.section(self.name, MultimodalConfig),
            job.settings.seed,
            tools.store,
            tools.task,
            job.settings.evaluation,
            job.folder,
            key=job.key,
            device=distributed.device(job.device),
        )
        return Made(self.leaves, trainer.run())

    def titles(self, settings: Settings) -> dict[str, str]:
        from netgpt.trainers.multimodal.models.names import model_class

        config = settings.section(self.name, MultimodalConfig)
        without = f", without {', '.join(config.without)}" if config.without else ""
        over = " over the ridge" if config.over else ""
        return {self.name: model_class(config.model).title + over + without}

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        from netgpt.trainers.multimodal.train import load_scores

        scores.add(self.name, load_scores(job.run / self.name, tools.store))
