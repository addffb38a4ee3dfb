"""The graph stages: pretraining of the encoder, and the cache of exact embeddings."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore import Graph, Store
from netgpt.trainers.errors import require
from netgpt.trainers.graph.files import IDS, VECTORS
from netgpt.trainers.progress import OnProgress
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools

if TYPE_CHECKING:
    from netgpt.sampler import SamplingOptions
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.evaluate import Scores

RESOURCES = ("tables_gb", "inference_gb", "checkpoint_steps")
"""Settings that change no weights but for rounding: after them a training goes on where it was."""


def evaluation_inputs(settings: Settings) -> Json:
    """How what is judged is told apart; not which stages are measured in the end."""
    return {name: value for name, value in asdict(settings.evaluation).items() if name != "stages"}


def common_inputs(stage: Stage, run: Origins) -> Json:
    """What every stage is made from."""
    return {"stage": stage.name, "store": run.store.digest, "seed": run.settings.seed}


def placed_inputs(stage: Stage, run: Origins) -> Json:
    """The same, and the workers and threads that the order of its sums depends on."""
    return {**common_inputs(stage, run), "workers": run.workers(stage), "threads": run.threads}


class Pretrain(Stage):
    name, title, command = "stage1", "stage 1: pretraining", "pretrain"
    help = "Stage 1 alone: pretraining of the graph encoder."
    leaves = ("model.safetensors",)
    resumes = True
    kind = "graph"

    def check(self, settings: Settings) -> None:
        from netgpt.trainers.graph.encoders.names import encoder_class
        from netgpt.trainers.tasks.names import task_class

        task = settings.task.name
        require(not task_class(task).ranks, "task.name", task, "a task of nodes, as stage 1 scores them")

        encoder_class(settings.graph.encoder).check(settings.graph)

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.graph.leaks import check_label_is_hidden
        from netgpt.trainers.graph.without import Without

        without = Without.of(graph.schema, settings.without, settings.ablation)
        check_label_is_hidden(graph.schema, settings.task.label, settings.graph.layers, without)

    def num_workers(self, settings: Settings, asked: int) -> int:
        """A step over the whole graph is one worker's."""
        return 1 if settings.graph.neighbors == "all" else asked

    def inputs(self, run: Origins) -> Json:
        from netgpt.sampler import GENERATOR

        settings = run.settings
        return {
            **placed_inputs(self, run),
            "task": settings.task.to_dict(),
            "without": asdict(settings.ablation),
            "evaluation": evaluation_inputs(settings),
            "graph": {k: v for k, v in asdict(settings.graph).items() if k not in RESOURCES},
            "sampler": asdict(settings.sampler),
            "generator": GENERATOR,
        }

    def sampling(self, job: StageJob, store: Store) -> SamplingOptions | None:
        from netgpt.trainers.graph.train import sampling_options

        sampled = job.settings.graph.neighbors == "sampled"
        return sampling_options(store, job.settings) if sampled else None

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.graph.train import MODEL, SAMPLED, GraphTrainer

        trainer = GraphTrainer(
            job.settings,
            tools.store,
            tools.task,
            job.folder,
            key=job.key,
            device=distributed.device(job.device),
            engine=tools.engine,
        )
        metrics = trainer.run()
        return Made([name for name in (MODEL, SAMPLED) if (job.folder / name).exists()], metrics)


class Embed(Stage):
    name, title, command = "embeddings", "exact embeddings", "embed"
    help = "The embedding cache alone: exact inference over all neighbours."
    reads = ("stage1",)
    leaves = (VECTORS, IDS)
    placing = "one"
    kind = "embeddings"
    measured = True

    def inputs(self, run: Origins) -> Json:
        return {**placed_inputs(self, run), "stage1": run.digest("stage1")}

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.graph.exact import cache_digests, write_cache, write_ids
        from netgpt.trainers.graph.tables import FeatureTables
        from netgpt.trainers.graph.train import MODEL, load_model

        device, pretrained = distributed.device(job.device), job.run / "stage1"
        model = load_model(pretrained, tools.store, tools.task, device)
        tables = FeatureTables.of(tools.store, device, model.shape, max_bytes=0)
        progress: OnProgress = tools.progress("relation")
        (job.folder / VECTORS).mkdir()
        write_cache(
            job.folder / VECTORS,
            model,
            tables,
            cache_digests(pretrained / MODEL, tools.store),
            memory_bytes=job.settings.graph.inference_bytes,
            progress=progress,
        )
        write_ids(job.folder / IDS, tools.store)
        return Made(self.leaves, {})

    def titles(self, settings: Settings) -> dict[str, str]:
        from netgpt.trainers.graph.encoders.names import encoder_class

        encoder = encoder_class(settings.graph.encoder).title
        return {"stage1": encoder, "stage1_sampled": f"{encoder}, sampled"}

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        from netgpt.trainers.graph.exact import cache_digests, open_cache
        from netgpt.trainers.graph.train import MODEL, sampled_scores

        digests = cache_digests(job.run / "stage1" / MODEL, tools.store)
        scores.add("stage1", np.asarray(open_cache(job.run / self.name / VECTORS, digests)[1], np.float64))
        if (sampled := sampled_scores(job.run / "stage1")) is not None:
            scores.add("stage1_sampled", sampled, parts=("val", "test"))
