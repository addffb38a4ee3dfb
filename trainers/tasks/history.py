"""What earlier examples in a prompt say by themselves: baselines of the labels that a document shows.

Legend: n examples of some, S statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from netgpt.graphstore import Document, Graph
from netgpt.graphstore.documents import newest_heads
from netgpt.trainers.tasks.baselines import Baseline, numbers, told_columns

if TYPE_CHECKING:
    from netgpt.trainers.tasks.base import Task

MOST_VALUES = 255
"""Values of a category that trees take as such."""


def history_baselines(
    task: Task, graph: Graph, train: np.ndarray, test: np.ndarray, document: Document | None
) -> dict[str, Baseline]:
    """The last, the mean and the median of the labels that prompts of a document show, and trees that are
    told them; none where it shows no labels or the task's have no mean."""
    heads = shown_labels(graph, document, task.config.label) if task.has_means else None
    if heads is None:
        return {}
    truth = task.truth(graph)
    found = histories(heads, truth, test, float(truth[train].mean()))
    made = {f"{name} of the history": Baseline(shown) for name, shown in found.items()}
    scores = history_trees(graph, heads, truth, train, test, task.told_numbers(graph))
    return made | {"trees with the history": Baseline(scores)}


def shown_labels(graph: Graph, document: Document | None, label: str) -> Callable[[int], list[int]] | None:
    """The earlier examples whose labels a prompt shows, by node number, the newest first; None where the
    target's document shows none."""
    target = graph.schema.target
    for field in () if document is None else document.fields:
        newest = field.newest
        if newest is None or graph.schema.holder(newest.edge_type[0]) != target:
            continue
        if label in (one.name for one in newest.fields):
            return newest_heads(graph, newest)
    return None


def _shown(heads: Callable[[int], list[int]], truth: np.ndarray, nodes: np.ndarray) -> Iterator[np.ndarray]:
    """The known labels that each node is shown, the newest first."""
    for v in nodes.tolist():
        labels = truth[heads(v)]
        yield labels[~np.isnan(labels)]


def histories(
    heads: Callable[[int], list[int]], truth: np.ndarray, nodes: np.ndarray, fallback: float
) -> dict[str, np.ndarray]:
    """The last, the mean and the median of the labels shown, by name [n]; `fallback` where none is."""
    made = {name: np.full(len(nodes), fallback) for name in ("last", "mean", "median")}
    for i, shown in enumerate(_shown(heads, truth, nodes)):
        if len(shown):
            made["last"][i], made["mean"][i], made["median"][i] = shown[0], shown.mean(), np.median(shown)
    return made


def statistics(heads: Callable[[int], list[int]], truth: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """Of the labels shown to each: how many, the last, their mean, least and greatest: [n, 5], NaN for
    none."""
    made = np.full((len(nodes), 5), np.nan)
    for i, shown in enumerate(_shown(heads, truth, nodes)):
        made[i, 0] = len(shown)
        if len(shown):
            made[i, 1:] = shown[0], shown.mean(), shown.min(), shown.max()
    return made


def history_trees(
    graph: Graph,
    heads: Callable[[int], list[int]],
    truth: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    columns: Sequence[str],
) -> np.ndarray:
    """Gradient-boosted trees, for the median, on the numbers, the categories and what the labels shown come
    to (after HyFea, Lai et al. 2020): scores of `test`. columns: numbers of the target."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    target = graph.schema.target
    x, x_of_test = told_columns(numbers(graph, train, columns), numbers(graph, test, columns))
    of_train, of_test = told_columns(statistics(heads, truth, train), statistics(heads, truth, test))
    codes = [
        np.asarray(graph.category(target, column.name)[0])
        for column in graph.schema.node_type(target).columns
        if column.kind == "category" and len(graph.category(target, column.name)[1]) <= MOST_VALUES
    ]

    def whole(x: np.ndarray, told: np.ndarray, nodes: np.ndarray) -> np.ndarray:
        categories = [np.where(one[nodes] < 0, np.nan, one[nodes])[:, None] for one in codes]
        return np.concatenate([x, told, *categories], axis=1)

    num = x.shape[1] + of_train.shape[1]
    model = HistGradientBoostingRegressor(
        loss="absolute_error",
        max_iter=100,
        early_stopping=False,
        random_state=0,
        min_samples_leaf=max(2, min(20, len(train) // 20)),
        categorical_features=list(range(num, num + len(codes))) or None,
    )
    fitted = model.fit(whole(x, of_train, train), truth[train])
    return np.asarray(fitted.predict(whole(x_of_test, of_test, test)), np.float64)
