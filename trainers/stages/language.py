"""The language stages: what each trains of the model, and their steps under ZeRO-2.

stage2 (alignment) trains the projector and the markers, stage3 (rating) those, the head and the last decoder
layers, lora (the text baseline) the adapters of a model without graph. What is learnt is an objective.

A step is the same at every world size: a fixed number of packs, whose losses are summed and divided by the
step's number of samples or response tokens.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from netgpt.trainers.config import AlignConfig, LoraConfig, RateConfig, StageConfig
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.precision import cpu_products
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import RESOURCES, common_inputs
from netgpt.trainers.stages.text import (
    asked,
    base_digest,
    has_choices,
    require_choices,
    require_numbers,
)

if TYPE_CHECKING:
    from netgpt.trainers.language.assembly import Assembly
    from netgpt.trainers.language.model.netgpt import PackedLM
    from netgpt.trainers.language.objectives.base import Objective
    from netgpt.trainers.language.samples import GraphStates
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.evaluate import Scores

LANGUAGE_RESOURCES = ("activation_checkpointing",)
"""Settings of all language stages that change no weights but for rounding."""


def language_inputs(run: Origins) -> Json:
    """What every language stage reads. Not the number of workers: steps are the same at any."""
    language = asdict(run.settings.language)
    if not run.settings.language.history.relation:
        del language["history"]
    del language["drawn"]  # no weights depend on it
    if run.settings.language.precision == "auto":
        del language["precision"]
    return {
        "language": {k: v for k, v in language.items() if k not in LANGUAGE_RESOURCES},
        "pixels": run.remembered("pixels", lambda: pixels_digest(run)),
        "task": asked(run.settings),
        "without": asdict(run.settings.ablation),
        "base": base_digest(run),
        "tokens": run.digest("tokens"),
    }


def require_layers(stage: Stage, layers: int, model: PackedLM) -> None:
    """TrainerError where a stage is to train more decoder layers than there are."""
    num = len(model.text.layers)
    if layers > num:
        raise TrainerError(f"{stage.name}.layers: found {layers}, expected 1 to {num}")


def pixels_digest(run: Origins) -> str:
    """Digest of the clips' names, sizes and times: they are too many bytes to read for it."""
    from pathlib import Path

    from netgpt.graphstore.files import value_digest

    folder = run.settings.language.pixels
    files = sorted(Path(folder).glob("*.safetensors")) if folder else []
    return value_digest([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files])


