"""What a model must beat: constants, trees on the numbers, ridge regression on the texts, and a lookup by the
data set's own cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

from netgpt.graphstore import EdgeType, Graph
from netgpt.graphstore.relation_types import SCORE

if TYPE_CHECKING:
    from netgpt.trainers.tasks.base import Task


PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0)
"""Of ridge regression."""
RIDGE = "ridge on the texts"
MIN_TEXTS = 20
"""Examples that a baseline of texts is fitted on at least."""
LEAST_CHANCE = 1e-6
"""Of a class, as baselines say it."""
Measures = dict[str, Any]
"""Metrics of some examples by name, and counts of them; under a group's name those of each of its values."""


class RunMetrics(TypedDict):
    """What an evaluation finds."""

    encoder: str
    """Title of the graph model."""
    stages: dict[str, dict[str, Measures]]
    """By stage and part: train, val, test, test_{flag}, test_rest."""
    baselines: dict[str, dict[str, Measures]]


@dataclass(frozen=True)
class Baseline:
    """Scores of the test examples [n]; or metrics alone, where each metric has a constant of its own."""

    scores: np.ndarray | None = None
    metrics: Measures | None = None
    fair: bool = True
    """False: it has seen the test labels."""


def constants(task: Task, train: np.ndarray, test: np.ndarray) -> dict[str, Baseline]:
    """The constant best for each metric (mode for acc, mean for mse, median for mae), fitted on the train
    labels; and the best that any constant could reach, fitted on the test labels themselves."""
    made = {}
    for name, labels in (("constant", train), ("constant (best on test)", test)):
        best = {
            "acc": float(np.bincount(labels.astype(np.int64)).argmax()),
            "mse": float(labels.mean()),
            "mae": float(np.median(labels)),
        }
        metrics = {m: task.measure(np.full(len(test), c), test)[m] for m, c in best.items()}
        made[name] = Baseline(metrics={**metrics, "num": len(test)}, fair=labels is train)
    return made


def numbers(graph: Graph, nodes: np.ndarray, columns: Sequence[str] = ()) -> np.ndarray:
    """Numbers of target nodes: on a log scale those of scalar types with a node a target node, and `columns`
    of the target as they are: [n, numbers].

    Times and categories are left out: their share differs between train and test, and on the released slice
    of the reference data set trees are better without them (MAE 0.70 for 0.83).
    """
    num = graph.num_nodes[graph.schema.target]
    names = [
        n.name for n in graph.schema.node_types if n.encoding == "scalar" and graph.num_nodes[n.name] == num
    ]
    parts = [graph.features(name).gather(nodes) for name in names]
    parts += [np.asarray(graph.column(graph.schema.target, name))[nodes][:, None] for name in columns]
    return np.concatenate(parts, axis=1) if parts else np.zeros((len(nodes), 1), np.float32)


def trees(
    graph: Graph,
    truth: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    *,
    loss: str,
    columns: Sequence[str] = (),
) -> np.ndarray:
    """Gradient-boosted regression trees on the numbers: scores of `test`. columns: as of `numbers`."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    # Without early stopping the squared loss overfits a slice of some hundred examples: fewer rounds
    rounds = 30 if loss == "squared_error" else 100
    model = HistGradientBoostingRegressor(loss=loss, max_iter=rounds, early_stopping=False, random_state=0)
    x, x_of_test = told_columns(numbers(graph, train, columns), numbers(graph, test, columns))
    return np.asarray(model.fit(x, truth[train]).predict(x_of_test), np.float64)


def told_columns(x: np.ndarray, x_of_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both without the columns that are not known of any train example, which trees cannot be fitted on."""
    known = ~np.isnan(x).all(axis=0)
    if not known.any():
        return np.zeros((len(x), 1)), np.zeros((len(x_of_test), 1))
    return x[:, known], x_of_test[:, known]


def class_trees(
    graph: Graph, truth: np.ndarray, train: np.ndarray, test: np.ndarray, num_classes: int, label: str
) -> np.ndarray | None:
    """Gradient-boosted trees on the numbers beside the label: logarithms of the chances of each class of
    `test`, [n, classes]; None of a target without numbers, or where the train labels are one class."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    columns = numbers_beside(graph, label)
    if not has_numbers(graph, columns) or len(np.unique(truth[train])) < 2:
        return None
    model = HistGradientBoostingClassifier(max_iter=30, early_stopping=False, random_state=0)
    x, x_of_test = told_columns(numbers(graph, train, columns), numbers(graph, test, columns))
    return _log_chances_of(model.fit(x, truth[train]), x_of_test, num_classes)


def class_texts(
    graph: Graph, truth: np.ndarray, train: np.ndarray, test: np.ndarray, num_classes: int
) -> np.ndarray | None:
    """Logistic regression on TF-IDF of the target's texts, as `class_trees`; None where there are none."""
    from sklearn.linear_model import LogisticRegression

    made = tf_idf(graph, train, test)
    if made is None or len(np.unique(truth[train])) < 2:
        return None
    model = LogisticRegression(C=10.0, max_iter=300).fit(made[0], truth[train])
    return _log_chances_of(model, made[1], num_classes)


