"""What a stage says of itself is all that settings, status, report, plan, submit and command line know."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from netgpt.cluster.cli import app
from netgpt.cluster.cli import run as run_commands
from netgpt.cluster.config import RunConfig, config_keys, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.jobs import submit
from netgpt.cluster.pipeline import driver
from netgpt.cluster.pipeline.attempts import read_attempts
from netgpt.cluster.pipeline.room import Room
from netgpt.cluster.pipeline.run import Run
from netgpt.cluster.pipeline.status import run_status, status_text
from netgpt.cluster.plan.planner import make_plan
from netgpt.cluster.plan.request import PlanRequest
from netgpt.cluster.plan.text import table
from netgpt.cluster.report import write_report
from netgpt.cluster.workers.resources import Resources
from netgpt.cluster.workers.training import StageWork
from netgpt.graphstore import Store
from netgpt.graphstore.files import read_json, write_json
from netgpt.trainers.errors import TrainerError, require
from netgpt.trainers.settings import Settings
from netgpt.trainers.stages import folder as stage_folder
from netgpt.trainers.stages.base import Json, Made, Origins, Stage, StageJob, Tools
from netgpt.trainers.stages.graph import common_inputs
from netgpt.trainers.stages.names import BASELINES, STAGES, commands, stage_of
from netgpt.trainers.stages.session import run_stage


@dataclass(frozen=True, kw_only=True)
class CountConfig:
    most: int = 3
    """Relations that are counted."""

    def __post_init__(self) -> None:
        require(self.most >= 1, "count.most", self.most, "at least 1")


class Count(Stage):
    """A guest: counts edges once the graph stages are done."""

    name, title, command = "count", "count of edges", "count"
    Config = CountConfig
    reads = ("embeddings",)
    leaves = ("count.json",)
    placing = "one"
    uses_gpu = False

    def check(self, settings: Settings) -> None:
        require(settings.graph.hidden != 7, "graph.hidden", settings.graph.hidden, "another width")

    def inputs(self, run: Origins) -> Json:
        most = run.settings.section(self.name, CountConfig).most
        return {**common_inputs(self, run), "most": most, "embeddings": run.digest("embeddings")}

    def run(self, job: StageJob, tools: Tools) -> Made:
        counted = list(tools.store.num_edges.values())[: job.settings.section(self.name, CountConfig).most]
        tools.progress("relation")(len(counted), len(counted))
        write_json(job.folder / "count.json", counted)
        return Made(self.leaves, {"edges": sum(counted)})


class Graph(Stage):
    """A guest whose name other settings have."""

    name, title, command = "graph", "graph", "graph"
    Config = CountConfig


COUNT = "test_stages:Count"
ORDER = ["stage1", "embeddings", "count", "base", "tokens", "stage2", "stage3", "evaluation"]
RECIPE = f"stages=[stage1,embeddings,{COUNT},base,tokens,stage2,stage3,evaluation]"


def recipe(*overrides: str) -> RunConfig:
    return load_config("demo", [RECIPE, "task.val_share=0.3", *overrides])


def test_a_guest_has_its_section_in_the_settings(tmp_path: Path) -> None:
    config: Any = recipe("count.most=5")
    assert config.count == CountConfig(most=5) and "count.most" in config_keys(type(config))
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    assert load_config(str(tmp_path / "c.yaml")) == config
    assert not hasattr(load_config("demo"), "count")
    for overrides, words in (
        ((RECIPE, "count.mots=5"), r"unknown key count\.mots; did you mean count\.most\?"),
        ((RECIPE, "count.most=0"), r"count\.most: found 0, expected at least 1"),
        (("count.most=5",), r"unknown key count"),
        (("stages=[test_stages:Graph]",), "stages: found the name 'graph', which other settings have"),
        (("stages=[test_stages:Cuont]",), "stages: found 'test_stages:Cuont', which cannot be imported"),
    ):
        with pytest.raises(ClusterError, match=words):
            load_config("demo", list(overrides))


def test_settings_of_a_guest_go_to_other_processes_whole(store: Store, tmp_path: Path) -> None:
    settings: Any = recipe("count.most=5").settings
    again = Settings.from_dict(settings.to_dict())
    assert again == settings and type(again) is type(settings) and not isinstance(again, RunConfig)
    job = StageJob(stage=COUNT, run=tmp_path, store=store.path, settings=settings, inputs={"a": [1]})
    sent = pickle.loads(pickle.dumps(job))
    assert sent == job and sent.described.name == "count" and sent.folder == tmp_path / "count"


def test_a_guest_refuses_before_anything_starts(store: Store, tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match=r"graph\.hidden: found 7, expected another width"):
        Run.start(tmp_path / "run", recipe("graph.hidden=7"), None, store.path)
    assert not (tmp_path / "run").exists()


class Stand:
    """In Ray's place: notes what is placed, runs the guest, and leaves what the others declare."""

    def __init__(self) -> None:
        self.placed: list[tuple[str, Resources]] = []

    def run(self, work: StageWork, need: Resources, on_restart: Callable[[], None]) -> None:
        job = work.job
        self.placed.append((job.described.name, need))
        if job.stage == COUNT:
            run_stage(job)
            return
        leaves = list(job.described.leaves)
        for wanted in leaves:
            (job.folder / wanted).write_text(job.stage)
        stage_folder.finish(job.folder, job.inputs, leaves, {})


@pytest.fixture
def stand(monkeypatch: pytest.MonkeyPatch) -> Stand:
    made = Stand()
    monkeypatch.setattr(driver, "ray_session", lambda cpus: nullcontext())
    monkeypatch.setattr(driver, "shown_progress", lambda folder, title: nullcontext())
    monkeypatch.setattr(driver, "run_on_ray", made.run)
    monkeypatch.setattr(Room, "of_ray", staticmethod(lambda cluster: Room(1, 8, 0, 0)))
    return made


