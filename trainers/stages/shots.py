"""Few-shot prompts: the language model tuned on written answers, pairs of its own answers, alignment on them.

tune trains adapters, layers or a prefix on prompts with earlier examples; pairs draws two answers a prompt
from the tuned model; prefer goes on with the same parameters, and what it started from is its reference
(Wang et al., "Research on multimodal social media information popularity prediction based on large language
model", 2024).
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore import Graph
from netgpt.graphstore.files import file_digest
from netgpt.trainers.config import TuneConfig
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.language.preference.config import PairsConfig, PreferConfig
from netgpt.trainers.precision import cpu_products
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import common_inputs
from netgpt.trainers.stages.language import LanguageStage, language_inputs, require_layers
from netgpt.trainers.stages.text import require_numbers

if TYPE_CHECKING:
    from netgpt.trainers.language.assembly import Assembly
    from netgpt.trainers.language.model.netgpt import PackedLM
    from netgpt.trainers.language.objectives.base import Objective
    from netgpt.trainers.language.preference.pairs import Pairs
    from netgpt.trainers.settings import Settings
    from netgpt.trainers.tasks.base import Examples


class Tune(LanguageStage):
    name, title, command = "tune", "few-shot tuning", "tune"
    help = "The language model alone, tuned on prompts with earlier examples."
    with_ = ("base", "tokens")
    Config = TuneConfig
    reads = ("tokens",)
    with_graph = False
    planned = False
    short = "tuned"

    def config(self, settings: Settings) -> TuneConfig:
        return settings.section(self.name, TuneConfig)

    def parts(self, settings: Settings) -> tuple[str, ...]:
        from netgpt.trainers.language.model.lora import tuned_parts

        return tuned_parts(self.config(settings))

    def model(self, assembly: Assembly, graph_dim: int) -> PackedLM:
        return assembly.tuned(self.config(assembly.settings))

    def begin(self, model: PackedLM, assembly: Assembly) -> None:
        super().begin(model, assembly)
        config = self.config(assembly.settings)
        if config.method == "freeze":
            require_layers(self, config.layers, model)


class MakePairs(Stage):
    name, title, command = "pairs", "pairs of answers", "pairs"
    help = "Two answers a prompt of the tuned model, and which is the better."
    Config = PairsConfig
    reads = ("tokens", Tune.name)
    leaves = ("pairs.npz",)
    kind = "language"
    planned = False

    def config(self, settings: Settings) -> PairsConfig:
        return settings.section(self.name, PairsConfig)

    def check(self, settings: Settings) -> None:
        require(Tune.name in settings.stages, "stages", settings.stages, f"{Tune.name} before {self.name}")
        require_numbers(self, settings)

    def check_graph(self, settings: Settings, graph: Graph) -> None:
        from netgpt.trainers.tasks.names import make_task

        drawn_nodes(graph, self.config(settings), make_task(settings.task).examples(graph))

    def inputs(self, run: Origins) -> Json:
        return {
            **common_inputs(self, run),
            **language_inputs(run),
            "settings": asdict(self.config(run.settings)),
            Tune.name: run.digest(Tune.name),
        }

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.trainers import distributed
        from netgpt.trainers.language.preference.drawing import draw_pairs, with_reference
        from netgpt.trainers.language.preference.pairs import FILE

        tune = Tune()
        assembly = tune.assembly(job, tools)
        config, model = self.config(job.settings), tune.trained_model(assembly, 0)
        nodes = drawn_nodes(tools.store, config, assembly.examples)
        samples, truth = assembly.samples(nodes, None), tools.task.truth(tools.store)[nodes]
        budget = job.settings.language.token_budget
        with cpu_products(job.settings.language.precision):
            pairs, counts = draw_pairs(
                model, tools.task, samples, truth, config, job.settings.seed, budget, tools.progress("pack")
            )
            if not len(pairs):
                said = ", ".join(f"{name}: {num}" for name, num in counts.items() if num)
                raise TrainerError(f"pairs: found none ({said}), expected some; train {Tune.name} for longer")
            weights_of = file_digest(job.run / Tune.name / Tune.leaves[0])
            pairs = with_reference(model, assembly.samples(pairs.node, None), pairs, weights_of, budget)
        if distributed.rank() == 0:
            pairs.save(job.folder / FILE)
        distributed.barrier()
        return Made(self.leaves, {"pairs": len(pairs), "mean_error": pairs.errors.mean(0).tolist(), **counts})


def drawn_nodes(graph: Graph, config: PairsConfig, examples: Examples) -> np.ndarray:
    """Whose answers are drawn: node numbers, rising, of labelled examples. TrainerError for a category or
    value that there is not, and where test examples are among them."""
    if not config.column:
        return np.sort(examples.train)
    target = graph.schema.target
    known = [c.name for c in graph.schema.node_type(target).columns if c.kind == "category"]
    require(
        config.column in known, "pairs.column", config.column, f"a category of {target}: {', '.join(known)}"
    )
    codes, values = graph.category(target, config.column)
    there = list(values)
    require(config.value in there, "pairs.value", config.value, f"one of {', '.join(there[:20])}")
    nodes = np.flatnonzero((np.asarray(codes) == there.index(config.value)) & ~np.isnan(examples.truth))
    num = len(np.intersect1d(nodes, examples.test))
    require(not num, "pairs.value", config.value, f"one without test examples: {num} of these are")
    return np.setdiff1d(nodes, examples.val)


class Align(LanguageStage):
    name, title, command = "prefer", "alignment on pairs", "prefer"
    help = "The tuned model aligned on the pairs (DPO, DPOP, IDPOP)."
    Config = PreferConfig
    reads = ("tokens", Tune.name, MakePairs.name)
    after = Tune.name
    with_graph = False
    learns_pairs = True
    planned = False
    short = "aligned"

    def config(self, settings: Settings) -> PreferConfig:
        return settings.section(self.name, PreferConfig)

    def check(self, settings: Settings) -> None:
        from netgpt.trainers.language.objectives.names import objective_class

        super().check(settings)
        wanted = self.config(settings).objective
        of_pairs = objective_class(wanted, f"{self.name}.objective").of_pairs
        require(of_pairs, f"{self.name}.objective", wanted, "one that learns from pairs, such as prefer")
        require(
            MakePairs.name in settings.stages,
            "stages",
            settings.stages,
            f"{MakePairs.name} before {self.name}",
        )

    def parts(self, settings: Settings) -> tuple[str, ...]:
        return Tune().parts(settings)

    def inputs(self, run: Origins) -> Json:
        return {**super().inputs(run), MakePairs.name: run.digest(MakePairs.name)}

    def model(self, assembly: Assembly, graph_dim: int) -> PackedLM:
        # Without dropout: both answers' log-probabilities would be noise beside the reference's
        return assembly.tuned(replace(Tune().config(assembly.settings), dropout=0.0))

    def pairs(self, assembly: Assembly) -> Pairs:
        """TrainerError for pairs whose reference is of other weights than those that training starts from."""
        from netgpt.trainers.language.preference.pairs import FILE, Pairs

        path = assembly.run / MakePairs.name / FILE
        pairs = Pairs.load(path)
        weights = file_digest(assembly.run / Tune.name / Tune.leaves[0])
        if pairs.weights_of != weights:
            raise TrainerError(
                f"{path}: found log-probabilities of other weights ({pairs.weights_of[:12]}), expected "
                f"those of {Tune.name} ({weights[:12]}); run again: netgpt pairs"
            )
        return pairs

    def training(self, assembly: Assembly) -> Assembly:
        """Samples are pairs: a train example's label is its pair's number."""
        from netgpt.trainers.language.cases import PairAssembly

        return PairAssembly(
            assembly.run,
            assembly.store,
            assembly.settings,
            assembly.task,
            assembly.device,
            assembly.with_graph,
            pairs=self.pairs(assembly),
        )

    def objective(self, kind: type[Objective], model: PackedLM, assembly: Assembly) -> Objective:
        from netgpt.trainers.language.cases import PairAssembly
        from netgpt.trainers.language.objectives.prefer import Prefer

        made = super().objective(kind, model, assembly)
        if isinstance(made, Prefer) and isinstance(assembly, PairAssembly):
            made.use(assembly.pairs)
        return made
