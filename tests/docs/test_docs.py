"""What the documents say is there: keys, commands, options, files, functions, links; and their code runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from netgpt import graphstore
from netgpt.cluster.cli import app
from netgpt.cluster.config import config_keys, config_type, load_config
from netgpt.cluster.errors import ClusterError
from netgpt.cluster.keys import ANY, all_keys, placed
from netgpt.graphstore.datasets.names import DATASETS
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.graph.encoders.names import encoder_class
from netgpt.trainers.language.objectives.names import objective_class
from netgpt.trainers.stages.names import BASELINES, OTHERS, STAGES, stage_of
from netgpt.trainers.tasks.names import TASKS, make_task

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("graphstore", "sampler", "trainers", "cluster", "netgpt")
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
DOCS += sorted(ROOT.glob("examples/**/*.md"))
EXAMPLES = sorted(ROOT.glob("examples/*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in DOCS]

RECIPE = """
dataset: xsvideo
task: {name: "documented_task:Amount", label: label, split: {column: time, until: 2024-12-20}}
stages: [stage1, embeddings, base, tokens, stage2, "documented_stage:Probe", evaluation]
graph: {encoder: "documented_encoder:SharedLayer"}
stage2: {objective: "documented_objective:Focal"}
probe: {epochs: 3, lr: 0.001}
"""
"""The guests of docs/adding.md, together; but its objective says choices, and its task has none."""

docs = pytest.mark.parametrize("path", DOCS, ids=NAMES)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A document without its blocks."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def code(text: str) -> Iterator[str]:
    """Lines of the indented blocks, and inline code, each in one line."""
    fenced = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    yield from (line.strip() for line in fenced.splitlines() if line.startswith("    "))
    yield from inline(text)


def inline(text: str) -> list[str]:
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", prose(text))]


def run(arguments: list[str], cwd: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


# The table of keys


def test_the_table_of_keys_is_that_of_the_dataclasses() -> None:
    text = text_of(ROOT / "docs" / "running.md")
    assert placed(text) == text, "make it again: python -m netgpt.cluster.keys docs/running.md"


def test_every_key_is_in_the_table_and_says_what_it_means() -> None:
    keys = {key.name: key for key in all_keys()}
    assert [name for name, key in keys.items() if not key.meaning] == []
    stages = (*STAGES, *OTHERS, *BASELINES)
    for dataset in DATASETS:
        for task in TASKS:
            wanted = set(config_keys(config_type(dataset, task, stages))) - {"ablations"}
            assert wanted <= keys.keys()
    assert f"ablations.{ANY}.types" in keys
    assert keys["build.ties"].only == "xsvideo"
    assert keys["build.layout"].only == "" and keys["stage3.objective"].default == "`score`"


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(ClusterError, match="expected both markers"):
        placed("no table here")


# Code that runs


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= 10_000


def test_the_readmes_code_runs(tmp_path: Path) -> None:
    found = blocks(text_of(ROOT / "README.md"), "python")
    assert found
    for number, block in enumerate(found):
        script = tmp_path / f"block{number}.py"
        script.write_text(block, encoding="utf-8")
        run([str(script)], tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.name for path in EXAMPLES])
def test_every_example_runs_and_is_named(path: Path, tmp_path: Path) -> None:
    assert f"examples/{path.name}" in text_of(ROOT / "examples" / "README.md")
    assert run([str(path), str(tmp_path)], tmp_path)


def own_tables(folder: Path) -> list[list[str]]:
    """The commands of the example of tables, for a folder in place of `films`."""
    (block,) = re.findall(r"(?:^    .*\n)+", text_of(ROOT / "examples/own_tables/README.md"), re.MULTILINE)
    lines = [line.replace("films", str(folder)).split() for line in block.splitlines()]
    assert len(lines) == 4 and {line[0] for line in lines} == {".venv/bin/python", ".venv/bin/netgpt"}
    make, *rest = (line[1:] for line in lines)
    return [[str(ROOT / make[0]), *make[1:]], *(["-m", "netgpt", *line] for line in rest)]


def test_the_example_of_tables_is_as_its_page_says(tmp_path: Path) -> None:
    """All but the training, which the test below runs."""
    make, data, train, _ = own_tables(tmp_path / "films")
    run(make, tmp_path)
    said = run(data, tmp_path)
    assert "film: 600 rows" in said and "tells the label" not in said
    recipe, description = (train[train.index(option) + 1] for option in ("--config", "--data"))
    config: Any = load_config(recipe)
    store = tmp_path / "store"
    graphstore.build(Path(description), store, config.build)
    for name in config.stages:
        stage_of(name).check(config.settings)
        stage_of(name).check_graph(config.settings, graphstore.open(store))


@pytest.mark.all
def test_the_example_of_tables_runs_and_each_part_tells_something(tmp_path: Path) -> None:
    for command in own_tables(tmp_path / "films"):
        run(command, tmp_path)
    metrics = json.loads((tmp_path / "films/run/evaluation/metrics.json").read_text())
    found = {
        name: parts["test"]["nmse"] for name, parts in (metrics["baselines"] | metrics["stages"]).items()
    }
    assert found["stage3"] < found["stage1"] < found["constant (mean)"]
    assert found["stage3"] < found["ridge on the texts"]


def test_the_guests_of_the_documents_are_guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks(text_of(ROOT / "docs" / "adding.md"), "python")
    for name, block in zip(("task", "encoder", "objective", "stage"), found, strict=True):
        (tmp_path / f"documented_{name}.py").write_text(block, encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    config: Any = load_config(str(tmp_path / "recipe.yaml"))
    said = load_config(str(tmp_path / "recipe.yaml"), ["task.name=rating"])
    for name in config.stages:
        stage_of(name).check(said.settings)
    with pytest.raises(TrainerError, match=r"^stage2: found 'the task documented_task:Amount', expected one"):
        stage_of("stage2").check(config.settings)
    task = make_task(config.task)
    assert task.measure(np.array([1.0, 4.0]), np.array([2.0, 2.0])) == {"mae": 1.5, "num": 2}
    assert encoder_class(config.graph.encoder).title == "Shared"
    assert objective_class(config.stage2.objective, "stage2.objective").per == "token"
    assert config.probe.objective == "score" and config.probe.epochs == 3


# Commands, options, keys


@cache
def commands() -> dict[tuple[str, ...], set[str]]:
    """Options of each command by its words; groups have their subcommands alone."""
    found: dict[tuple[str, ...], set[str]] = {}

    def walk(command: Any, words: tuple[str, ...]) -> None:
        for name, one in getattr(command, "commands", {}).items():
            walk(one, (*words, name))
        found[words] = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}

    walk(typer.main.get_command(app), ())
    return found


def called(text: str) -> Iterator[tuple[str, str]]:
    """Calls of netgpt: the words of the command, and all that follows it."""
    for line in code(text):
        for rest in re.findall(r"(?:^|[\s/])netgpt ([a-z].*)", line.split(" #")[0]):
            first, _, others = rest.partition(" ")
            for name in first.rstrip(":…").split("|"):
                yield name, others


@docs
def test_commands_and_options_are_there(path: Path) -> None:
    for name, others in called(text_of(path)):
        words: tuple[str, ...] = (name,)
        assert words in commands(), f"netgpt {name}"
        if any(len(known) == 2 and known[0] == name for known in commands()):
            second = others.split(" ")[0]
            if second.isupper() or not second:
                continue
            words = (name, second)
            assert words in commands(), f"netgpt {' '.join(words)}"
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", others):
            assert option in commands()[words], f"netgpt {' '.join(words)} {option}"


@docs
def test_commands_of_launch_are_there(path: Path) -> None:
    script = text_of(ROOT / "launch.sh")
    for line in code(text_of(path)):
        for name in re.findall(r"\./launch\.sh ([a-z]+)", line):
            assert re.search(rf"^  {name} ", script, re.MULTILINE), f"./launch.sh {name}"


@docs
def test_keys_are_there(path: Path) -> None:
    keys = {key.name for key in all_keys()}
    sections = {name.split(".")[0] for name in keys if "." in name}
    for line in code(text_of(path)):
        for name in re.findall(r"(?<![\w./-])([a-z_0-9]+(?:\.[a-z_0-9]+)+)=", line):
            assert name in keys, name
    for word in inline(text_of(path)):
        is_key = re.fullmatch(r"([a-z_0-9]+)\.[a-z_0-9.]+", word)
        if is_key and is_key[1] in sections and not word.endswith((".py", ".md", ".yaml", ".json")):
            assert any(f"{key}.".startswith(f"{word}.") for key in keys), word


# Files and links


@docs
def test_files_and_functions_are_there(path: Path) -> None:
    text = text_of(path)
    for word in inline(text):
        if re.fullmatch(r"[\w./-]+/[\w.-]+\.(py|yaml|sh|md)", word) and word.startswith(PACKAGES):
            assert (ROOT / word).is_file(), word
    for file, name in re.findall(r"`([\w/]+\.py)`[\s|]+`([A-Za-z_]\w*(?:\.\w+)?)`", text):
        if file.startswith("tests/"):
            continue  # of classes to subclass: their own tests say that they are there
        found = [p for package in PACKAGES for p in (ROOT / package).rglob(Path(file).name)]
        found = [p for p in found if f"/{p.relative_to(ROOT).as_posix()}".endswith(f"/{file}")]
        defined = [
            p
            for p in found
            if all(
                re.search(rf"^\s*(?:def|class) {part}\b|^{part}\b", text_of(p), re.MULTILINE)
                for part in name.split(".")
            )
        ]
        assert defined, f"{file} {name}"


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text_of(path), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in found}


@docs
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text_of(path))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        where = (path.parent / file).resolve() if file else path
        assert where.exists(), target
        if anchor:
            assert anchor in anchors(where), target


def test_a_newcomer_finds_what_he_wants_in_one_click() -> None:
    readme = prose(text_of(ROOT / "README.md"))
    for wanted in (
        *("docs/own-graph.md", "docs/running.md#on-a-cluster", "docs/adding.md#a-stage"),
        *("docs/measurements.md", "docs/format.md", "CONTRIBUTING.md"),
    ):
        assert f"]({wanted})" in readme, wanted