def states(run: Path) -> dict[str, str]:
    return {one.stage: one.state for one in run_status(run)}


def test_a_guest_is_placed_in_its_turn_and_seen_everywhere(
    store: Store, tmp_path: Path, stand: Stand
) -> None:
    run = Run.start(tmp_path / "run", recipe(), None, store.path)
    assert states(run.path) == dict.fromkeys(ORDER, "waiting")
    status = CliRunner().invoke(app, ["status", str(run.path)])
    assert status.exit_code == 0 and "count of edges        waiting" in status.stdout
    with pytest.raises(ClusterError, match="not done: exact embeddings; run first: netgpt embed"):
        driver.execute(run, [COUNT])

    wanted = ["stage1", "embeddings", COUNT]
    driver.execute(run, wanted)
    assert [name for name, _ in stand.placed] == ["stage1", "embeddings", "count"]
    assert dict(stand.placed)["count"] == Resources(1, 1, 0, 0)
    assert read_json(run.path / "count" / "count.json") == list(store.num_edges.values())[:3]
    assert states(run.path) == {name: "done" if i < 3 else "waiting" for i, name in enumerate(ORDER)}
    assert [one.stage for one in read_attempts(run.path)] == ["stage1", "embeddings", "count"]
    assert "count of edges        done" in status_text(run.path)
    assert "count: done" in (run.path / "logs" / "count.log").read_text()
    driver.execute(run, wanted)
    assert len(stand.placed) == 3  # done before

    # Its settings are part of what it is made from, and of that alone
    changed = Run.start(run.path, recipe("count.most=2"), None, store.path)
    assert changed.is_done("embeddings") and not changed.is_done(COUNT)
    driver.execute(changed, wanted)
    assert [name for name, _ in stand.placed[3:]] == ["count"]
    assert read_json(run.path / "count" / "count.json") == list(store.num_edges.values())[:2]

    page = write_report(changed).read_text(encoding="utf-8")
    assert stage_folder.stage_digest(run.path / "count") in page and "count of edges" in page
    assert "<caption>count</caption>" in page


@pytest.mark.parametrize("gpus", [0, 8])
def test_a_plan_is_of_the_stages_that_the_recipe_has(gpus: int, tmp_path: Path) -> None:
    workers = [f"cluster.workers={gpus}", "language.packs_per_step=8"] if gpus else []
    path = tmp_path / "c.yaml"
    path.write_text("base: _xs-video\nlanguage: {model: tiny}\n")

    def planned(*stages: str) -> list[str]:
        config = load_config(str(path), [f"stages=[{','.join(stages)}]", *workers])
        plan = make_plan(PlanRequest(config=config, gpus=gpus))
        assert plan.to_dict()["stages"].keys() == {one.name for one in plan.stages}
        assert all(f"\n{one.name:<12}" in table(plan) for one in plan.stages)
        return [one.name for one in plan.stages]

    whole = ["stage1", "embeddings", "tokens", "stage2", "stage3"]
    assert planned(*STAGES) == whole
    assert planned("stage1", "embeddings", COUNT, "base", "tokens", "stage2", "stage3") == whole
    assert planned("stage1", "embeddings", COUNT, "evaluation") == ["stage1", "embeddings"]
    assert planned("stage1", "embeddings", "base", "tokens", "stage2") == whole[:-1]


def test_every_stage_has_its_command() -> None:
    helped = CliRunner().invoke(app, ["--help"])
    assert helped.exit_code == 0
    found = commands()
    assert {"pretrain", "embed", "tokenize", "align", "rate", "lora"} <= found.keys()
    for name, stage in found.items():
        assert f"  {name} " in helped.output and stage.help.split(",")[0][:40] in helped.output, name
    for name in (*STAGES, *BASELINES):
        assert f"  {stage_of(name).command} " in helped.output, name


@pytest.mark.parametrize("name", commands())
def test_a_stages_command_makes_it_and_what_it_says_it_takes(
    name: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted: list[str] = []
    keep: Callable[..., None] = lambda run, names: wanted.extend(names)  # noqa: E731
    monkeypatch.setattr("netgpt.cluster.pipeline.execute", keep)
    monkeypatch.setattr("netgpt.cluster.report.write_report", lambda run: run.path)
    monkeypatch.setattr(run_commands, "table_of", lambda run: "")
    out = tmp_path / "run"
    line = [name, "--config", "demo", "--store", str(store.path), "--out", str(out), "task.val_share=0.3"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.exception
    stage = commands()[name]
    assert wanted == [*stage.with_, stage.name]


@pytest.mark.parametrize("name", ["run", *commands()])
def test_a_plain_job_of_a_stages_command_writes_from_the_root_alone(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is Ray's copy of the tree, which goes with the job."""
    (tree := tmp_path / "working_dir_files" / "tree").mkdir(parents=True)
    for options, found in ((["--out", "runs/demo"], "runs/demo"), ([], r"runs \(no --out was given\)")):
        monkeypatch.chdir(tree)
        monkeypatch.setattr(sys, "argv", ["netgpt", name, "--config", "demo", *options])
        with pytest.raises(
            ClusterError, match=f"found the relative path {found}, expected one from the root"
        ):
            submit.enter_callers_folder()
    monkeypatch.setattr(sys, "argv", ["netgpt", name, "--out", str(tmp_path / "run")])
    submit.enter_callers_folder()
    assert Path.cwd() == Path("/")