def _log_chances_of(model: Any, x: Any, num_classes: int) -> np.ndarray:
    """A fitted classifier's, of all classes: the train part may lack some."""
    logs = np.full((x.shape[0], num_classes), np.log(LEAST_CHANCE))
    logs[:, model.classes_.astype(np.int64)] = np.log(np.maximum(model.predict_proba(x), LEAST_CHANCE))
    return logs


def has_numbers(graph: Graph, columns: Sequence[str]) -> bool:
    """Whether there is anything for trees to be fitted on: `columns`, or scalars."""
    return bool(columns) or any(n.encoding == "scalar" for n in graph.schema.node_types)


def numbers_beside(graph: Graph, label: str) -> tuple[str, ...]:
    """Number columns of the target other than the label."""
    columns = graph.schema.node_type(graph.schema.target).columns
    return tuple(c.name for c in columns if c.kind == "number" and c.name != label)


def tf_idf(graph: Graph, train: np.ndarray, test: np.ndarray) -> tuple[Any, Any] | None:
    """TF-IDF of the target's texts, words and pairs of words that come twice in `train`: sparse matrices of
    `train` and `test`; None of a target without texts, or of few examples."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    target = graph.schema.target
    document = graph.schema.document(target)
    columns = [c.name for c in graph.schema.node_type(target).columns if c.kind == "text"]
    columns = [document.column] if document is not None and document.column else columns
    if not columns or len(train) < MIN_TEXTS:
        return None
    texts = [graph.strings(target, name) for name in columns]

    def of(nodes: np.ndarray) -> list[str]:
        return [" ".join(column[v] for column in texts) for v in nodes.tolist()]

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    try:
        x = vectorizer.fit_transform(of(train))
    except ValueError:  # no word comes twice
        return None
    return x, vectorizer.transform(of(test))


def ridge(graph: Graph, truth: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray | None:
    """Ridge regression on TF-IDF of the target's texts: scores of `test`; None of a target without texts. The
    penalty is chosen on a tenth of `train`; then all is fitted."""
    from sklearn.linear_model import Ridge

    made = tf_idf(graph, train, test)
    if made is None:
        return None
    x, x_of_test = made
    order, held = np.random.default_rng(0).permutation(len(train)), len(train) // 10
    fit, rest = order[held:], order[:held]
    errors = {}
    for penalty in PENALTIES:
        said = Ridge(alpha=penalty, solver="sparse_cg").fit(x[fit], truth[train][fit]).predict(x[rest])
        errors[penalty] = float(np.mean((said - truth[train][rest]) ** 2))
    best = min(errors, key=lambda penalty: errors[penalty])
    model = Ridge(alpha=best, solver="sparse_cg").fit(x, truth[train])
    return np.asarray(model.predict(x_of_test), np.float64)


def ridge_of_others(
    graph: Graph, truth: np.ndarray, train: np.ndarray, num_folds: int = 5
) -> np.ndarray | None:
    """Scores of all nodes of the target by `ridge`: [N]; of those of `train`, cut into folds by a fixed
    order, by regressions that were fitted on the other folds alone. None where there are no texts, or few
    examples."""
    every = np.arange(len(truth))
    found = ridge(graph, truth, train, every)
    if found is None or len(train) < num_folds * MIN_TEXTS:
        return None
    for fold in np.array_split(np.random.default_rng(0).permutation(train), num_folds):
        own = ridge(graph, truth, np.setdiff1d(train, fold), fold)
        if own is None:
            return None
        found[fold] = own
    return found


def link_means(
    graph: Graph, truth: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[tuple[str, ...], np.ndarray] | None:
    """What the target links to, and scores of `test`: the mean train label, and how far that of each end lies
    from it, summed; an end without train examples adds nothing. None of a target without links.

    A link is a relation between the target and another type of which each of its nodes has one edge at most.
    """
    mean = float(truth[train].mean())
    ends = _linked_ends(graph)
    scores = np.full(len(test), mean)
    for end_of in ends.values():
        size = int(end_of.max(initial=-1)) + 2
        at = np.where(end_of < 0, size - 1, end_of)  # the last for nodes without the link
        num = np.bincount(at[train], minlength=size)
        total = np.bincount(at[train], truth[train] - mean, minlength=size)
        off = total / np.maximum(num, 1)
        off[-1] = 0.0
        scores += off[at[test]]
    return (tuple(ends), scores) if ends else None


def nearest_types(graph: Graph) -> tuple[EdgeType, ...]:
    """Relations of the target's most similar nodes."""
    target = graph.schema.target
    return tuple(r.edge_type for r in graph.schema.relations if r.nearest and r.edge_type[2] == target)


