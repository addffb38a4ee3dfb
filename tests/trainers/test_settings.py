"""Settings: every key is checked, and what is wrong is named by its whole key."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from netgpt.cluster.config import load_config
from netgpt.cluster.errors import ClusterError
from netgpt.trainers.config import GraphConfig, StageConfig
from netgpt.trainers.errors import TrainerError
from netgpt.trainers.features.config import FeaturesConfig
from netgpt.trainers.settings import Settings, settings_type
from netgpt.trainers.stages.base import StageJob
from netgpt.trainers.stages.language import Align
from netgpt.trainers.stages.names import stage_of
from netgpt.trainers.tasks.names import make_task
from tests.reference import settings_of

RECIPE = "_xs-video"


def numbers_of(section: Any, prefix: str = "") -> Iterator[tuple[Any, str, str]]:
    """Every number, or list of numbers, of a section and of those in it: the section, field, whole key."""
    for one in fields(section):
        value = getattr(section, one.name)
        key = f"{prefix}{one.name}"
        if is_dataclass(value):
            yield from numbers_of(value, f"{key}.")
        elif (type(value) in (int, float)) or one.name == "period_days":
            yield section, one.name, key


NUMBERS = [*numbers_of(settings_of()), *numbers_of(FeaturesConfig(), "features.")]


def test_the_numbers_of_all_sections_are_looked_at() -> None:
    keys = {key for _, _, key in NUMBERS}
    assert {"seed", "task.levels", "task.split.utc_offset_h", "sampler.fanout", "graph.lr"} < keys
    assert {"language.tiny.warmup_lr", "stage2.lr", "stage3.layers", "lora.alpha"} < keys
    assert {"evaluation.period_days"} < keys and len(keys) > 55


@pytest.mark.parametrize(("section", "name", "key"), NUMBERS, ids=[key for _, _, key in NUMBERS])
def test_a_number_out_of_range_is_refused_by_its_whole_key(section: Any, name: str, key: str) -> None:
    bad: list[Any] = [-3.0 if isinstance(getattr(section, name), float) else -3]
    if isinstance(getattr(section, name), float):
        bad += [math.nan, math.inf, -math.inf]
    if name == "period_days":
        bad = [[-3], [5, 2], [2, 2]]
    if name == "utc_offset_h":
        bad = [-15.0, math.nan, math.inf]  # west of Greenwich it is below zero
    for value in bad:
        with pytest.raises(TrainerError) as caught:
            replace(section, **{name: value})
        assert str(caught.value).startswith(f"{key}: found {value!r}, expected "), str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "override",
    [
        *("graph.neighbors=some", "graph.select=first", "graph.precision=float16", "stage2.select=first"),
        *("stage3.select=first", "stage3.start=graphs", "lora.select=first", "task.split.until=2024-13-01"),
        *("without=XV", "task.name=rated", "lora.targets=[]", "stages=[stage9]"),
    ],
)
def test_a_word_that_there_is_not_is_refused_by_its_whole_key(override: str) -> None:
    key, _, value = override.partition("=")
    with pytest.raises(ClusterError) as caught:
        load_config(RECIPE, [override])
    found = str(caught.value)
    assert f"{key}: found " in found and value.strip("[]") in found and "expected " in found
    assert "\n" not in found


@pytest.mark.parametrize("key", [key for _, _, key in NUMBERS])
def test_a_value_of_another_type_is_refused_by_its_whole_key(key: str) -> None:
    value = "[some]" if key.endswith("period_days") else "some"
    with pytest.raises(ClusterError) as caught:
        load_config(RECIPE, [f"{key}={value}"])
    assert key in str(caught.value) and "some" in str(caught.value) and "\n" not in str(caught.value)


def test_what_a_stage_cannot_run_with_is_refused_before_anything_starts() -> None:
    for name in ("stage2", "stage3", "lora"):
        section = replace(getattr(settings_of(), name), objective="guess")
        with pytest.raises(
            TrainerError, match=rf"^{name}\.objective: found 'guess', expected one of answer, score"
        ):
            stage_of(name).check(settings_of(**{name: section}))
    for config, found in (
        (
            GraphConfig(encoder="gat"),
            r"^graph\.encoder: found 'gat', expected one of rgcn, gcn, han, hetsann, sage, hgt",
        ),
        (GraphConfig(encoder="no.such:Layer"), r"^graph\.encoder: .*cannot be imported \(No module named"),
        (GraphConfig(encoder="gcn", num_bases=2), r"^graph\.num_bases: found 2, expected 0"),
        (GraphConfig(encoder="han", hidden=6, heads=4), r"^graph\.heads: found 4, expected a divisor"),
    ):
        with pytest.raises(TrainerError, match=found):
            stage_of("stage1").check(settings_of(graph=config))
    for name in (*settings_of().stages, *settings_of().baselines):
        stage_of(name).check(settings_of())


def test_a_stages_section_bears_its_name() -> None:
    """Or its errors would name the key of another."""
    for name in (*settings_of().stages, *settings_of().baselines):
        stage = stage_of(name)
        if stage.Config is not None:
            assert issubclass(stage.Config, StageConfig) and stage.Config.section == stage.name


def test_settings_arrive_as_they_were_sent() -> None:
    """As JSON, and pickled with a job: their class is one that the recipe composes."""
    settings = load_config(RECIPE, ["seed=7", "stage3.layers=2", "task.levels=4", "without=IV"]).settings
    again = Settings.from_dict(json.loads(json.dumps(settings.to_dict())))
    assert again == settings and type(again) is type(settings)
    job = StageJob(stage="stage3", run=Path("r"), store=Path("s"), settings=settings, inputs={"a": 1})
    sent = pickle.loads(pickle.dumps(job))
    assert sent == job and type(sent.settings.task) is type(settings.task) and sent.key == job.key
    assert make_task(sent.settings.task).choices == ("0", "1", "2", "3")


def test_a_stage_that_takes_a_name_of_other_settings_is_refused() -> None:
    with pytest.raises(TrainerError, match="stages: found the name 'graph', which other settings have"):
        settings_type("rating", (f"{__name__}:Thief",))


class Thief(Align):
    name = "graph"
