"""A run told to MLflow: settings, figures, curves and the report, beside the run's own files.

What is told follows from the run's files alone, so a run that goes on, or is told again, fills the same run
there.
A server that does not answer costs a line and no run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from netgpt.cluster.errors import ClusterError
from netgpt.cluster.origin import made_by
from netgpt.cluster.pipeline.run import CONFIG, EVALUATION, Run
from netgpt.cluster.progress import say
from netgpt.graphstore.files import read_json, write_json

KNOWN, EXPERIMENT = "mlflow.json", "netgpt"
LONGEST = 500
"""Characters of a setting that are told."""
NUM_AT_ONCE = 100
STEPS = ("epoch", "step")
QUICK = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""Its own are minutes for a server that is not there."""


def require_tracking(uri: str) -> None:
    """ClusterError where a run is to be told to MLflow and that is not installed."""
    if not uri:
        return
    try:
        import mlflow  # noqa: F401
    except ImportError:
        raise ClusterError(
            "cluster.mlflow: found no mlflow, expected it: pip install netgpt[mlflow]"
        ) from None


def track(run: Run) -> None:
    """Tell a run, where `cluster.mlflow` names a server or folder."""
    uri = run.config.cluster.mlflow
    if not uri:
        return
    require_tracking(uri)
    try:
        _told(run, uri)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        say(f"cluster.mlflow: {uri}: not told ({words}); the run is whole")


def _told(run: Run, uri: str) -> None:
    for name, value in QUICK.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=uri)
    name = _run_of(client, run, uri)
    tags = {**made_by(), "store": run.store.digest, "data": run.store.dataset.title, "folder": run.path.name}
    for key, value in tags.items():
        client.set_tag(name, f"netgpt.{key}", value)
    client.set_tag(name, "mlflow.runName", run.path.name)
    known = client.get_run(name).data.params
    params = [Param(k, v) for k, v in settings(asdict(run.config)) if k not in known]
    figures = [Metric(key, value, 0, step) for key, step, value in metrics_of(run)]
    for first in range(0, max(len(params), len(figures)), NUM_AT_ONCE):
        part = slice(first, first + NUM_AT_ONCE)
        client.log_batch(name, metrics=figures[part], params=params[part])
    for file in (run.path / CONFIG, run.path / "report.html"):
        if file.exists():
            client.log_artifact(name, str(file))
    client.set_terminated(name)


def _run_of(client: Any, run: Run, uri: str) -> str:
    """The id of the run there: that of before, or a new one."""
    known = run.path / KNOWN
    if known.exists():
        found = read_json(known)
        if found.get("uri") == uri:
            return str(found["run"])
    experiment = client.get_experiment_by_name(EXPERIMENT)
    number = client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
    name = str(client.create_run(number).info.run_id)
    write_json(known, {"uri": uri, "run": name})
    return name


def settings(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Keys with points between, and their values as text."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from settings(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", str(value)[:LONGEST]


def metrics_of(run: Run) -> Iterator[tuple[str, int, float]]:
    """Name, step and value: of the curves in metrics.jsonl, and of what the evaluation measured at step 0."""
    path = run.path / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        row = json.loads(line)
        name = next((name for name in STEPS if isinstance(row.get(name), int)), None)
        if name is not None:
            numbers = {k: v for k, v in row.items() if k not in STEPS}
            place = f"{row['stage']}/by {name}"
            yield from ((f"{place}/{key}", row[name], value) for key, value in _numbers(numbers))
    if run.is_done(EVALUATION):
        for kind in ("stages", "baselines"):
            for key, value in _numbers(run.metrics()[kind]):  # type: ignore[literal-required]
                yield f"{'' if kind == 'stages' else 'baseline/'}{key}", 0, value


def _numbers(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """Figures by parts: names that the data make have no place there that MLflow takes, and are left out."""
    for key, value in values.items():
        name = "".join(c if c.isascii() and (c.isalnum() or c in "_-. ") else "_" for c in key)
        if isinstance(value, Mapping):
            if name == key:
                yield from _numbers(value, f"{before}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{before}{name}", float(value)