def nearest_means(
    graph: Graph, edge_type: EdgeType, truth: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Scores of `test`: the mean label of those of the most similar nodes that are of `train`, weighed by the
    softmax of their scores; the mean of `train` where there is none."""
    relation, is_train = graph.relation(edge_type), np.zeros(len(truth), bool)
    is_train[train] = True
    scores = np.full(len(test), truth[train].mean())
    for i, v in enumerate(test.tolist()):
        heads = relation.neighbors(v)
        own = is_train[heads]
        if own.any():
            begin = int(relation.begin[v])
            alike = np.exp(np.asarray(relation.numbers[SCORE][begin : begin + len(heads)], np.float64))[own]
            scores[i] = alike @ truth[heads[own]] / alike.sum()
    return scores


def _linked_ends(graph: Graph) -> dict[str, np.ndarray]:
    """By link the node at its other end, of each node of the target: [N], −1 for none."""
    target, ends = graph.schema.target, dict[str, np.ndarray]()
    seen: list[tuple[str, np.ndarray]] = []
    for relation in graph.schema.relations:
        src, name, dst = relation.edge_type
        other = src if dst == target else dst
        if relation.rule == "group" or target not in (src, dst) or graph.schema.is_numbered_as(other, target):
            continue
        first, heads = graph.relation(relation.edge_type).to_csr()
        tails = np.repeat(np.arange(len(first) - 1), np.diff(first))
        own, others = (tails, heads) if dst == target else (heads, tails)
        if len(np.unique(own)) == len(own):
            end_of = np.full(graph.num_nodes[target], -1, np.int64)
            end_of[own] = others
            # Both directions of a link tell the same
            if not any(other == kind and np.array_equal(end_of, one) for kind, one in seen):
                seen.append((other, end_of))
                ends.setdefault(name.removeprefix("rev_"), end_of)
    return ends


def earlier_means(
    graph: Graph, edge_type: EdgeType, truth: np.ndarray, train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """Scores of `test`: the mean label of the earlier members of a group, whatever part they are of, as they
    are known by then; without such the mean of `train`."""
    relation, is_known = graph.relation(edge_type), ~np.isnan(truth)
    heads = np.asarray(relation.indices)
    # Sums of the list up to each place: rows of a group are stretches of it
    num = np.concatenate([[0], np.cumsum(is_known[heads])])
    total = np.concatenate([[0.0], np.cumsum(np.where(is_known, truth, 0.0)[heads])])
    begin, end = np.asarray(relation.begin)[test], np.asarray(relation.end)[test]
    count, summed = num[end] - num[begin], total[end] - total[begin]
    if relation.rank is not None:  # the node itself is no earlier one
        own = (np.asarray(relation.rank)[test] < end - begin) & is_known[test]
        count, summed = count - own, summed - np.where(own, truth[test], 0.0)
    return np.where(count > 0, summed / np.maximum(count, 1), truth[train].mean())


def lookup(graph: Graph, truth: np.ndarray, train: np.ndarray, test: np.ndarray) -> np.ndarray | None:
    """Median train label of an example's cell, as the data set cuts them; None where it has no cells.

    A cell that the train part lacks falls back to the next coarser one, then to all.
    """
    cells_of_train = graph.dataset.cells(graph, train)
    if cells_of_train is None:
        return None
    labels = truth[train]
    medians = [
        {cell: float(np.median(labels[cells == cell])) for cell in np.unique(cells).tolist()}
        for cells in cells_of_train
    ]
    fallback = float(np.median(labels))
    cells_of_test = graph.dataset.cells(graph, test)
    assert cells_of_test is not None

    def score(row: tuple[int, ...]) -> float:
        return next((m[c] for m, c in zip(medians, row, strict=True) if c in m), fallback)

    return np.array([score(row) for row in zip(*(c.tolist() for c in cells_of_test), strict=True)])