class LanguageStage(Stage):
    """A stage that trains parts of the language model. A new one is a subclass with its own settings."""

    Config: ClassVar[type[StageConfig]] = StageConfig  # type: ignore[assignment]
    leaves = ("netgpt.safetensors",)
    resumes = True
    kind = "language"
    measured = True
    learns_pairs: ClassVar[bool] = False
    """Whether its samples are pairs of answers."""
    with_graph: ClassVar[bool] = True
    """Whether prompts have the graph token; without it the model has no projector and no head."""
    after: ClassVar[str] = ""
    """Stage whose weights it starts from; empty, or of a recipe without that stage: fresh ones."""
    short: ClassVar[str] = ""
    """Title of its results; by default its own."""
    unreported: ClassVar[tuple[str, ...]] = ()
    """Suffixes of its objective's predictions that are left out."""

    def config(self, settings: Settings) -> StageConfig:
        return settings.section(self.name, StageConfig)

    def parts(self, settings: Settings) -> tuple[str, ...]:
        """What it trains, as `PackedLM.parts` names it."""
        raise NotImplementedError

    def start(self, settings: Settings) -> str:
        """What the head's scores are added to: mean, nothing; graph, stage 1's scores."""
        return "mean"

    def check(self, settings: Settings) -> None:
        from netgpt.trainers.language.objectives.names import objective_class

        objective = objective_class(self.config(settings).objective, f"{self.name}.objective")
        if objective.says_choices:
            require_choices(self, settings)
        found = self.config(settings).objective
        ok = not objective.of_pairs or self.learns_pairs
        require(ok, f"{self.name}.objective", found, "one that learns from examples, not from pairs")
        if objective.writes_numbers:
            require_numbers(self, settings)

    def inputs(self, run: Origins) -> Json:
        settings = asdict(self.config(run.settings))
        made_of = {
            **common_inputs(self, run),
            **language_inputs(run),
            "settings": {k: v for k, v in settings.items() if k not in RESOURCES},
        }
        if self.with_graph:
            made_of |= {"embeddings": run.digest("embeddings"), "start": self.start(run.settings)}
        return {**made_of, "after": run.digest(self.after)} if self.after else made_of

    def assembly(self, job: StageJob, tools: Tools) -> Assembly:
        from netgpt.trainers import distributed
        from netgpt.trainers.language.assembly import Assembly

        device = distributed.device(job.device)
        return Assembly(job.run, tools.store, job.settings, tools.task, device, self.with_graph)

    def finished(self, job: StageJob, tools: Tools) -> Assembly:
        """What using the trained model needs, where no sample is asked of."""
        return self.assembly(job, tools)

    def graph(self, assembly: Assembly) -> GraphStates | None:
        if not self.with_graph:
            return None
        return assembly.graph_states(scores=self.start(assembly.settings) == "graph")

    def model(self, assembly: Assembly, graph_dim: int) -> PackedLM:
        """The model with fresh trainable parts. graph_dim: width of h_v."""
        return assembly.netgpt(graph_dim, self.start(assembly.settings))

    def training(self, assembly: Assembly) -> Assembly:
        """What training reads, where its samples are others than those that are measured."""
        return assembly

    def objective(self, kind: type[Objective], model: PackedLM, assembly: Assembly) -> Objective:
        """What training learns."""
        return kind(model, assembly.task, assembly.builder, self.config(assembly.settings))

    def begin(self, model: PackedLM, assembly: Assembly) -> None:
        """Put in what the stage starts from: the weights of those before it, in their order."""
        from netgpt.trainers.stages.names import stage_of

        if self.after in assembly.settings.stages:
            before = stage_of(self.after)
            assert isinstance(before, LanguageStage)
            before.load(model, assembly)

    def load(self, model: PackedLM, assembly: Assembly) -> None:
        """Put in the finished stage's weights, over what it started from: it may train other parts."""
        from netgpt.trainers.language.assembly import WEIGHTS, load_weights

        LanguageStage.begin(self, model, assembly)  # not its own, which may start parts anew
        load_weights(model, assembly.run / self.name / WEIGHTS, self.parts(assembly.settings))

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers.language.train import LanguageTrainer

        assembly = self.training(self.assembly(job, tools))
        graph = self.graph(assembly)
        model = self.model(assembly, 0 if graph is None else len(graph.mean))
        self.begin(model, assembly)
        trainer = LanguageTrainer(self, assembly, model, graph, job.folder, key=job.key)
        with cpu_products(job.settings.language.precision):
            trainer.loop.run()
            return Made(self.leaves, trainer.finish())

    def trained_model(self, assembly: Assembly, graph_dim: int) -> PackedLM:
        """The model as the finished stage left it, in evaluation mode."""
        model = self.model(assembly, graph_dim)
        self.load(model, assembly)
        return model.eval()

    def titles(self, settings: Settings) -> dict[str, str]:
        from netgpt.trainers.language.objectives.names import objective_class
        from netgpt.trainers.tasks.names import make_task

        objective = objective_class(self.config(settings).objective, f"{self.name}.objective")
        predicts = objective.titles(settings.language.drawn.num)
        words = {"stage": self.short or self.title, "noun": make_task(settings.task).noun}
        return {
            f"{self.name}{suffix}": title.format_map(words)
            for suffix, title in predicts.items()
            if suffix not in self.unreported
        }

    def measure(self, job: StageJob, tools: Tools, scores: Scores) -> None:
        from netgpt.trainers.language.objectives.base import OF_JUDGED
        from netgpt.trainers.language.objectives.names import objective_class

        assembly = self.assembly(job, tools)
        graph, named = self.graph(assembly), assembly.examples.named()
        model = self.trained_model(assembly, 0 if graph is None else len(graph.mean))
        config = self.config(job.settings)
        nodes = np.sort(np.concatenate(list(named.values())))
        judged = np.sort(np.concatenate([named["val"], named["test"]]))
        objective = objective_class(config.objective, f"{self.name}.objective")
        made = objective(model, tools.task, assembly.builder, config)
        made.drawn = job.settings.language.drawn
        with cpu_products(job.settings.language.precision):
            predicted = made.predict(
                assembly.samples(nodes, graph),
                assembly.samples(judged, graph),
                job.settings.language.token_budget,
                tools.progress("pack"),
            )
        num = tools.store.num_nodes[tools.store.schema.target]
        for suffix, values in predicted.items():
            if suffix in self.unreported:
                continue
            generated = suffix in OF_JUDGED
            of_all = np.full((num, *values.shape[1:]), np.nan if generated else 0.0)
            of_all[judged if generated else nodes] = values
            parts = {"parts": ("val", "test")} if generated else {}
            scores.add(f"{self.name}{suffix}", of_all, **parts)


class Align(LanguageStage):
    name, title, command = "stage2", "stage 2: alignment", "align"
    help = "Stage 2: supervised language fine-tuning of the projector."
    with_ = ("base", "tokens")
    Config = AlignConfig
    reads = ("embeddings", "tokens")
    short = "stage 2"

    def parts(self, settings: Settings) -> tuple[str, ...]:
        return ("markers", "projector")


class Rate(LanguageStage):
    name, title, command = "stage3", "stage 3: rating", "rate"
    help = "Stage 3 alone: task-oriented predictor fine-tuning."
    Config = RateConfig
    reads = ("embeddings", "tokens", "stage2")
    after = "stage2"
    short = "NetGPT"

    def parts(self, settings: Settings) -> tuple[str, ...]:
        return ("markers", "projector", "head", f"last:{settings.section(self.name, RateConfig).layers}")

    def start(self, settings: Settings) -> str:
        return settings.section(self.name, RateConfig).start

    def begin(self, model: PackedLM, assembly: Assembly) -> None:
        from netgpt.trainers.language.model.netgpt import NetGPT

        super().begin(model, assembly)
        require_layers(self, assembly.settings.section(self.name, RateConfig).layers, model)
        assert isinstance(model, NetGPT)
        examples, from_graph = assembly.examples, self.start(assembly.settings) == "graph"
        at = 0.0 if from_graph else assembly.task.start(examples.truth[examples.train])
        model.start_head_at(at)


class Lora(LanguageStage):
    name, title, command = "lora", "LoRA baseline", "lora"
    help = "A baseline: the language model with LoRA, without the graph; netgpt evaluate has its metrics."
    with_ = ("base", "tokens")
    Config = LoraConfig
    reads = ("tokens",)
    with_graph = False
    short = "LoRA"
    unreported = ("_mean",)

    def applies(self, settings: Settings) -> bool:
        """Not where the task's answers are no list: unlike a stage, a recipe need not ask for it."""
        return has_choices(settings)

    def parts(self, settings: Settings) -> tuple[str, ...]:
        return ("adapters",)

    def model(self, assembly: Assembly, graph_dim: int) -> PackedLM:
        return assembly.tuned(assembly.settings.section(self.name, LoraConfig))
