"""Reads a run into what a report shows. Files are read as they are: nothing is trained or measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from netgpt.cluster.config import RunConfig
from netgpt.cluster.pipeline.attempts import Attempt, read_attempts
from netgpt.cluster.pipeline.run import EVALUATION, Run
from netgpt.cluster.pipeline.status import plural
from netgpt.cluster.report.cost import cost_facts
from netgpt.cluster.report.errors import Tested, calibration, worst_answers
from netgpt.cluster.report.facts import ChartGroup, Missing, Report, Setting, SettingsGroup, StageFacts
from netgpt.cluster.report.graph import graph_facts
from netgpt.cluster.report.results import ResultWords, period_charts, read_results
from netgpt.cluster.report.training import convergence_charts, loss_charts, trained_stages, training_stages
from netgpt.graphstore.files import total_bytes, value_digest
from netgpt.trainers.progress import read_progress
from netgpt.trainers.stages import folder
from netgpt.trainers.stages.names import stage_of


def gather(run: Run, *, reasons: bool = False) -> Report:
    """All that the page of a run shows. reasons: as `whole` of `worst_answers`."""
    baselines = run.config.baselines  # shown only where the run has them
    names = [n for n in run.possible_stages if n not in baselines or run.folder(n).exists()]
    titles = {name: stage_of(name).title for name in names}
    done = {name for name in names if run.is_done(name)}
    manifests = {
        name: manifest
        for name in names
        if name in done and (manifest := folder.read_manifest(run.folder(name)))
    }
    stages = tuple(_stage(run, name, name in done) for name in names)
    undone = [s for s in stages if s.state != "done"]
    missing = {s.name: _missing(s, first=s is undone[0]) for s in undone}
    results, worst = None, None
    told = ChartGroup("Calibration", (), "")
    if EVALUATION in manifests:
        words = ResultWords.of(run)
        results = read_results(run, run.metrics(), words)
        if results.compared and not run.task.ranks:
            compared = {key: words.titles.get(key, key) for key in results.compared}
            tested, main = Tested.of(run, compared), results.compared[0]
            told = calibration(tested, run.task, compared)
            worst = worst_answers(run, tested, main, compared[main], whole=reasons)
    attempts, is_synthetic = read_attempts(run.path), run.store.dataset.is_synthetic(run.store)
    evaluation, training = run.config.evaluation, training_stages(names)
    return Report(
        name=run.path.resolve().name,
        stages=stages,
        results=results,
        results_missing=missing.get(EVALUATION),
        periods=period_charts(results, run.task.metrics, _period(run), missing.get(EVALUATION)),
        calibration=told,
        worst=worst,
        losses=loss_charts(manifests, titles, next((missing[n] for n in training if n in missing), None)),
        convergence=convergence_charts(manifests, titles, run.store, evaluation.by, missing),
        trained=trained_stages(manifests, titles),
        graph=graph_facts(run.store, run.task, evaluation),
        cost=cost_facts(
            attempts,
            [(s.name, s.title, s.disk_bytes) for s in stages],
            total_bytes(run.store.path),
        ),
        settings=_settings(run.config),
        digests=_digests(run),
        made=_made(run, attempts, is_synthetic),
        synthetic=is_synthetic,
    )


def _period(run: Run) -> str:
    """What the evaluation's periods are of."""
    return run.store.schema.node_type(run.store.schema.target).title_of(run.config.evaluation.period)


def _stage(run: Run, name: str, done: bool) -> StageFacts:
    where = run.folder(name)
    manifest = folder.read_manifest(where)
    state, detail = "not started", ""
    if done:
        state = "done"
    elif manifest is not None:
        state, detail = "out of date", "made from other inputs or settings, or its files have changed"
    elif where.exists():
        state, detail = "unfinished", _progress(where)
    return StageFacts(
        name=name,
        title=stage_of(name).title,
        state=state,
        detail=detail,
        inputs_key=value_digest(manifest["inputs"]) if done and manifest else "",
        outputs_digest=folder.stage_digest(where) if done else "",
        disk_bytes=total_bytes(where) if where.is_dir() else None,
    )


def _progress(where: Path) -> str:
    progress = read_progress(where)
    if progress is None:
        return ""
    return f"{progress.done:,} of {progress.total:,} {plural(progress.unit, progress.total)}"


def _missing(stage: StageFacts, *, first: bool) -> Missing:
    """What to say where the part of a stage that is not done is empty.

    first: whether all stages before it are done. If not, its own command would refuse to start.
    """
    detail = f" ({stage.detail})" if stage.detail else ""
    if not first:
        command = "netgpt run --config RUN/config.yaml --out RUN"
    elif stage.name == EVALUATION:
        command = "netgpt evaluate RUN"
    else:
        command = f"netgpt {stage_of(stage.name).command} --config RUN/config.yaml --out RUN"
    return Missing(f"{stage.title[:1].upper()}{stage.title[1:]} is {stage.state}{detail}.", command)


def _settings(config: RunConfig) -> tuple[SettingsGroup, ...]:
    """The configuration by group, each value beside whether it is the default."""
    values, defaults = asdict(config), asdict(type(config)())
    top = {key: value for key, value in values.items() if not isinstance(value, dict)}
    groups = [_group("run", top, defaults)]
    for key, value in values.items():
        if isinstance(value, dict):
            groups.append(_group(key, value, defaults[key]))
    return tuple(groups)


def _group(name: str, values: dict[str, Any], defaults: dict[str, Any]) -> SettingsGroup:
    settings = []
    for key, value in values.items():
        if isinstance(value, dict):  # language.tiny
            inner = _group(key, value, default if isinstance(default := defaults.get(key), dict) else {})
            settings += [Setting(f"{key}.{s.name}", s.value, s.changed) for s in inner.settings]
        else:
            settings.append(Setting(key, _text(value), value != defaults.get(key)))
    return SettingsGroup(name, tuple(settings))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value) if value != "" else "none"


def _made(run: Run, attempts: Sequence[Attempt], is_synthetic: bool) -> tuple[tuple[str, str], ...]:
    """Data, and what the last attempt was made by and on."""
    store, target = run.store, run.store.schema.target
    synthetic = ", synthetic" if is_synthetic else ""
    made = [("data", f"{store.dataset.title}{synthetic}: {store.num_nodes[target]:,} nodes of {target}")]
    return (*made, *(attempts[-1].made_by if attempts else {}).items())


def _digests(run: Run) -> tuple[tuple[str, str], ...]:
    attributes = run.store.attributes
    digests = [("store", run.store.digest), ("source data", attributes["source_digest"])]
    if parent := attributes.get("parent_digest"):
        digests.append(("store before the append", parent))
    return tuple(digests)
