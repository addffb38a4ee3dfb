"""Reads a run into what a report shows. Files are read as they are: nothing is trained or measured here."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from netgpt.cluster.config import RunConfig
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.report.cost import cost_facts
from netgpt.cluster.report.facts import Missing, Report, Setting, SettingsGroup, StageFacts
from netgpt.cluster.report.graph import graph_facts
from netgpt.cluster.report.results import period_charts, read_results
from netgpt.cluster.report.training import TRAINING, convergence_charts, loss_charts, trained_stages
from netgpt.cluster.stages import STAGES
from netgpt.graphstore.files import total_bytes, value_digest
from netgpt.trainers import stage
from netgpt.trainers.evaluate import PREDICTIONS
from netgpt.trainers.progress import read_progress

TITLES = {stage.name: stage.title for stage in STAGES.values()}
OPTIONAL = ("lora",)
"""Stages that are shown only where the run has them."""


def gather(run: Run) -> Report:
    """All that the page of a run shows."""
    names = [n for n in run.possible_stages if n not in OPTIONAL or (run.path / n).exists()]
    done = {name for name in names if run.is_done(name)}
    manifests = {name: found for name in names if name in done and (found := _manifest(run, name))}
    stages = tuple(_stage(run.path, name, name in done) for name in names)
    undone = [s for s in stages if s.state != "done"]
    missing = {s.name: _missing(s, first=s is undone[0]) for s in undone}
    graph, platforms = graph_facts(run.store, run.config.graph.val_share)
    results = None
    if "evaluation" in manifests:
        results = read_results(
            manifests["evaluation"]["metrics"],
            run.path / "evaluation" / PREDICTIONS,
            run.store.attributes["train_until"],
        )
    return Report(
        name=run.path.resolve().name,
        stages=stages,
        results=results,
        results_missing=missing.get("evaluation"),
        periods=period_charts(results, missing.get("evaluation")),
        losses=loss_charts(manifests, TITLES, next((missing[n] for n in TRAINING if n in missing), None)),
        convergence=convergence_charts(manifests, platforms, missing),
        trained=trained_stages(manifests, TITLES),
        graph=graph,
        cost=cost_facts(
            read_attempts(run.path),
            [(s.name, s.title, s.disk_bytes) for s in stages],
            total_bytes(run.store.path),
        ),
        settings=_settings(run.config),
        digests=_digests(run),
    )


def _manifest(run: Run, name: str) -> dict[str, Any] | None:
    return stage.read_manifest(run.path / name)


def _stage(run: Path, name: str, done: bool) -> StageFacts:
    folder = run / name
    manifest = stage.read_manifest(folder)
    state, detail = "not started", ""
    if done:
        state = "done"
    elif manifest is not None:
        state, detail = "out of date", "made from other inputs or settings, or its files have changed"
    elif folder.exists():
        state, detail = "unfinished", _progress(folder)
    return StageFacts(
        name=name,
        title=STAGES[name].title,
        state=state,
        detail=detail,
        inputs_key=value_digest(manifest["inputs"]) if done and manifest else "",
        outputs_digest=stage.stage_digest(folder) if done else "",
        disk_bytes=total_bytes(folder) if folder.is_dir() else None,
    )


def _progress(folder: Path) -> str:
    found = read_progress(folder) or {}
    if not all(isinstance(found.get(key), int) for key in ("done", "total")):
        return ""
    return f"{found['done']:,} of {found['total']:,} {found.get('unit', 'step')}s"


def _missing(found: StageFacts, *, first: bool) -> Missing:
    """What to say where the part of a stage that is not done is empty.

    first: whether all stages before it are done. If not, its own command would refuse to start.
    """
    detail = f" ({found.detail})" if found.detail else ""
    if not first:
        command = "netgpt run --config RUN/config.yaml --out RUN"
    elif found.name == "evaluation":
        command = "netgpt evaluate RUN"
    else:
        command = f"netgpt {STAGES[found.name].command} --config RUN/config.yaml --out RUN"
    return Missing(f"{found.title[:1].upper()}{found.title[1:]} is {found.state}{detail}.", command)


def _settings(config: RunConfig) -> tuple[SettingsGroup, ...]:
    """The configuration by group, each value beside whether it is the default."""
    values, defaults = asdict(config), asdict(RunConfig())
    top = {key: value for key, value in values.items() if not isinstance(value, dict)}
    groups = [_group("run", top, defaults)]
    for key, value in values.items():
        if isinstance(value, dict):
            groups.append(_group(key, value, defaults[key]))
    return tuple(groups)


def _group(name: str, values: dict[str, Any], defaults: dict[str, Any]) -> SettingsGroup:
    found = []
    for key, value in values.items():
        if isinstance(value, dict):  # language.tiny
            inner = _group(key, value, defaults[key])
            found += [Setting(f"{key}.{s.name}", s.value, s.changed) for s in inner.settings]
        else:
            found.append(Setting(key, _text(value), value != defaults[key]))
    return SettingsGroup(name, tuple(found))


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value) if value != "" else "none"


def _digests(run: Run) -> tuple[tuple[str, str], ...]:
    attributes = run.store.attributes
    found = [("store", run.store.digest), ("source data", attributes["source_digest"])]
    if parent := attributes.get("parent_digest"):
        found.append(("store before the append", parent))
    return tuple(found)
