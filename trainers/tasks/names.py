"""The tasks by name."""

from __future__ import annotations

from netgpt.trainers import names
from netgpt.trainers.tasks.base import Task, TaskConfig

TASKS = {
    "rating": "netgpt.trainers.tasks.rating:Rating",
    "regression": "netgpt.trainers.tasks.regression:Regression",
    "classification": "netgpt.trainers.tasks.classification:Classification",
    "ranking": "netgpt.trainers.tasks.ranking:Ranking",
}


def task_class(name: str) -> type[Task]:
    """The class of a task of the table, or of package.module:Name."""
    kind: type[Task] = names.load(TASKS, name, "task.name")
    return kind


def make_task(config: TaskConfig) -> Task:
    return task_class(config.name)(config)
