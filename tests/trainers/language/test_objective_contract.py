"""Our objectives, and the smallest guest, keep the contract of objectives; for the toy task too."""

from __future__ import annotations

import subprocess
import sys

import pytest

from netgpt.trainers.language.objectives.names import OBJECTIVES
from netgpt.trainers.tasks.base import WordsConfig
from netgpt.trainers.tasks.regression import Regression, RegressionConfig
from tests.contracts.objective import ObjectiveTests
from tests.reference import TASK
from tests.toys.task import Above, AboveConfig

WORDS = WordsConfig(request="Is its level above 4? ", response="The answer is ")
ABOVE = Above(AboveConfig(name="tests.toys.task:Above", label="label", split=TASK.split, words=WORDS))


class TestAnswer(ObjectiveTests):
    objective = "answer"


class TestAnswerOfTheToyTask(TestAnswer):
    task, trains = ABOVE, ("last:2",)


class TestNumber(ObjectiveTests):
    objective, trains = "number", ("last:2",)
    task = Regression(RegressionConfig(name="regression", label="label", digits=1, split=TASK.split))


class TestScore(ObjectiveTests):
    objective, trains = "score", ("markers", "projector", "head", "last:4")


class TestScoreOfTheToyTask(TestScore):
    task = ABOVE


class TestToy(ObjectiveTests):
    objective, trains = "tests.toys.objective:Contrast", ("markers", "projector", "last:1")


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_titles_cost_no_import_of_transformers(name: str) -> None:
    """Tables and reports of a finished run ask for them."""
    code = (
        "import sys\nfrom netgpt.trainers.language.objectives.names import objective_class\n"
        f"assert objective_class({name!r}, 'stage2.objective').predicts\n"
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
