"""The evaluation: scores of every measured stage on every part, beside the baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from netgpt.trainers.errors import require
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import common_inputs, evaluation_inputs
from netgpt.trainers.stages.language import language_inputs
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.baselines import RunMetrics

if TYPE_CHECKING:
    from netgpt.graphstore import Document
    from netgpt.trainers.settings import Settings

METRICS, INTERVALS = "metrics.json", "intervals.json"


def measured_stages(settings: Settings) -> list[str]:
    """Stages of a run whose scores are measured, those of a whole run before the baselines."""
    wanted = settings.evaluation.stages
    return [name for name in _scoring(settings) if not wanted or name in wanted]


def _scoring(settings: Settings) -> list[str]:
    """Stages that give scores."""
    return [name for name in (*settings.stages, *settings.baselines) if stage_of(name).measured]


class Evaluate(Stage):
    name, title, command = "evaluation", "evaluation", "evaluate"
    leaves = ("predictions.parquet", METRICS, INTERVALS)

    def check(self, settings: Settings) -> None:
        known, wanted = _scoring(settings), settings.evaluation.stages
        expected = f"some of {', '.join(known)}"
        require(set(wanted) <= set(known), "evaluation.stages", wanted, expected)
        whole = any(name in settings.stages for name in wanted)
        require(whole or not wanted, "evaluation.stages", wanted, f"one of a whole run among {expected}")

    def needs(self, run: Origins) -> Sequence[str]:
        """The last measured stage of a whole run; none where it was not begun and a baseline is done."""
        settings = run.settings
        last = [name for name in measured_stages(settings) if name in settings.stages][-1:]
        begun = any((run.path / stage_of(name).name).exists() for name in last)
        if not begun and any(run.is_done(name) for name in settings.baselines):
            return []
        return last

    def inputs(self, run: Origins) -> Json:
        settings = run.settings
        has_text = any(stage_of(name).kind == "language" for name in (*settings.stages, *settings.baselines))
        done = {name: run.digest(name) for name in measured_stages(settings) if run.is_done(name)}
        return {
            **common_inputs(self, run),
            **(language_inputs(run) if has_text else {}),
            **({"drawn": asdict(drawn)} if has_text and (drawn := settings.language.drawn).num else {}),
            "task": settings.task.to_dict(),
            "measured": done,
            "evaluation": evaluation_inputs(settings),
        }

    def run(self, job: StageJob, tools: Tools) -> Made:
        from netgpt.graphstore.files import atomic_file, write_json
        from netgpt.trainers import distributed
        from netgpt.trainers.graph.encoders.names import encoder_class
        from netgpt.trainers.tasks.evaluate import PREDICTIONS, Scores

        settings, scores = job.settings, Scores()
        wanted = job.inputs.get("measured", [n for n in measured_stages(settings) if n in settings.stages])
        for name in measured_stages(settings):
            if name in wanted:
                stage_of(name).measure(job, tools, scores)  # one model in memory at a time
        if distributed.rank() == 0:
            judge = tools.task.judge(tools.store, settings.evaluation, _document(job, tools))
            title = encoder_class(settings.graph.encoder).title
            if tools.task.ranks:  # the model of pairs has that place
                title = next(one for name in wanted for one in stage_of(name).titles(settings).values())
            metrics: RunMetrics = {
                "encoder": title,
                "stages": judge.stage_metrics(scores),
                "baselines": judge.baseline_metrics(),
            }
            with atomic_file(job.folder / PREDICTIONS) as temporary:
                judge.write_predictions(temporary, scores)
            write_json(job.folder / METRICS, metrics)
            write_json(job.folder / INTERVALS, judge.intervals(scores))
            return Made(self.leaves, metrics)
        return Made(self.leaves, {})


def _document(job: StageJob, tools: Tools) -> Document | None:
    """What prompts say, where the run has them show earlier examples."""
    from netgpt.trainers.language.text.fields import document_of

    history, stages = job.settings.language.history, measured_stages(job.settings)
    if not history.relation or not any(stage_of(name).kind == "language" for name in stages):
        return None
    return document_of(tools.store, tools.task.config.label, history)
